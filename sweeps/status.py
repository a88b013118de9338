"""Where every run of a study stands, read from files alone: safe and quick while others train it.

A run is over when its `result.json` is there. Until then its pack says where it stands: a pack that a process holds is
running, on whichever machine; one whose last attempt failed says why. A pack that nobody holds was stopped.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lab.config import ModelConfig
from lab.errors import LabError
from lab.flops import flops_per_token
from lab.records import RunDir, read_json
from sweeps.failures import Failure, read_failure
from sweeps.study import Arm

State = Literal["done", "diverged", "failed", "running", "stopped", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "failed", "diverged", "stopped", "waiting")
# Where a file system has no locks, a run that logged this recently is taken to be alive.
ALIVE_WITHIN_S = 120.0


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
      state: `waiting` was never begun; `stopped` was begun, and no process trains it now.
      step, steps, first_step: updates done, updates in all, and those that its trunk had done before it.
      loss: mean over evaluation languages once the run is over, else the newest training loss; nats per token.
      tokens_per_s: its share of the speed of its pack.
      seconds: of training so far, shared among the runs of a pack; None where nothing says.
      flops: of all its own steps.
      reason: why it diverged or failed.
      log: last lines of the log of a failure.
      pack: folder of the unfinished pack that it trains in.
    """

    arm: str
    run_id: str
    state: State
    step: int
    steps: int
    first_step: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    flops: float = 0.0
    reason: str | None = None
    log: tuple[str, ...] = ()
    pack: str | None = None

    @property
    def over(self) -> bool:
        return self.state in ("done", "diverged")

    @property
    def share(self) -> float:
        """How far it is, 0 to 1."""
        if self.over:
            return 1.0
        return max(0, self.step - self.first_step) / (self.steps - self.first_step)


@dataclasses.dataclass(frozen=True)
class PackState:
    """A pack that was begun and is not finished.

    Attributes:
      path: its folder.
      members: the runs that its plan places.
      held: whether a process trains it now; None where the file system cannot say.
      failure: why its last attempt ended, if it failed.
    """

    path: Path
    members: tuple[str, ...]
    held: bool | None
    failure: Failure | None


def open_packs(root: Path) -> list[PackState]:
    """The packs below `root` that are not finished."""
    packs = []
    for folder in _folders(root / "packs"):
        path = root / "packs" / folder
        if (path / "finished").exists():
            continue
        try:
            plan = read_json(path / "plan.json")["plan"]
            members = tuple(p["run_id"] for p in plan["placements"])
        except (LabError, KeyError, TypeError):
            continue  # not begun, or damaged: the launcher says so
        packs.append(PackState(path, members, is_held(path), read_failure(path)))
    return packs


