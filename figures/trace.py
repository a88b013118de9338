"""The way back from a figure or a printed number to table, rows, runs and configs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures.provenance import Provenance, read_provenance, sha256
from lab.errors import LabError
from lab.table import read_table

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"": "1", "k": "1e3", "M": "1e6", "B": "1e9", "T": "1e12", "%": "1e-2"}
NUMBERS = "numbers.json"


@dataclasses.dataclass(frozen=True)
class FigureTrace:
    """A figure, and what it was drawn from: the table as it still is, and the rows of the runs it shows."""

    figure: str
    provenance: Provenance
    table: Path
    rows: pd.DataFrame


def trace_figure(file: Path, root: Path, table: Path | None = None) -> list[FigureTrace]:
    """Walks back from a figure's file, or from each figure of a report.

    Args:
      file: PNG, SVG, PDF, or a report's HTML.
      root: folder of all results, where the table is looked for after the folders above the figure.
      table: where the table is now.

    Raises:
      LabError: for a file that does not say where it comes from, or whose table is not found or has changed.
    """
    traces = []
    for name, one in read_provenance(file).items():
        found = table or _table_of(one, file, root)
        if table is not None and table.exists() and sha256(table) != one.table_sha256:
            raise _changed(file, table, one)
        frame = read_table(found)
        rows = frame[frame.run_id.isin(one.runs)].reset_index(drop=True)
        traces.append(FigureTrace(name, one, found, rows))
    return traces


def _table_of(one: Provenance, file: Path, root: Path) -> Path:
    folders = [*file.resolve().parents[:4], root, *sorted(p for p in root.glob("*") if p.is_dir())]
    there = [folder / one.table for folder in folders if (folder / one.table).is_file()]
    for path in there:
        if sha256(path) == one.table_sha256:
            return path
    if there:
        raise _changed(file, there[0], one)
    raise LabError(f"The table {one.table} of {file} is not above it nor below {root}.", "Name it: --in TABLE.")


def _changed(file: Path, table: Path, one: Provenance) -> LabError:
    return LabError(
        f"{table} has changed since {file} was drawn (SHA-256 {sha256(table)[:12]}, then {one.table_sha256[:12]}).",
        "Draw it again with `lab figures`, or name the table as it was: --in TABLE.",
    )


@dataclasses.dataclass(frozen=True)
class Printed:
    """A number as it is printed: what rounds to it are the values of [low, high]."""

    text: str
    low: float
    high: float

    def holds(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


def printed(text: str) -> Printed | None:
    """A number with its digits: 3.457, 1.2e-3, 1,024, 150k, 25%; None for what is no number."""
    match = re.fullmatch(r"([-+]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?)([kMBT%]?)", text.strip())
    if match is None:
        return None
    try:
        value, unit = Decimal(match[1].replace(",", "")), Decimal(UNITS[match[2]])
    except InvalidOperation:
        return None
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    half = Decimal(1).scaleb(exponent) / 2
    # Numbers are binary: what lies on the edge may be printed either way.
    slack = half * Decimal("1e-6")
    return Printed(text, float((value - half - slack) * unit), float((value + half + slack) * unit))


@dataclasses.dataclass(frozen=True)
class NumberFound:
    """One place that holds a number to its printed digits.

    Attributes:
      file: a table or a JSON file.
      what: column of the table, or name of the number.
      value: in full.
      source: of a computed number: how it was computed.
      row: of the table, without its lists; of a computed number None.
      runs: ids of the runs it comes from.
    """

    file: Path
    what: str
    value: float
    source: str | None
    row: dict[str, Any] | None
    runs: tuple[str, ...]


def trace_number(number: Printed, where: Path) -> list[NumberFound]:
    """Everything that rounds to a printed number.

    Args:
      number: from `printed`.
      where: a result table, a JSON file (`numbers.json` of a report, or what `lab fit --json` wrote), or a study's
        folder or report, whose table and numbers are both searched.

    Raises:
      LabError: when there is no such file, it cannot be read, or nothing in it rounds to the number.
    """
    if where.suffix == ".html":
        where = where.parent
    if where.is_dir():
        files = [file for file in (where / NUMBERS, where / "results.parquet") if file.is_file()]
        if not files:
            raise LabError(f"{where} holds neither {NUMBERS} nor results.parquet.", "Name a table: --in TABLE.")
    else:
        files = [where]
    found = [one for file in files for one in (_in_table if file.suffix == ".parquet" else _in_json)(number, file)]
    if not found:
        raise LabError(f"Nothing in {where} rounds to {number.text}.", "Give it as it is printed, or another --in.")
    return found


def _in_table(number: Printed, file: Path) -> Iterator[NumberFound]:
    import pandas as pd

    table = read_table(file)
    plain = [c for c in table.columns if not (len(table) and isinstance(table[c].iloc[0], (list, _array())))]
    for column in plain:
        if not pd.api.types.is_numeric_dtype(table[column]):
            continue
        for _, row in table[table[column].between(number.low, number.high)].iterrows():
            facts = {k: None if pd.isna(row[k]) else row[k] for k in plain}
            yield NumberFound(file, column, float(row[column]), None, facts, (str(row.run_id),))


def _array() -> type:
    import numpy as np

    return np.ndarray


def _in_json(number: Printed, file: Path) -> Iterator[NumberFound]:
    try:
        form = json.loads(file.read_text())
    except FileNotFoundError:
        raise LabError(f"{file} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise LabError(f"{file} is no JSON file.", "Name a table, a JSON file or a study's folder: --in.") from None
    top = form if isinstance(form, dict) else {}
    fit = f"fit of {top['law']} to {top.get('n')} points of {top.get('table')}" if "law" in top else None

    def walk(node: Any, path: tuple[str, ...], named: dict[str, Any]) -> Iterator[NumberFound]:
        if isinstance(node, dict):
            inner = node if "name" in node and "source" in node else named
            for key, value in node.items():
                yield from walk(value, (*path, key), inner)
        elif isinstance(node, list):
            for k, value in enumerate(node):
                yield from walk(value, (*path, str(k)), named)
        elif number.holds(node):
            own = path[path.index("numbers") + 2 :] if named else path
            what = f"{named['name']}, {'.'.join(own)}" if named and own != ("value",) else named.get("name", "")
            runs = tuple(named.get("runs", ()))
            yield NumberFound(file, what or ".".join(path), float(node), named.get("source", fit), None, runs)

    yield from walk(form, (), {})
