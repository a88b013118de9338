"""Tables 1 to 3 of the paper and Table 4 of its notebook, published beside measured."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from figures.imbalance_sides import Side, Sides
from figures.provenance import Provenance
from figures.published import Published
from figures.report import Rows
from figures.tables import LARGE, NONE, Table, number, written

BOUNDS = {"exact": "", "at most": "≤ ", "at least": "≥ "}


def table_1(sides: Sides, stem: Path) -> Table:
    """Clones: perplexity and TEff of both languages for every mixture, schedule and budget of the paper's Table 1."""
    return _worths(sides, "Table 1", "clone1", "table_1", stem)


def table_3(sides: Sides, stem: Path) -> Table:
    """English and French: perplexity and TEff in both for every mixture, schedule and budget of the paper's Table 3."""
    return _worths(sides, "Table 3", "l2", "table_3", stem)


def _worths(sides: Sides, name: str, second: str, function: str, stem: Path) -> Table:
    head = ["row", "arm", "T"]
    for what in ("PPL", "TEff"):
        head += [f"{what} {language} {side.title}" for language in ("l1", second) for side in sides.both]
    lines = []
    shown = []
    for row, arm, times in _listed(sides.paper, name):
        parts = [_found(side, arm, times, language) for language in ("l1", second) for side in sides.both]
        cells = [_cell(part, column) for column in ("ppl", "teff") for part in parts]
        shown += [part for part in parts if part is not None]
        lines.append([str(row), arm, f"{times:g}", *cells])
    runs = {run for part in shown for run in part.runs}
    where = Provenance.of(sides.table, f"figures.imbalance.{function}", runs)
    return written(Rows(head, lines, wrapped=(1,)), stem, where)


def _listed(paper: Published, name: str) -> list[tuple[int, str, float]]:
    """The rows of a published table: number, arm, and tokens in T."""
    found = {}
    for row in paper.results.to_dict("records"):
        if match := re.search(rf"{name} row (\d+)", row["where"]):
            found[int(match[1])] = (str(row["arm"]), float(row["times"]))
    for row in paper.ladders.to_dict("records"):
        if match := re.search(rf"{name} row (\d+)", row["where"]):
            found[int(match[1])] = (f"{row['language']} alone", float(row["x"]))
    return [(number, *found[number]) for number in sorted(found)]


def _found(side: Side, arm: str, times: float, language: str) -> pd.Series | None:
    """The row of an arm at the main size in a language, mixed or alone."""
    if arm.endswith(" alone"):
        rows = side.ladder("main", language)
        rows = rows[rows.x == times] if arm == f"{language} alone" else rows.iloc[:0]
    else:
        rows = side.pick(re.escape(arm), times)
        rows = rows[rows.language == language]
    return rows.iloc[0] if len(rows) else None


def _cell(row: pd.Series | None, column: str) -> str:
    """`55.1 ± 0.3`: a number, and half the range of the seeds where there are several."""
    if row is None or (column == "teff" and "teff" not in row):
        return NONE if row is None else "1"  # a language alone has TEff 1 by definition
    value = float(row[column])
    if not np.isfinite(value):
        return "no ladder"
    kind = str(row.get(f"{column}_kind", "exact"))
    text = BOUNDS[kind] + number(value)
    half = (float(row[f"{column}_high"]) - float(row[f"{column}_low"])) / 2
    if len(row.runs) > 1 and kind == "exact" and half > 0 and value < LARGE:
        digits = max(0, -math.floor(math.log10(half)))
        text = f"{value:.{digits}f} ± {half:.{digits}f}"
    return text + ("" if row[f"{column}_exact"] else " (D)")


def table_2(sides: Sides, stem: Path) -> Table:
    """Clones: cosine of hidden states after each block."""
    return _hidden(sides, ("clone 50 %", "clone 10 %"), "table_2", stem)


def table_4(sides: Sides, stem: Path) -> Table:
    """English and French: cosine of hidden states after each block, positions matched."""
    arms = [f"l2 {share} %, {vocabulary}" for vocabulary in ("disjoint", "merged") for share in (50, 10)]
    return _hidden(sides, arms, "table_4", stem)


def _hidden(sides: Sides, arms: Sequence[str], function: str, stem: Path) -> Table:
    frames = [side.probed("hidden state", "|".join(map(re.escape, arms))) for side in sides.both]
    layers = sorted({int(place) for rows in frames for place in rows.place})
    lines = []
    for side, rows in zip(sides.both, frames, strict=True):
        for first, second in zip(arms[::2], arms[1::2], strict=True):
            means = {arm: _by_layer(rows, arm, "pairs") for arm in (first, second)}
            for arm, values in means.items():
                lines.append([f"{side.title}: {arm}", *_cells(values, layers)])
                control = _by_layer(rows, arm, "random pairs")
                if len(control):
                    lines.append([f"{side.title}: {arm}, random pairs", *_cells(control, layers)])
            if all(len(values) for values in means.values()):
                lines.append([f"{side.title}: difference", *_cells(means[second] - means[first], layers)])
    runs = {run for rows in frames for ids in rows.runs for run in ids}
    head = ["layer", *map(str, layers)]
    return written(Rows(head, lines), stem, Provenance.of(sides.table, f"figures.imbalance.{function}", runs))


def _by_layer(rows: pd.DataFrame, arm: str, condition: str) -> pd.Series:
    part = rows[(rows.arm == arm) & (rows.condition == condition)]
    return pd.Series(part.value.to_numpy(float), part.place.astype(int))


def _cells(values: pd.Series, layers: Sequence[int]) -> list[str]:
    return [f"{round(values[layer], 2) + 0:.2f}" if layer in values.index else NONE for layer in layers]