def is_held(directory: Path) -> bool | None:
    """Whether a process holds `directory` (`lab.records.locked`); None where the file system has no locks."""
    try:
        with (directory / ".lock").open() as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(f, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def begun_runs(root: Path) -> set[str]:
    """The ids of all runs below `root` that have a directory."""
    return _folders(root / "runs")


def _folders(path: Path) -> set[str]:
    try:
        with os.scandir(path) as entries:
            return {e.name for e in entries if e.is_dir()}
    except FileNotFoundError:
        return set()


class StudyReader:
    """Reads the state of all runs of a study, again and again: what is over is read once."""

    def __init__(self, arms: Sequence[Arm], root: Path):
        self.root = root
        per_token: dict[ModelConfig, float] = {}
        self.waiting = []
        for arm in arms:
            run = arm.run
            if run.model not in per_token:
                per_token[run.model] = float(flops_per_token(run.model).exact)
            own = run.steps - run.first_step
            flops = per_token[run.model] * own * run.batch * run.model.context
            first = run.first_step
            self.waiting.append(
                RunStatus(arm.name, run.run_id, "waiting", first, run.steps, first_step=first, flops=flops)
            )
        self._over: dict[str, tuple[int, RunStatus]] = {}

    def read(self) -> list[RunStatus]:
        """One status a run, in the order of the arms."""
        begun = begun_runs(self.root)
        packs = {run_id: pack for pack in open_packs(self.root) for run_id in pack.members}
        return [
            self._read(blank, packs.get(blank.run_id))
            if blank.run_id in begun
            else _unfinished(blank, packs.get(blank.run_id), None)
            for blank in self.waiting
        ]

    def _read(self, blank: RunStatus, pack: PackState | None) -> RunStatus:
        directory = RunDir(self.root, blank.run_id)
        try:
            written = directory.result_file.stat().st_mtime_ns
        except FileNotFoundError:
            return _unfinished(blank, pack, directory)
        known = self._over.get(blank.run_id)
        if known is None or known[0] != written:
            self._over[blank.run_id] = known = (written, _over(blank, directory))
        return known[1]


def study_status(arms: Sequence[Arm], root: Path) -> list[RunStatus]:
    """Where every run stands, in the order of the arms."""
    return StudyReader(arms, root).read()


def _over(blank: RunStatus, directory: RunDir) -> RunStatus:
    try:
        result = read_json(directory.result_file)
        run = result["run"]
        losses = [e["loss"] for e in result["evaluations"] if e["loss"] is not None]
        return dataclasses.replace(
            blank,
            state=run["status"],
            step=result["steps_done"],
            loss=sum(losses) / len(losses) if losses else None,
            tokens_per_s=result["tokens_per_s"],
            seconds=run["wall_s"],
            reason=run["exclusion"],
        )
    except LabError as error:
        return dataclasses.replace(blank, state="failed", reason=str(error))
    except (KeyError, TypeError) as error:
        reason = f"{directory.result_file} is not a result ({error}). Move {directory.path} away to train it again."
        return dataclasses.replace(blank, state="failed", reason=reason)


def _unfinished(blank: RunStatus, pack: PackState | None, directory: RunDir | None) -> RunStatus:
    """A run without a result; `directory` is None where it was never begun."""
    last = directory.metrics.last() if directory else None
    status = blank
    if last is not None:
        seconds = last.get("wall_s")
        trained = last["tokens"] * (1 - blank.first_step / last["step"])
        status = dataclasses.replace(
            blank,
            state="stopped",
            step=int(last["step"]),
            loss=last["loss"],
            seconds=seconds,
            tokens_per_s=trained / seconds if seconds else None,
        )
    if pack is None:
        return status
    status = dataclasses.replace(status, pack=str(pack.path))
    held = pack.held
    if held is None and directory is not None and last is not None:
        held = time.time() - directory.metrics.path.stat().st_mtime < ALIVE_WITHIN_S
    if held:
        return dataclasses.replace(status, state="running") if directory else status
    if pack.failure is not None:
        return dataclasses.replace(status, state="failed", reason=pack.failure.reason, log=pack.failure.log)
    return status


@dataclasses.dataclass(frozen=True)
class ArmStatus:
    """The runs that share an arm's name.

    Attributes:
      states: how many runs are in each state.
      share: how far they are together, 0 to 1.
      loss: mean evaluation loss of the runs that are over, or None.
      train_loss: mean newest training loss of the others, or None.
      to_go_s: seconds of training that one pack after another would still take, or None while no speed is known.
    """

    arm: str
    runs: int
    states: dict[State, int]
    share: float
    loss: float | None
    train_loss: float | None
    to_go_s: float | None


def by_arm(runs: Sequence[RunStatus]) -> list[ArmStatus]:
    """Runs summed up by arm, in the order in which arms appear.

    What is to go is counted at the arm's own speed so far, or at that of all arms where it has none.
    """
    groups: dict[str, list[RunStatus]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    everywhere = _seconds_per_flop(runs)
    summary = []
    for arm, members in groups.items():
        speed = _seconds_per_flop(members) or everywhere
        left = sum((1 - m.share) * m.flops for m in members)
        summary.append(
            ArmStatus(
                arm=arm,
                runs=len(members),
                states={s: n for s in STATES if (n := sum(m.state == s for m in members))},
                share=sum(m.share * m.flops for m in members) / sum(m.flops for m in members),
                loss=_mean([m.loss for m in members if m.over]),
                train_loss=_mean([m.loss for m in members if not m.over]),
                to_go_s=None if speed is None else speed * left,
            )
        )
    return summary


def _seconds_per_flop(runs: Sequence[RunStatus]) -> float | None:
    timed = [(r.seconds, r.share * r.flops) for r in runs if r.seconds]
    flops = sum(f for _, f in timed)
    return sum(s for s, _ in timed) / flops if flops else None


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None
