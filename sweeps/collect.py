"""From finished run directories to one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.records import RunDir
from lab.table import Provenance, rows, write_table
from sweeps.study import Arm


def table_path(study: str, root: Path) -> Path:
    return root / study / "results.parquet"


def collect(study: str, arms: Sequence[Arm], root: Path) -> tuple[Path, int, int]:
    """Writes the rows of all finished runs; returns the table's path, its rows, and how many runs are still missing.

    Raises:
      LabError: when no run of the study is finished.
    """
    found = []
    missing = 0
    for arm in arms:
        result = RunDir(root, arm.run.run_id).result()
        if result is None:
            missing += 1
        else:
            found.extend(rows(result, Provenance(study, arm.name)))
    if not found:
        raise LabError(f"No run of study {study} is finished below {root}.", f"Run `lab sweep run {study}` first.")
    path = table_path(study, root)
    return path, write_table(path, found), missing
