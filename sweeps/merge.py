"""One table from several: the same run measured twice must say the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.errors import LabError
from lab.table import COLUMNS, SAME_LOSS, read_arrow, rules_of, write_table
from sweeps.exclusion import Rule, judge, parse

if TYPE_CHECKING:
    import pyarrow as pa

# Where and how a run was measured: may differ between machines.
PROVENANCE = ("arm", "pack", "wall_s", "device", "versions", "commit", "schema")
# Follow from the whole table, and are made again.
JUDGED = ("tuned", "exclusion")
CONFLICTS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Merged:
    """How many rows were written, and how many of them more than one table had."""

    rows: int
    shared: int


def merge(paths: Sequence[Path], out: Path, rules: Sequence[Rule] | None = None) -> Merged:
    """Writes the rows of several tables as one; of a row that several have, the first that is over.

    Args:
      paths: of the tables.
      out: the table to write.
      rules: by which rows are excluded; by default those that the tables were made with.

    Raises:
      LabError: for a table that cannot be read, runs that contradict each other (nothing is written then), or tables
        made with different rules where none are given.
    """
    import pyarrow as pa

    if len(paths) < 2:
        raise LabError("Merging needs two tables or more.")
    tables = [read_arrow(path) for path in paths]
    if rules is None:
        made_with = {rules_of(table) for table in tables}
        if len(made_with) > 1:
            shown = " and ".join(", ".join(names) or "none" for names in sorted(made_with))
            raise LabError(f"The tables were made with different exclusion rules: {shown}.", "Name them: --exclude.")
        rules = parse(made_with.pop() or ("none",))
    whole = pa.concat_tables([t.replace_schema_metadata(None) for t in tables])
    keep, conflicts, shared = _settle(whole, [p for p, t in zip(paths, tables, strict=True) for _ in range(t.num_rows)])
    if conflicts:
        more = f"; and {len(conflicts) - CONFLICTS_SHOWN} more" if len(conflicts) > CONFLICTS_SHOWN else ""
        raise LabError(
            f"The tables contradict each other in {len(conflicts)} rows: "
            f"{'; '.join(conflicts[:CONFLICTS_SHOWN])}{more}.",
            "Find out which is right and leave the other table's runs out; nothing was written.",
        )
    return Merged(write_table(out, judge(whole.take(keep), rules)), shared)


def _settle(table: pa.Table, sources: Sequence[Path]) -> tuple[list[int], list[str], int]:
    """Which rows to keep, where rows of one run and language contradict each other, and how many were doubled."""
    keys = list(zip(*(table[k].to_pylist() for k in ("study", "run_id", "language", "status")), strict=True))
    same: dict[tuple[str, str], list[int]] = {}
    for i, (_, run_id, language, _) in enumerate(keys):
        same.setdefault((run_id, language), []).append(i)
    doubled = sorted(i for rows in same.values() if len(rows) > 1 for i in rows)
    values = dict(zip(doubled, table.take(doubled).to_pylist(), strict=True)) if doubled else {}
    keep: dict[tuple[str, str, str], int] = {}
    conflicts = []
    for (run_id, language), rows in same.items():
        over = [i for i in rows if keys[i][3] != "incomplete"]
        for i in over[1:]:
            if problem := _contradiction(values[over[0]], values[i]):
                names = f"{sources[over[0]]} and {sources[i]}"
                conflicts.append(f"run {run_id} in language {language}: {problem} in {names}")
        for i in [*over, *rows]:
            keep.setdefault((keys[i][0], run_id, language), i)
    return sorted(keep.values()), conflicts, table.num_rows - len(keep)


def _contradiction(first: dict[str, Any], other: dict[str, Any]) -> str | None:
    """What two rows of one run and language, both over, say differently that they must not."""
    if first["status"] != other["status"]:
        return f"{first['status']} and {other['status']}"
    if first["status"] == "diverged":
        return None  # at which step is a matter of rounding
    for name, (kind, _) in COLUMNS.items():
        if name in (*PROVENANCE, *JUDGED, "study") or name in ("document_nats", "curve_loss"):
            continue
        a, b = first[name], other[name]
        if name in ("loss", "bits_per_byte", "train_loss", "eval_curve_loss"):
            apart = not np.allclose(np.float64(a), np.float64(b), rtol=SAME_LOSS)
        elif name == "ppl":
            apart = not np.allclose(np.log(np.float64(a)), np.log(np.float64(b)), rtol=SAME_LOSS)
        elif kind == "float64" and a is not None and b is not None:
            apart = not np.isclose(a, b, rtol=1e-12)
        else:
            apart = a != b
        if apart:
            return f"{name} is {_short(a)} and {_short(b)}"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
