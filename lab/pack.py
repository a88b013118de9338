"""Which run trains in which slot, and when: a deterministic function of the list of runs.

Runs of one `Shape` share a compiled program. Time is counted in dispatches of a fixed number of steps; wall-clock
time never enters, so that a plan can be stored and replayed.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence

from lab.config import ModelConfig, RunConfig, fingerprint


@dataclasses.dataclass(frozen=True)
class Shape:
    """What runs must have in common to train in one program; seeds, text, shares, optimiser and length may differ."""

    model: ModelConfig
    batch: int


def shape_of(run: RunConfig) -> Shape:
    return Shape(run.model, run.batch)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Run `run_id` trains in `slot` during dispatches [start, stop)."""

    run_id: str
    slot: int
    start: int
    stop: int


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


def plan_pack(runs: Sequence[RunConfig], slots: int, steps_per_dispatch: int) -> PackPlan:
    """Places the longest runs first, each in the slot that is free first (ties: by run id, lowest slot)."""
    slots = min(slots, len(runs))
    free = [(0, slot) for slot in range(slots)]
    placements = []
    for run in sorted(runs, key=lambda r: (-r.steps, r.run_id)):
        start, slot = heapq.heappop(free)
        stop = start + math.ceil(run.steps / steps_per_dispatch)
        placements.append(Placement(run.run_id, slot, start, stop))
        heapq.heappush(free, (stop, slot))
    return PackPlan(slots, steps_per_dispatch, tuple(sorted(placements, key=lambda p: (p.start, p.slot))))


def group_by_shape(runs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Runs that can share a program, in the order in which their shapes first appear."""
    groups: dict[Shape, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(shape_of(run), []).append(run)
    return list(groups.values())
