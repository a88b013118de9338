"""The one training loop: a pack of runs, slots refilled as runs end, saved and resumed without losing an example."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from lab import optim, step
from lab.checkpoint import Checkpoints
from lab.config import RunConfig, canonical
from lab.data.stream import chain
from lab.errors import LabError
from lab.evaluate.languages import evaluate
from lab.pack import PackPlan, Placement, plan_pack
from lab.records import RunDir, atomic_write, locked, read_json, write_json
from lab.result import Outcome
from lab.result import result as make_result
from lab.rundata import RunData, open_run
from lab.sharding import make_mesh, put_batches

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
        shared = execution.data * execution.fsdp
        if runs[0].batch % shared:
            raise LabError(f"A batch of {runs[0].batch} sequences cannot be cut over {shared} devices.")
        self.program = step.Program(model, execution.mesh(plan.slots))
        self.directory = pack_dir(execution.root, plan)
        self.checkpoints = Checkpoints(self.directory / "checkpoints", {"model": canonical(model)})
        self.state = step.init_state(self.program, [0] * plan.slots)
        self.idle = optim.hyper_of(runs[0].optim, 0)
        self.slots: list[_Active | None] = [None] * plan.slots

    def train(self) -> None:
        """Trains to the end of the plan, from the last checkpoint if there is one.

        Raises:
          Stopped: when SIGTERM or Ctrl-C asked for it; the state is saved.
          LabError: when the disk is full or a checkpoint does not fit.
        """
        with _stop_requests() as stop_requested, self.checkpoints:
            dispatch = self._resume()
            saved_at = time.monotonic()
            in_flight: tuple[list[_Active | None], step.Metrics] | None = None
            while dispatch < self.plan.dispatches:
                self._refill(dispatch)
                started = time.monotonic()
                batches = self._batches(dispatch)
                hyper = optim.stack([s.hyper if s else self.idle for s in self.slots])
                self.state, metrics = step.train_steps(
                    self.program, self.state, put_batches(self.program.mesh, batches), hyper
                )
                # The metrics of the dispatch before are read while this one computes.
                if in_flight is not None:
                    self._log(*in_flight)
                in_flight = (list(self.slots), metrics)
                dispatch += 1
                ending = [s for s in self.slots if s is not None and s.placement.stop == dispatch]
                stop = stop_requested()  # asked once: a request that comes later is saved for one dispatch later
                save = stop or time.monotonic() - saved_at > self.execution.checkpoint_every_s
                if ending or save or dispatch == self.plan.dispatches:
                    self._log(*in_flight)
                    in_flight = None
                self._share_time(time.monotonic() - started)
                for active in ending:
                    self._finish(active)
                if save:
                    self._save(dispatch)
                    saved_at = time.monotonic()
                if stop:
                    raise Stopped
            atomic_write(self.directory / "finished", "")

    def _resume(self) -> int:
        restored = self.checkpoints.restore(self.state)
        if restored is None:
            return 0
        dispatch, self.state, record = restored
        for placement in self.plan.placements:
            if placement.stop <= dispatch and RunDir(self.execution.root, placement.run_id).result() is None:
                raise LabError(
                    f"The checkpoint of pack {self.directory} is past run {placement.run_id}, whose result is gone.",
                    "Remove that pack's folder to train the run again.",
                )
            if placement.start < dispatch < placement.stop:
                active = self._open(placement)
                known = record["slots"][str(placement.slot)]
                active.examples_hash, active.wall_s = known["examples_hash"], known["wall_s"]
                active.train_loss = known["train_loss"]
                active.steps_done = known["steps_done"]
                active.diverged = known["diverged"]
                active.files.truncate_metrics(active.steps_done)
                self.slots[placement.slot] = active
        return dispatch

    def _open(self, placement: Placement) -> _Active:
        run = self.runs[placement.run_id]
        files = RunDir(self.execution.root, run.run_id)
        files.create(run)
        return _Active(placement, run, files, open_run(run, self.execution.root), optim.hyper_of(run.optim, run.steps))

    def _refill(self, dispatch: int) -> None:
        for placement in self.plan.placements:
            if placement.start == dispatch:
                active = self._open(placement)
                active.files.truncate_metrics(-1)
                fresh = step.init_state(self.program_of_one, [active.run.seed_init])
                self.state = step.insert(self.program, self.state, placement.slot, fresh)
                self.slots[placement.slot] = active

    @property
    def program_of_one(self) -> step.Program:
        return dataclasses.replace(self.program, mesh=make_mesh())

    def _batches(self, dispatch: int) -> np.ndarray:
        run = next(iter(self.runs.values()))
        shape = (self.plan.steps_per_dispatch, self.plan.slots, run.batch, run.model.context + 1)
        batches_KxRxBxT1 = np.zeros(shape, np.int32)
        for slot, active in enumerate(self.slots):
            if active is None:
                continue
            first = (dispatch - active.placement.start) * self.plan.steps_per_dispatch
            for k in range(min(self.plan.steps_per_dispatch, active.run.steps - first)):
                batch = active.data.stream.batch(first + k)
                batches_KxRxBxT1[k, slot] = batch.tokens_BxT1
                active.examples_hash = chain(active.examples_hash, batch)
        return batches_KxRxBxT1

    def _log(self, slots: Sequence[_Active | None], metrics: step.Metrics) -> None:
        host = jax.device_get(metrics)
        for slot, active in enumerate(slots):
            if active is None or active.diverged:
                continue
            left = active.run.steps - active.steps_done
            loss_K, norm_K = host.loss[:left, slot], host.grad_norm[:left, slot]
            good = host.applied[:left, slot]
            updates = int(good.sum())
            active.steps_done += updates
            if updates < len(good):
                cause = f"loss {loss_K[updates]:g}, gradient norm {norm_K[updates]:g}"
                active.diverged = f"at step {active.steps_done + 1}: {cause}"
            if updates:
                active.train_loss = float(loss_K[:updates].mean())
                line = {
                    "step": active.steps_done,
                    "tokens": active.steps_done * active.run.batch * active.run.model.context,
                    "loss": active.train_loss,
                    "grad_norm": float(norm_K[updates - 1]),
                    "lr": float(host.lr[updates - 1, slot]),
                }
                active.files.append_metrics([line])
            self.observer.progress(active.run.run_id, active.steps_done, active.train_loss)

    def _share_time(self, seconds: float) -> None:
        active = [s for s in self.slots if s is not None]
        for one in active:
            one.wall_s += seconds / len(active)

    def _finish(self, active: _Active) -> None:
        """Evaluates the run, keeps its parameters and writes its result; frees the slot."""
        slot = active.placement.slot
        self.slots[slot] = None
        result = active.files.result()
        if result is None:  # else it ended before a kill, and was trained again from the last checkpoint
            started = time.monotonic()
            single = step.extract(self.state, slot)
            with Checkpoints(active.files.checkpoint_dir, _identity(active), keep=1) as final:
                final.save(active.steps_done, {"params": single.params}, {})
            measured = None if active.diverged else single.params
            evaluations = evaluate(self.program, measured, active.run, active.data, active.steps_done)
            active.wall_s += time.monotonic() - started
            outcome = Outcome(
                steps_done=active.steps_done,
                diverged=active.diverged,
                metrics=active.files.metrics(),
                examples_hash=active.examples_hash,
                layout_hash=active.data.layout.hash,
                pack=f"{self.plan.pack_id}:{slot}/{self.plan.slots}",
                wall_s=active.wall_s,
            )
            result = make_result(active.run, outcome, evaluations)
            write_json(active.files.result_file, result)
        self.observer.finished(active.run.run_id, result)

    def _save(self, dispatch: int) -> None:
        record = {
            "slots": {
                str(s.placement.slot): {
                    "run_id": s.run.run_id,
                    "steps_done": s.steps_done,
                    "train_loss": s.train_loss,
                    "examples_hash": s.examples_hash,
                    "wall_s": s.wall_s,
                    "diverged": s.diverged,
                }
                for s in self.slots
                if s is not None
            }
        }
        self.checkpoints.save(dispatch, self.state, record)


@dataclasses.dataclass
class _Active:
    """A run in its slot."""

    placement: Placement
    run: RunConfig
    files: RunDir
    data: RunData
    hyper: optim.Hyper
    examples_hash: str = ""
    steps_done: int = 0
    train_loss: float = math.nan
    wall_s: float = 0.0
    diverged: str | None = None


def _identity(active: _Active) -> dict[str, Any]:
    return {"model": canonical(active.run.model), "layout": active.data.layout.hash}


def pack_dir(root: Path, plan: PackPlan) -> Path:
    return root / "packs" / plan.pack_id


def store_plan(root: Path, plan: PackPlan) -> None:
    write_json(pack_dir(root, plan) / "plan.json", {"plan": canonical(plan)})


def unfinished_plans(root: Path) -> list[PackPlan]:
    """Stored plans whose packs were begun and not finished, oldest first."""
    folders = [p.parent for p in (root / "packs").glob("*/plan.json") if not (p.parent / "finished").exists()]
    plans = []
    for folder in sorted(folders, key=lambda p: ((p / "plan.json").stat().st_mtime, p.name)):
        form = read_json(folder / "plan.json")["plan"]
        placements = tuple(Placement(p["run_id"], p["slot"], p["start"], p["stop"]) for p in form["placements"])
        plans.append(PackPlan(form["slots"], form["steps_per_dispatch"], placements))
    return plans


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
    with locked(pack_dir(execution.root, plan)):
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
