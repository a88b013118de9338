"""The packs of a study as a queue on disk, which any number of processes, on any machines, work through together.

A pack is its stored plan, `<root>/packs/<pack_id>/plan.json`. Plans are made and taken away under one lock, so that no
run of a study is in two of them; a pack is trained, or its plan taken away, only under the pack's own lock. A process
that dies lets go of its locks, and the next one goes on with its packs from their last checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.records import Held, RunDir, locked

if TYPE_CHECKING:
    from lab.config import RunConfig
    from lab.pack import PackPlan

POLL_S = 2.0


class TooLarge(Exception):
    """A pack did not fit into memory: what is left of it is to be planned anew."""


@dataclasses.dataclass(frozen=True)
class Pack:
    """A plan and its runs."""

    plan: PackPlan
    runs: tuple[RunConfig, ...]


# Plans packs for some runs, for the devices of this process.
Planner = Callable[[Sequence["RunConfig"]], Sequence[Pack]]


def queued(runs: Mapping[str, RunConfig], root: Path) -> list[Pack]:
    """The stored, unfinished packs of some runs (by id), oldest first; packs that hold other runs too are left out."""
    from lab.train import unfinished_plans

    packs = []
    for plan in unfinished_plans(root):
        members = [p.run_id for p in plan.placements]
        if all(m in runs for m in members):
            packs.append(Pack(plan, tuple(runs[m] for m in members)))
    return packs


def enqueue(
    runs: Mapping[str, RunConfig], root: Path, planner: Planner, keep: bool = False, store: bool = True
) -> list[Pack]:
    """Stores packs for all runs that are not over; returns the queue.

    A pack that was begun, or that another process trains, stays as it is. One that only waits is planned anew, since
    the study or the way it is spread may be another now.

    Args:
      runs: the study's runs by id.
      root: folder of all results.
      planner: plans packs for some of the runs.
      keep: whether packs that only wait stay, too.
      store: whether anything is stored, or only said.
    """
    from lab.train import pack_dir, unfinished_plans

    with planning(root):
        placed: set[str] = set()
        packs = []
        for plan in unfinished_plans(root):
            members = [p.run_id for p in plan.placements]
            if runs.keys().isdisjoint(members):
                continue
            folder = pack_dir(root, plan)
            ours = all(m in runs for m in members)
            try:
                with locked(folder):
                    stays = ours and (keep or _begun(folder))
                    if store and not stays and not _begun(folder):
                        (folder / "plan.json").unlink(missing_ok=True)
            except Held:
                stays = True
            if stays:
                placed.update(members)
            if stays and ours:
                packs.append(Pack(plan, tuple(runs[m] for m in members)))
        # Read after the plans: what was over by then is in no plan, and what was not is in one that was seen.
        todo = [run for name, run in wanted(runs, root).items() if name not in placed]
        fresh = list(planner(todo)) if todo else []
        if store:
            _store(root, fresh)
        return packs + fresh


def wanted(runs: Mapping[str, RunConfig], root: Path) -> dict[str, RunConfig]:
    """The runs that are still to train: those without a result, and those that did not keep what one of them needs."""
    from lab.lineage import has_kept

    todo = {name for name in runs if not RunDir(root, name).result_file.exists()}
    ahead = list(todo)
    while ahead:
        parent = runs[ahead.pop()].parent
        if parent is None or parent.run_id not in runs or parent.run_id in todo:
            continue
        if not has_kept(root, parent.run_id, parent.step, parent.needs):
            todo.add(parent.run_id)
            ahead.append(parent.run_id)
    return {name: run for name, run in runs.items() if name in todo}


def work(
    runs: Mapping[str, RunConfig],
    root: Path,
    planner: Planner,
    train: Callable[[Pack], bool],
    say: Callable[[str], None],
    most: int | None = None,
) -> None:
    """Trains queued packs, one after another, that no other process holds, until none is left.

    A pack whose runs start from runs of another pack is taken when those are far enough; one that was not begun is
    first planned for this process's devices, since another machine may have queued it.

    Args:
      runs: the study's runs by id.
      root: folder of all results.
      planner: plans packs for some of the runs.
      train: trains one pack, whose lock is held; returns whether it could. One that failed is not tried again; one that
        was `TooLarge` is planned anew.
      say: told why this process waits.
      most: leave after so many packs, and do not wait for packs that other processes train.
    """
    tried = 0
    failed: set[str] = set()
    said = ""
    while most is None or tried < most:
        packs = [p for p in queued(runs, root) if p.plan.pack_id not in failed]
        startable = [p for p in packs if _can_start(p, root)]
        # Where nothing can start, nobody trains what the packs wait for: trying one says what is missing.
        for pack in startable or packs:
            try:
                with _claimed(pack, root) as there:
                    if there and _fits(pack, root, planner):
                        try:
                            done = train(pack)
                        except TooLarge:
                            left = wanted({run.run_id: run for run in pack.runs}, root)
                            _replace(pack, planner(list(left.values())), root)
                            break
                        tried += 1
                        if not done:
                            failed.add(pack.plan.pack_id)
                    break  # the queue may have changed since it was read
            except Held:
                continue
        else:
            if not packs or (most is not None and len(startable) == len(packs)):
                return
            message = f"Waiting for {len(packs)} packs that other processes train, or that start from those."
            if message != said:
                say(message)
                said = message
            time.sleep(POLL_S)


def spread(groups: Sequence[Sequence[RunConfig]], parts: int) -> list[list[RunConfig]]:
    """Cuts groups of runs into `parts` in all, as far as there are runs, so that the longest part is short.

    Runs that start from one another stay together.
    """
    lines = [_lines(group) for group in groups]
    cuts = [1] * len(groups)
    for _ in range(parts - len(groups)):
        costs = [
            sum(_work(line) for line in group) / n if n < len(group) else 0.0
            for group, n in zip(lines, cuts, strict=True)
        ]
        if not any(costs):
            break
        cuts[costs.index(max(costs))] += 1
    found: list[list[RunConfig]] = []
    for group, n in zip(lines, cuts, strict=True):
        bins: list[tuple[int, int, list[RunConfig]]] = [(0, k, []) for k in range(n)]
        for line in sorted(group, key=_work, reverse=True):
            load, k, members = heapq.heappop(bins)
            heapq.heappush(bins, (load + _work(line), k, members + line))
        found.extend(members for _, _, members in sorted(bins, key=lambda b: b[1]))
    return found


def _lines(group: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """The runs of a group, those together that descend from one of them."""
    by_id = {run.run_id: run for run in group}

    def first(run: RunConfig) -> str:
        while run.parent and run.parent.run_id in by_id:
            run = by_id[run.parent.run_id]
        return run.run_id

    lines: dict[str, list[RunConfig]] = {}
    for run in group:
        lines.setdefault(first(run), []).append(run)
    return list(lines.values())


def _work(line: Sequence[RunConfig]) -> int:
    return sum((run.steps - run.first_step) * run.batch for run in line)


def planning(root: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the queue: nobody else makes plans or takes them away meanwhile."""
    return locked(root / "queue", wait=True)


