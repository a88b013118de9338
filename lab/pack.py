"""Which run trains in which slot, and when: a deterministic function of the list of runs.

Runs of one `Shape` share a compiled program. Time is counted in dispatches of a fixed number of steps; wall-clock
time never enters, so that a plan can be stored and replayed.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lab.config import Kept, ModelConfig, RunConfig, fingerprint
from lab.errors import LabError


@dataclasses.dataclass(frozen=True)
class Shape:
    """What runs must have in common to train in one program; seeds, text, shares, optimiser and length may differ."""

    model: ModelConfig
    batch: int


def shape_of(run: RunConfig) -> Shape:
    return Shape(run.model, run.batch)


@dataclasses.dataclass(frozen=True)
class Mark:
    """A step at which a run pauses, between two dispatches, for what has to happen at exactly that step.

    Attributes:
      step: updates made by then.
      keep: what is kept for runs that start from here: the parameters, or the whole state; None keeps nothing.
      evaluate: whether the run is evaluated.
    """

    step: int
    keep: Kept | None = None
    evaluate: bool = False


@dataclasses.dataclass(frozen=True)
class Placement:
    """Run `run_id` trains in `slot` during dispatches [start, stop), from step `first` to its last mark."""

    run_id: str
    slot: int
    start: int
    stop: int
    first: int
    marks: tuple[Mark, ...]


@dataclasses.dataclass(frozen=True)
class PackPlan:
    """A pack of runs on `slots` slots, `steps_per_dispatch` steps at a time."""

    slots: int
    steps_per_dispatch: int
    placements: tuple[Placement, ...]

    @property
    def dispatches(self) -> int:
        return max(p.stop for p in self.placements)

    @property
    def idle_share(self) -> float:
        """Share of slot time in which no run trains."""
        busy = sum(p.stop - p.start for p in self.placements)
        return 1 - busy / (self.slots * self.dispatches)

    @property
    def pack_id(self) -> str:
        return fingerprint(self)

    def steps(self, placement: Placement, dispatch: int) -> tuple[int, Mark]:
        """The first step (from 0) that `dispatch` makes of a run, and the mark that it must not pass."""
        left, first = dispatch - placement.start, placement.first
        for mark in placement.marks:
            need = math.ceil((mark.step - first) / self.steps_per_dispatch)
            if left < need:
                return first + left * self.steps_per_dispatch, mark
            left, first = left - need, mark.step
        raise ValueError(f"Run {placement.run_id} does not train in dispatch {dispatch}.")


Marks = Mapping[str, Collection[Mark]]


def marks_of(
    runs: Sequence[RunConfig],
    evaluations: Mapping[str, int] | None = None,
    probed: Mapping[str, Collection[int]] | None = None,
) -> dict[str, tuple[Mark, ...]]:
    """Where each run pauses: where a child starts from it, where it is probed, at its evaluations, and at its end.

    Args:
      runs: all runs that are wanted; children and parents may train in different packs.
      evaluations: by run id, how many evaluations are spread evenly over the run, the last at its end (1 by default).
      probed: by run id, after which updates its parameters are kept for probes.

    Raises:
      LabError: where a child starts past its parent's end.
    """
    parents: dict[str, list[RunConfig]] = {}
    for child in runs:
        if child.parent:
            parents.setdefault(child.parent.run_id, []).append(child)
    found = {}
    for run in runs:
        n = (evaluations or {}).get(run.run_id, 1)
        length = run.steps - run.first_step
        evaluated = {run.first_step + round(length * i / n) for i in range(1, n)} - {run.first_step} | {run.steps}
        marks = {step: Mark(step, keep="weights") for step in (probed or {}).get(run.run_id, ())}
        marks |= {step: dataclasses.replace(marks.get(step, Mark(step)), evaluate=True) for step in evaluated}
        for child in parents.get(run.run_id, ()):
            assert child.parent is not None
            step = child.parent.step
            if not run.first_step < step <= run.steps:
                raise LabError(
                    f"Run {child.run_id} starts from step {step} of run {run.run_id}, which makes steps "
                    f"{run.first_step + 1} to {run.steps}.",
                    "Start it from a step that its parent makes.",
                )
            old = marks.get(step, Mark(step))
            keep: Kept = "state" if "state" in (old.keep, child.parent.needs) else "weights"
            marks[step] = dataclasses.replace(old, keep=keep)
        found[run.run_id] = tuple(marks[step] for step in sorted(marks))
    return found


def plan_pack(runs: Sequence[RunConfig], slots: int, steps_per_dispatch: int, marks: Marks | None = None) -> PackPlan:
    """Places runs in the slot that is free first; of the runs that can start, the longest (ties: by run id).

    A run can start when its parent, if that is among `runs`, has reached the step it starts from; a run is as long as
    the longest line of runs that begins with it.

    Args:
      runs: of one shape.
      slots: runs trained side by side.
      steps_per_dispatch: steps in one call of the compiled program.
      marks: of `marks_of`, where more than `runs` are wanted; by default that of `runs`.
    """
    every = marks if marks is not None else marks_of(runs)
    by_id = {run.run_id: run for run in runs}
    children: dict[str | None, list[RunConfig]] = {}
    for run in by_id.values():
        parent = run.parent.run_id if run.parent and run.parent.run_id in by_id else None
        children.setdefault(parent, []).append(run)

    def dispatches(run: RunConfig, until: int) -> int:
        ends = [run.first_step, *(m.step for m in every[run.run_id] if m.step <= until)]
        return sum(math.ceil((b - a) / steps_per_dispatch) for a, b in itertools.pairwise(ends))

    def start_of(child: RunConfig) -> int:
        """Dispatches from its parent's start to its own."""
        assert child.parent is not None
        return dispatches(by_id[child.parent.run_id], child.parent.step)

    length: dict[str, int] = {}

    def line(run: RunConfig) -> int:
        if run.run_id not in length:
            own = dispatches(run, run.steps)
            length[run.run_id] = max([own, *(start_of(c) + line(c) for c in children.get(run.run_id, ()))])
        return length[run.run_id]

    slots = min(slots, len(by_id))
    free = [(0, slot) for slot in range(slots)]
    released = [(0, -line(run), run.run_id) for run in children.get(None, ())]
    heapq.heapify(released)
    ready: list[tuple[int, str]] = []
    placements: list[Placement] = []
    while len(placements) < len(by_id):
        time, slot = heapq.heappop(free)
        while released and released[0][0] <= time:
            heapq.heappush(ready, heapq.heappop(released)[1:])
        if not ready:
            heapq.heappush(free, (released[0][0], slot))
            continue
        run = by_id[heapq.heappop(ready)[1]]
        stop = time + dispatches(run, run.steps)
        placements.append(Placement(run.run_id, slot, time, stop, run.first_step, tuple(every[run.run_id])))
        heapq.heappush(free, (stop, slot))
        for child in children.get(run.run_id, ()):
            heapq.heappush(released, (time + start_of(child), -line(child), child.run_id))
    return PackPlan(slots, steps_per_dispatch, tuple(sorted(placements, key=lambda p: (p.start, p.slot))))


def group_by_shape(runs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Runs that can share a program, in an order in which every group comes after the groups it starts from.

    Runs of one shape are in one group unless the way from parent to child leaves the shape and returns.
    """
    by_id = {run.run_id: run for run in runs}

    def generation(run: RunConfig) -> int:
        parent = by_id.get(run.parent.run_id) if run.parent else None
        return 0 if parent is None else generation(parent) + (shape_of(parent) != shape_of(run))

    groups: dict[tuple[int, Shape], list[RunConfig]] = {}
    for run in runs:
        groups.setdefault((generation(run), shape_of(run)), []).append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def read_plan(form: dict[str, Any]) -> PackPlan:
    """The plan whose canonical form is `form`."""

    def placement(p: dict[str, Any]) -> Placement:
        marks = tuple(Mark(m["step"], m.get("keep"), m["evaluate"]) for m in p["marks"])
        return Placement(p["run_id"], p["slot"], p["start"], p["stop"], p["first"], marks)

    return PackPlan(form["slots"], form["steps_per_dispatch"], tuple(placement(p) for p in form["placements"]))
