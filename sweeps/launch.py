"""Runs a study: what is missing is trained, pack by pack, here or by Slurm; then its table and report are made."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from lab.records import locked, read_json, write_json
from sweeps.collect import collect
from sweeps.exclusion import parse
from sweeps.failures import attempt
from sweeps.queue import Pack, Planner, TooLarge, enqueue, spread, work
from sweeps.slots import Slots
from sweeps.slurm import SlurmJob, submit
from sweeps.status import StudyReader, study_status
from sweeps.status_table import reasons, status_table
from sweeps.study import Arm, Scale, Study

if TYPE_CHECKING:
    from lab.config import RunConfig
    from lab.trackers import TrackerName

# Exit codes of `lab sweep run`.
DIVERGED, FAILED, STOPPED = 3, 4, 143


def prepared_arms(study: Study[Any], scale: Scale, root: Path) -> tuple[Arm, ...]:
    """The study's arms at `scale`, its text prepared first where that is still to do."""
    from sweeps.texts import prepare_text

    return study.checked_arms(prepare_text(scale.data, root), scale)


@dataclasses.dataclass(frozen=True)
class Launch:
    """How one process takes part in the training of a study.

    Attributes:
      packs: leave after so many packs; whoever finishes the last one makes the table.
      slots: runs side by side; chosen by `Slots` where None.
      track: mirrors that are kept of the run directories.
    """

    packs: int | None = None
    slots: int | None = None
    track: tuple[TrackerName, ...] = ()


def run_study(study: Study[Any], scale: Scale, root: Path, how: Launch = Launch()) -> int:
    """Trains the runs of a study that are not over, collects its table and draws its report.

    Any number of processes may do so at once, on any machines that share `root`; each run is trained by one of them.
    A pack that fails says why in its folder, and the others are trained all the same.

    Args:
      study: what to train.
      scale: one of its scales.
      root: folder of all results.
      how: this process's part in it.

    Returns:
      The exit code: 0, 143 where it was asked to stop and saved, 3 where runs diverged, 4 where runs failed.
    """
    started = time.monotonic()
    console = Console()
    label = study.label(scale)
    console.print(f"[bold]{label}[/bold]: {study.question}")
    arms = prepared_arms(study, scale, root)
    pending = sum(not status.over for status in study_status(arms, root))
    if pending:
        console.print(f"{pending} of {len(arms)} runs to train. Stop with Ctrl-C; run again to go on.")
        if not train_pending(label, arms, root, console, how):
            console.print("Stopped; everything is saved. Run the same command again to go on.")
            return STOPPED
    else:
        console.print(f"All {len(arms)} runs are done.")
    ended = study_status(arms, root)
    states = Counter(s.state for s in ended)
    over = states["done"] + states["diverged"]
    if how.packs is not None and over + states["failed"] < len(arms):
        console.print(f"{len(arms) - over - states['failed']} runs are left to other processes.")
    elif over:
        with locked(root / label, wait=True):
            collected = collect(label, arms, root, parse(study.exclude))
            console.print(f"Table: {collected.path} ({collected.rows} rows)")
            for line in collected.damaged:
                console.print(f"Left out: {line}", style="red", markup=False)
            if not states["failed"]:
                report(study, scale, collected.path, root, console)
    for paragraph in reasons(ended):
        console.print(paragraph)
    console.print(f"Took {time.monotonic() - started:.0f} s.")
    return FAILED if states["failed"] else DIVERGED if states["diverged"] else 0


def submit_study(
    study: Study[Any], scale: Scale, root: Path, job: SlurmJob, arguments: Sequence[str], cpus: int
) -> int:
    """Queues the packs of a study that are not over, and submits Slurm tasks that train them; returns the exit code.

    Args:
      study: what to train.
      scale: one of its scales.
      root: folder of all results, on a file system that the nodes share.
      job: what to ask of Slurm.
      arguments: the command line of each task, after `lab`.
      cpus: CPU cores of each task; on CPUs, runs trained side by side.

    Raises:
      LabError: where there is no Slurm, or it refuses the job.
    """
    arms = prepared_arms(study, scale, root)
    runs = {arm.run.run_id: arm.run for arm in arms}
    packs = enqueue(runs, root, planner(arms, lambda _: cpus, job.tasks), store=not job.dry_run)
    if not packs:
        return run_study(study, scale, root)
    Console().print(submit(study.label(scale), arguments, root, job, cpus, len(packs)), markup=False, soft_wrap=True)
    return 0


