"""The one training loop: a pack of runs, slots refilled as runs end, saved and resumed without losing an example."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from lab import distributed, optim, step
from lab.checkpoint import Checkpoints
from lab.config import RunConfig, canonical
from lab.errors import LabError
from lab.pack import Mark, PackPlan, Placement, plan_pack, read_plan
from lab.records import RunDir, atomic_write, locked, read_json, write_json
from lab.sharding import make_mesh, put_batches
from lab.slot import ActiveRun

STEPS_PER_DISPATCH = 8


@dataclasses.dataclass(frozen=True)
class Execution:
    """How runs are executed: nothing of this is identity.

    Attributes:
      root: folder for everything the laboratory writes.
      slots: runs trained side by side.
      checkpoint_every_s: seconds between checkpoints: what a kill can cost.
      data, fsdp, model: devices that share each run: its batch, its batch and parameters, its matrices.
    """

    root: Path
    slots: int
    checkpoint_every_s: float = 30.0
    data: int = 1
    fsdp: int = 1
    model: int = 1

    def mesh(self, slots: int) -> Mesh:
        """The mesh for `slots` runs: as many device groups as there are and as divide the slots evenly."""
        available = max(1, len(jax.devices()) // (self.data * self.fsdp * self.model))
        groups = max(g for g in range(1, available + 1) if slots % g == 0)
        return make_mesh(groups, self.data, self.fsdp, self.model)


class Observer(Protocol):
    """Told of progress; never changes it."""

    def progress(self, run_id: str, steps_done: int, loss: float) -> None: ...

    def finished(self, run_id: str, result: Mapping[str, Any]) -> None: ...


class Stopped(Exception):
    """The process was asked to end; everything is saved."""


class Trainer:
    """Trains the runs of one stored plan. `runs` are all of one shape."""

    def __init__(self, plan: PackPlan, runs: Sequence[RunConfig], execution: Execution, observer: Observer):
        self.plan = plan
        self.runs = {run.run_id: run for run in runs}
        self.execution = execution
        self.observer = observer
        model = runs[0].model
        if plan.slots > 1 and not distributed.alone():
            raise LabError("Several processes train one run together, not a pack of runs.", "Start each run by itself.")
        shared = execution.data * execution.fsdp
        if runs[0].batch % shared:
            raise LabError(f"A batch of {runs[0].batch} sequences cannot be cut over {shared} devices.")
        self.program = step.Program(model, execution.mesh(plan.slots))
        self.directory = pack_dir(execution.root, plan)
        # A state that trains on a CPU is small and saved in a moment; elsewhere training need not wait for the disk.
        background = jax.default_backend() != "cpu"
        self.checkpoints = Checkpoints(
            self.directory / "checkpoints", {"model": canonical(model)}, background=background
        )
        self.state = step.blank_state(self.program, plan.slots)
        self.idle = optim.hyper_of(runs[0].optim, 0)
        self.slots: list[ActiveRun | None] = [None] * plan.slots
        self.starts: dict[int, list[Placement]] = {}
        for placement in plan.placements:
            self.starts.setdefault(placement.start, []).append(placement)

    def train(self) -> None:
        """Trains to the end of the plan, from the last checkpoint if there is one.

        Raises:
          Stopped: when SIGTERM or Ctrl-C asked for it; the state is saved.
          LabError: when the disk is full or a checkpoint does not fit.
        """
        with _stop_requests() as stop_requested, self.checkpoints:
            dispatch = self._resume()
            saved_at = time.monotonic()
            in_flight: _InFlight | None = None
            while dispatch < self.plan.dispatches:
                self._refill(dispatch)
                started = time.monotonic()
                marks = [active.mark_of(dispatch) if active else None for active in self.slots]
                self.state, metrics = step.train_steps(
                    self.program,
                    self.state,
                    put_batches(self.program.mesh, self._batches(dispatch)),
                    optim.stack([self._hyper(active, mark) for active, mark in zip(self.slots, marks, strict=True)]),
                )
                # The metrics of the dispatch before are read while this one computes.
                if in_flight is not None:
                    self._log(in_flight)
                in_flight = _InFlight(list(self.slots), marks, metrics)
                dispatch += 1
                pausing = [s for s in self.slots if s is not None and self._pauses(s, dispatch)]
                due = time.monotonic() - saved_at > self.execution.checkpoint_every_s
                # Asked once: a request that comes later is saved for one dispatch later.
                stop, due = distributed.any_of(stop_requested(), due)
                save = stop or due
                if pausing or save:
                    self._log(in_flight)
                    in_flight = None
                self._share_time(time.monotonic() - started)
                for active in pausing:
                    self._pause(active, dispatch - 1)
                if save:
                    self._save(dispatch)
                    saved_at = time.monotonic()
                if stop:
                    self.checkpoints.wait()
                    raise Stopped
            atomic_write(self.directory / "finished", "")

    def _resume(self) -> int:
        restored = self.checkpoints.restore(self.state)
        if restored is None:
            return 0
        dispatch, self.state, record = restored
        for placement in self.plan.placements:
            known = record["slots"].get(str(placement.slot))
            if known is not None and known["run_id"] == placement.run_id:
                active = self._open(placement)
                active.resume(known)
                self.slots[placement.slot] = active
            elif placement.start < dispatch and RunDir(self.execution.root, placement.run_id).result() is None:
                raise LabError(
                    f"The checkpoint of pack {self.directory} is past run {placement.run_id}, whose result is gone.",
                    "Remove that pack's folder to train the run again.",
                )
        return dispatch

    def _open(self, placement: Placement) -> ActiveRun:
        return ActiveRun(self.plan, placement, self.runs[placement.run_id], self.execution.root)

    def _refill(self, dispatch: int) -> None:
        for placement in self.starts.get(dispatch, ()):
            active = self._open(placement)
            alone = self.plan.slots == 1  # then it may be spread over the whole mesh and never fit on one device
            state = active.start(self.program if alone else dataclasses.replace(self.program, mesh=make_mesh()))
            self.slots[placement.slot] = active
            if state is None:
                self._pause(active, dispatch)
            else:
                self.state = state if alone else step.insert(self.program, self.state, placement.slot, state)

    def _hyper(self, active: ActiveRun | None, mark: Mark | None) -> optim.Hyper:
        if active is None or mark is None:
            return self.idle
        return active.hyper._replace(until=np.int32(mark.step))

    def _batches(self, dispatch: int) -> np.ndarray:
        run = next(iter(self.runs.values()))
        shape = (self.plan.steps_per_dispatch, self.plan.slots, run.batch, run.model.context + 1)
        batches_KxRxBxT1 = np.zeros(shape, np.int32)
        for slot, active in enumerate(self.slots):
            if active is not None:
                for k, batch_BxT1 in enumerate(active.batches(dispatch)):
                    batches_KxRxBxT1[k, slot] = batch_BxT1
        return batches_KxRxBxT1

    def _log(self, in_flight: _InFlight) -> None:
        host = jax.device_get(jax.tree.map(distributed.whole, in_flight.metrics))
        for slot, (active, mark) in enumerate(zip(in_flight.slots, in_flight.marks, strict=True)):
            if active is not None and mark is not None:
                active.log(step.Metrics(*(field[:, slot] for field in host)), mark.step)
                self.observer.progress(active.run.run_id, active.steps_done, active.train_loss)

    def _pauses(self, active: ActiveRun, dispatch: int) -> bool:
        """Whether the dispatch before `dispatch` brought a run to a mark."""
        placement = active.placement
        return dispatch == placement.stop or active.mark_of(dispatch - 1) != active.mark_of(dispatch)

    def _pause(self, active: ActiveRun, dispatch: int) -> None:
        slot = active.placement.slot
        single = self.state if self.plan.slots == 1 else step.extract(self.state, slot)
        result = active.pause(self.program, active.mark_of(dispatch), single)
        if result is not None:
            self.slots[slot] = None
            self.observer.finished(active.run.run_id, result)

    def _share_time(self, seconds: float) -> None:
        active = [s for s in self.slots if s is not None]
        for one in active:
            one.wall_s += seconds / len(active)

    def _save(self, dispatch: int) -> None:
        record = {"slots": {str(s.placement.slot): s.record() for s in self.slots if s is not None}}
        self.checkpoints.save(dispatch, self.state, record)


class _InFlight(NamedTuple):
    """A dispatch whose metrics are still to be read."""

    slots: list[ActiveRun | None]
    marks: list[Mark | None]
    metrics: step.Metrics


def pack_dir(root: Path, plan: PackPlan) -> Path:
    return root / "packs" / plan.pack_id


def store_plan(root: Path, plan: PackPlan) -> None:
    write_json(pack_dir(root, plan) / "plan.json", {"plan": canonical(plan)})


def unfinished_plans(root: Path) -> list[PackPlan]:
    """Stored plans whose packs are not finished, oldest first."""
    found = []
    for file in (root / "packs").glob("*/plan.json"):
        if (file.parent / "finished").exists():
            continue
        try:
            found.append((file.stat().st_mtime_ns, file.parent.name, read_json(file)["plan"]))
        except (FileNotFoundError, LabError):
            if file.exists():
                raise
            # Else another process has taken it away meanwhile.
    return [read_plan(form) for *_, form in sorted(found, key=lambda f: f[:2])]


def train(runs: Sequence[RunConfig], execution: Execution, observer: Observer, plan: PackPlan | None = None) -> None:
    """Trains `runs`, all of one shape, to their results; goes on where an earlier process stopped.

    Args:
      runs: the runs; those of `plan` where one is given.
      execution: how to run them.
      observer: told of progress.
      plan: a stored plan to replay; by default a new one is made.

    Raises:
      Stopped: when asked to end; all is saved.
      LabError: when another process trains the same pack.
    """
    plan = plan or plan_pack(runs, execution.slots, STEPS_PER_DISPATCH)
    with contextlib.ExitStack() as held:
        distributed.from_leader(lambda: held.enter_context(locked(pack_dir(execution.root, plan))))
        store_plan(execution.root, plan)
        Trainer(plan, runs, execution, observer).train()


def enable_compilation_cache(root: Path) -> None:
    """Keeps compiled programs on disk, so that a restarted sweep does not compile again."""
    jax.config.update("jax_compilation_cache_dir", str((root / "cache" / "xla").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """SIGTERM or Ctrl-C asks to stop at the next dispatch; a second Ctrl-C stops at once."""
    requested = False

    def request(signum: int, _: object) -> None:
        nonlocal requested
        if requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        requested = True

    kept = {s: signal.signal(s, request) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: requested
    finally:
        for s, handler in kept.items():
            signal.signal(s, handler)
