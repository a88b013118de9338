"""Tables of a report: as shown, and as CSV files that say where they come from."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from figures.provenance import Provenance
from figures.report import Rows
from lab.records import atomic_write

NONE = "–"
LARGE = 1e5


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as shown, and the CSV file that holds the same cells."""

    rows: Rows
    file: Path


def number(value: float) -> str:
    """Four digits; large ones as a power of ten."""
    return f"{value:.3g}" if value >= LARGE else f"{value:.4g}"


def written(rows: Rows, stem: Path, provenance: Provenance) -> Table:
    """Writes a table as CSV; its first line says where it comes from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([rows.head, *rows.rows])
    file = stem.with_suffix(".csv")
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, f"# {provenance.embedded()}\n{text.getvalue()}")
    provenance.write_runs(stem)
    return Table(rows, file)