def report(study: Study[Any], scale: Scale, table: Path, root: Path, console: Console) -> None:
    """Draws the study's report below `root` unless the one there was drawn from this very table."""
    from figures.studies import STUDIES, draw
    from sweeps.tables import found

    if study.name not in STUDIES:
        return
    folder = root / study.label(scale)
    drawn = folder / ".drawn.json"
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    if not drawn.exists() or read_json(drawn)["table"] != digest:
        with console.status("Fitting laws and drawing the report ..."):
            summary = draw(study.name, found(study, root, scale.name, table), folder)
        write_json(drawn, {"table": digest, "summary": summary})
    console.print(read_json(drawn)["summary"], markup=False, soft_wrap=True)


def planner(arms: Sequence[Arm], slots: Callable[[Sequence[RunConfig]], int], parts: int = 1) -> Planner:
    """Plans packs of a study's runs: one for each order and shape, or more where `parts` asks for so many in all.

    Args:
      slots: runs side by side in a pack of these runs.
    """
    from lab.pack import plan_pack
    from lab.train import STEPS_PER_DISPATCH
    from sweeps.plan import marks, programs

    pauses = marks(arms)

    def plan(runs: Sequence[RunConfig]) -> list[Pack]:
        groups = spread(programs(arms, runs), parts)
        return [Pack(plan_pack(group, slots(group), STEPS_PER_DISPATCH, pauses), tuple(group)) for group in groups]

    return plan


def train_pending(label: str, arms: Sequence[Arm], root: Path, console: Console, how: Launch) -> bool:
    """Trains runs until none is left that no other process trains; returns False where it was asked to stop."""
    import jax

    from lab.memory import is_out_of_memory
    from lab.pack import shape_of
    from lab.trackers import mirrored
    from lab.train import Execution, Stopped, Trainer, enable_compilation_cache, pack_dir
    from sweeps.plan import marks

    enable_compilation_cache(root)
    execution = Execution(root, slots=len(jax.devices()))
    runs = {arm.run.run_id: arm.run for arm in arms}
    slots = Slots(execution, how.slots, marks(arms), console.print)
    plan = planner(arms, slots)
    plans = [pack.plan for pack in enqueue(runs, root, plan, keep=how.packs is not None)]
    idle = sum(p.idle_share * p.dispatches for p in plans) / max(1, sum(p.dispatches for p in plans))
    console.print(f"{len(plans)} packs on {len(jax.devices())} devices; slots stand idle {idle:.0%} of the time.")
    watch = _Watch(label, arms, root, console)

    def train_one(pack: Pack) -> bool:
        def train() -> None:
            watch.refresh()
            try:
                Trainer(pack.plan, pack.runs, execution, observer).train()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                slots.halve(shape_of(pack.runs[0]), pack.plan.slots, error)
                raise TooLarge from None  # with the failed attempt's buffers, which hang in the traceback

        failure = attempt(pack_dir(root, pack.plan), train, passing=(Stopped, TooLarge))
        if failure is not None:
            console.print(f"A pack of {len(pack.runs)} runs failed: {failure.reason}", style="red", markup=False)
        return failure is None

    live = Live(watch, console=console, refresh_per_second=1) if console.is_terminal else contextlib.nullcontext()
    with mirrored(watch, root, how.track) as observer, live:
        try:
            work(runs, root, plan, train_one, console.print, how.packs)
        except Stopped:
            return False
    return True


class _Watch:
    """The live table: told of progress by the trainer, drawn by rich; a line a run where there is no terminal."""

    def __init__(self, study: str, arms: Sequence[Arm], root: Path, console: Console):
        self.study = study
        self.console = console
        self.reader = StudyReader(arms, root)
        self.refresh()
        self.cost = {arm.run.run_id: _cost(arm) for arm in arms}
        self.started = time.monotonic()
        self.share_before = self._share()

    def refresh(self) -> None:
        """Reads from the files how far other processes are."""
        self.runs = {s.run_id: s for s in self.reader.read()}

    def _share(self) -> float:
        done = sum(self.cost[s.run_id] * (1.0 if s.over else s.step / s.steps) for s in self.runs.values())
        return done / sum(self.cost.values())

    def progress(self, run_id: str, steps_done: int, loss: float) -> None:
        if self.runs[run_id].over:
            return  # it ended after the checkpoint that training went on from
        self.runs[run_id] = dataclasses.replace(self.runs[run_id], state="running", step=steps_done, loss=loss)

    def finished(self, run_id: str, result: Mapping[str, Any]) -> None:
        if self.runs[run_id].over:
            return
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
