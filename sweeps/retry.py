"""Forgetting what failed or diverged runs did, so that they are trained from the start."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.records import RunDir, locked, one_line_io_errors, read_json
from sweeps.queue import planning
from sweeps.status import RunStatus, study_status
from sweeps.study import Arm


def retry(arms: Sequence[Arm], root: Path, arm: str | None = None, diverged: bool = False) -> list[RunStatus]:
    """Forgets the failed runs of a study, and on request the diverged ones; returns what they were.

    The runs of one unfinished pack share its checkpoints, so that they are forgotten together.

    Args:
      arms: of the study.
      root: folder of all results.
      arm: only the runs of this arm, and those of their packs.
      diverged: whether diverged runs are forgotten too.

    Raises:
      LabError: when there is no such arm, or a process trains one of the packs.
    """
    names = dict.fromkeys(a.name for a in arms)
    if arm is not None and arm not in names:
        raise LabError(f"The study has no arm {arm!r}.", f"It has: {', '.join(names)}.")
    with contextlib.ExitStack() as held:
        held.enter_context(planning(root))
        runs = {s.run_id: s for s in study_status(arms, root)}
        wanted = {"failed", "diverged"} if diverged else {"failed"}
        chosen = {s.run_id for s in runs.values() if s.state in wanted and arm in (None, s.arm)}
        packs = [(path, members) for path, members in _packs(root) if not chosen.isdisjoint(members)]
        for path, _ in packs:
            held.enter_context(locked(path))
        for path, members in packs:
            if not (path / "finished").exists():
                chosen |= {m for m in members if m in runs and not runs[m].over}
        for path, members in packs:
            with one_line_io_errors(path):
                if any(m not in chosen and RunDir(root, m).result_file.exists() for m in members):
                    # The plan stays: rows of the runs that are over name it.
                    (path / "failed.json").unlink(missing_ok=True)
                    (path / "finished").touch()
                    shutil.rmtree(path / "checkpoints", ignore_errors=True)
                else:
                    shutil.rmtree(path)
        for run_id in chosen:
            directory = RunDir(root, run_id).path
            if directory.exists():
                with one_line_io_errors(directory):
                    shutil.rmtree(directory)
    return [s for s in runs.values() if s.run_id in chosen]


def _packs(root: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Every stored plan's folder, and the runs that it places."""
    found = []
    for plan in sorted((root / "packs").glob("*/plan.json")):
        form = read_json(plan)["plan"]
        found.append((plan.parent, tuple(p["run_id"] for p in form["placements"])))
    return found
