"""Where every run of a study stands, read from the run directories alone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.progress_bar import ProgressBar
from rich.table import Table

from lab.records import RunDir
from sweeps.study import Arm

State = Literal["done", "diverged", "running", "stopped", "waiting"]
RUNNING_WITHIN_S = 120.0  # a run that logged this recently is taken to be alive


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """One run: its state, how far it is, and its newest loss (training loss until the run is over)."""

    arm: str
    run_id: str
    state: State
    step: int
    steps: int
    loss: float | None
    tokens_per_s: float | None
    reason: str | None

    @property
    def over(self) -> bool:
        return self.state in ("done", "diverged")


def run_status(arm: Arm, root: Path) -> RunStatus:
    directory = RunDir(root, arm.run.run_id)

    def status(state: State, step: int, loss: Any = None, speed: Any = None, reason: Any = None) -> RunStatus:
        return RunStatus(arm.name, arm.run.run_id, state, step, arm.run.steps, loss, speed, reason)

    result = directory.result()
    if result is not None:
        run = result["run"]
        losses = [e["loss"] for e in result["evaluations"] if e["loss"] is not None]
        loss = sum(losses) / len(losses) if losses else None
        return status(run["status"], result["steps_done"], loss, result["tokens_per_s"], run["exclusion"])
    last = directory.last_metrics()
    if last is None:
        return status("waiting", 0)
    alive = time.time() - directory.metrics_file.stat().st_mtime < RUNNING_WITHIN_S
    return status("running" if alive else "stopped", int(last["step"]), last["loss"], last.get("tokens_per_s"))


def study_status(arms: Sequence[Arm], root: Path) -> list[RunStatus]:
    return [run_status(arm, root) for arm in arms]


@dataclasses.dataclass(frozen=True)
class ArmStatus:
    """The runs that share an arm's name."""

    arm: str
    runs: int
    done: int
    diverged: int
    running: int
    share: float
    loss: float | None


def by_arm(runs: Sequence[RunStatus]) -> list[ArmStatus]:
    """Runs summed up by arm, in the order in which arms appear; `loss` is the mean over runs that are over."""
    groups: dict[str, list[RunStatus]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    summary = []
    for arm, members in groups.items():
        losses = [m.loss for m in members if m.over and m.loss is not None]
        summary.append(
            ArmStatus(
                arm=arm,
                runs=len(members),
                done=sum(m.state == "done" for m in members),
                diverged=sum(m.state == "diverged" for m in members),
                running=sum(m.state == "running" for m in members),
                share=sum(m.steps if m.over else m.step for m in members) / sum(m.steps for m in members),
                loss=sum(losses) / len(losses) if losses else None,
            )
        )
    return summary


def status_table(study: str, runs: Sequence[RunStatus], footer: str = "") -> Table:
    """One line an arm, and a line for the whole study."""
    table = Table(title=f"Study {study}", caption=footer or None)
    for name, justify in (("arm", "left"), ("done", "right"), ("progress", "left"), ("loss", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for arm in by_arm(runs):
        notes = [f"{arm.running} running"] if arm.running else []
        notes += [f"{arm.diverged} diverged"] if arm.diverged else []
        table.add_row(
            arm.arm,
            f"{arm.done}/{arm.runs}",
            ProgressBar(total=1.0, completed=arm.share, width=20),
            "" if arm.loss is None else f"{arm.loss:.3f}",
            ", ".join(notes),
        )
    done = sum(r.over for r in runs)
    steps = sum(r.steps for r in runs)
    share = sum(r.steps if r.over else r.step for r in runs) / steps
    table.add_section()
    table.add_row("all", f"{done}/{len(runs)}", ProgressBar(total=1.0, completed=share, width=20), "", "")
    return table
