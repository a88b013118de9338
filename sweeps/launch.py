"""Runs a study on this machine: what is missing is trained, pack by pack; then its table and report are made."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from lab.records import Held, read_json, write_json
from sweeps.collect import collect
from sweeps.exclusion import parse
from sweeps.failures import attempt
from sweeps.status import study_status
from sweeps.status_table import reasons, status_table
from sweeps.study import Arm, Scale, Study

if TYPE_CHECKING:
    from lab.config import RunConfig
    from lab.pack import PackPlan

# Exit codes of `lab sweep run`.
DIVERGED, FAILED = 3, 4


def prepared_arms(study: Study[Any], scale: Scale, root: Path) -> tuple[Arm, ...]:
    """The study's arms at `scale`, its text prepared first where that is still to do."""
    from lab.data.prepare import prepare

    return study.checked_arms(prepare(scale.data.corpora, scale.data.vocab, scale.data.joint, root), scale)


def run_study(study: Study[Any], scale: Scale, root: Path) -> int:
    """Trains the runs of a study that are not over, collects its table and draws its report.

    A pack that fails says why in its folder, and the others are trained all the same.

    Returns the exit code: 0, 143 where it was asked to stop and saved, 3 where runs diverged, 4 where runs failed.
    """
    started = time.monotonic()
    console = Console()
    label = study.label(scale)
    console.print(f"[bold]{label}[/bold]: {study.question}")
    arms = prepared_arms(study, scale, root)
    runs = study_status(arms, root)
    pending = [arm for arm, status in zip(arms, runs, strict=True) if not status.over]
    if pending:
        console.print(f"{len(pending)} of {len(arms)} runs to train. Stop with Ctrl-C; run again to go on.")
        if not train_pending(label, arms, pending, root, console):
            console.print("Stopped; everything is saved. Run the same command again to go on.")
            return 143
    else:
        console.print(f"All {len(arms)} runs are done.")
    ended = study_status(arms, root)
    states = Counter(s.state for s in ended)
    if states["done"] or states["diverged"]:
        collected = collect(label, arms, root, parse(study.exclude))
        console.print(f"Table: {collected.path} ({collected.rows} rows)")
        for line in collected.damaged:
            console.print(f"Left out: {line}", style="red", markup=False)
        if not states["failed"]:
            report(study.name, collected.path, root / label, console)
    for paragraph in reasons(ended):
        console.print(paragraph)
    console.print(f"Took {time.monotonic() - started:.0f} s.")
    return FAILED if states["failed"] else DIVERGED if states["diverged"] else 0


def report(study: str, table: Path, folder: Path, console: Console) -> None:
    """Draws the study's report into `folder` unless the one there was drawn from this very table."""
    from figures.studies import STUDIES, draw

    if study not in STUDIES:
        return
    drawn = folder / ".drawn.json"
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    if not drawn.exists() or read_json(drawn)["table"] != digest:
        with console.status("Fitting laws and drawing the report ..."):
            summary = draw(study, table, folder)
        write_json(drawn, {"table": digest, "summary": summary})
    console.print(read_json(drawn)["summary"], markup=False, soft_wrap=True)


def train_pending(study: str, arms: Sequence[Arm], pending: Sequence[Arm], root: Path, console: Console) -> bool:
    """Trains every pending run; returns whether it got to the end (False: asked to stop)."""
    import jax

    from lab.pack import group_by_shape, plan_pack
    from lab.train import (
        STEPS_PER_DISPATCH,
        Execution,
        Stopped,
        enable_compilation_cache,
        pack_dir,
        train,
        unfinished_plans,
    )

    enable_compilation_cache(root)
    execution = Execution(root, slots=len(jax.devices()))
    by_id = {arm.run.run_id: arm.run for arm in arms}
    todo = {arm.run.run_id: arm.run for arm in pending}
    packs: list[tuple[PackPlan, list[RunConfig]]] = []
    for plan in unfinished_plans(root):
        members = [p.run_id for p in plan.placements]
        if any(m in todo for m in members) and all(m in by_id for m in members):
            packs.append((plan, [by_id[m] for m in members]))
            for member in members:
                todo.pop(member, None)
    groups = group_by_shape(list(todo.values()))
    for group in groups:
        packs.append((plan_pack(group, execution.slots, STEPS_PER_DISPATCH), group))
    idle = sum(plan.idle_share * plan.dispatches for plan, _ in packs) / sum(plan.dispatches for plan, _ in packs)
    console.print(f"{len(packs)} programs on {len(jax.devices())} devices; slots stand idle {idle:.0%} of the time.")
    watch = _Watch(study, arms, root, console)
    with Live(watch, console=console, refresh_per_second=1) if console.is_terminal else contextlib.nullcontext():
        for plan, members_ in packs:
            try:
                failure = attempt(
                    pack_dir(root, plan),
                    functools.partial(train, members_, execution, watch, plan),
                    passing=(Stopped, Held),
                )
            except Stopped:
                return False
            if failure is not None:
                console.print(f"A pack of {len(members_)} runs failed: {failure.reason}", style="red", markup=False)
    return True


class _Watch:
    """The live table: told of progress by the trainer, drawn by rich; a line a run where there is no terminal."""

    def __init__(self, study: str, arms: Sequence[Arm], root: Path, console: Console):
        self.study = study
        self.console = console
        self.runs = {s.run_id: s for s in study_status(arms, root)}
        self.cost = {arm.run.run_id: _cost(arm) for arm in arms}
        self.started = time.monotonic()
        self.share_before = self._share()

    def _share(self) -> float:
        done = sum(self.cost[s.run_id] * (1.0 if s.over else s.step / s.steps) for s in self.runs.values())
        return done / sum(self.cost.values())

    def progress(self, run_id: str, steps_done: int, loss: float) -> None:
        self.runs[run_id] = dataclasses.replace(self.runs[run_id], state="running", step=steps_done, loss=loss)

    def finished(self, run_id: str, result: Mapping[str, Any]) -> None:
        losses = [e["loss"] for e in result["evaluations"] if e["loss"] is not None]
        self.runs[run_id] = dataclasses.replace(
            self.runs[run_id],
            state=result["run"]["status"],
            step=result["steps_done"],
            loss=sum(losses) / len(losses) if losses else None,
        )
        if not self.console.is_terminal:
            run, over = self.runs[run_id], sum(r.over for r in self.runs.values())
            loss = f"{run.loss:.3f} nats per token" if run.loss else run.state
            self.console.print(f"[{over}/{len(self.runs)}] {run.arm}: {loss}", markup=False)

    def __rich__(self) -> Any:
        elapsed = time.monotonic() - self.started
        gained = self._share() - self.share_before
        eta = f"about {(1 - self._share()) / gained * elapsed:.0f} s to go" if gained > 0.01 else "compiling"
        return status_table(self.study, list(self.runs.values()), f"{elapsed:.0f} s, {eta}")


def _cost(arm: Arm) -> float:
    from lab.flops import flops_per_token

    return float(flops_per_token(arm.run.model).exact * arm.run.tokens_seen)