def _store(root: Path, packs: Sequence[Pack]) -> None:
    from lab.train import pack_dir, store_plan

    for pack in packs:
        folder = pack_dir(root, pack.plan)
        if (folder / "finished").exists():  # its results were deleted since
            shutil.rmtree(folder)
        store_plan(root, pack.plan)


@contextlib.contextmanager
def _claimed(pack: Pack, root: Path) -> Iterator[bool]:
    """Holds a pack; says whether it is still to train. Raises Held when another process trains it."""
    from lab.train import pack_dir

    folder = pack_dir(root, pack.plan)
    with locked(folder):
        yield (folder / "plan.json").exists() and not (folder / "finished").exists()


def _fits(pack: Pack, root: Path, planner: Planner) -> bool:
    """Whether a claimed pack is to be trained as it is; else it is replaced in the queue by what is planned here."""
    from lab.train import pack_dir

    if _begun(pack_dir(root, pack.plan)):
        return True
    better = planner(pack.runs)
    if [p.plan for p in better] == [pack.plan]:
        return True
    _replace(pack, better, root)
    return False


def _replace(pack: Pack, by: Sequence[Pack], root: Path) -> None:
    from lab.train import pack_dir

    with planning(root):
        _store(root, by)
        (pack_dir(root, pack.plan) / "plan.json").unlink()


def _begun(folder: Path) -> bool:
    """Whether a pack has saved something, or is over."""
    return (folder / "finished").exists() or any((folder / "checkpoints").glob("[0-9]*"))


def _can_start(pack: Pack, root: Path) -> bool:
    """Whether the runs that a pack starts from have kept what it needs, or never will."""
    from lab.lineage import has_kept

    own = {run.run_id for run in pack.runs}
    parents = {run.parent for run in pack.runs if run.parent and run.parent.run_id not in own}
    return all(has_kept(root, p.run_id, p.step, p.needs) or _diverged(root, p.run_id) for p in parents)


def _diverged(root: Path, run_id: str) -> bool:
    result = RunDir(root, run_id).result()
    return result is not None and result["run"]["status"] == "diverged"
