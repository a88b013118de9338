"""Do the same arms with other seeds land where a table says they will?

    landings(old, new)      # of two result tables: one for each cell (arm, language) of ln PPL and of ln TEff

A new run of a cell is predicted from the cell's n old ones at mean +- t s sqrt(1 + 1/n), a prediction interval of the
normal distribution, with the variance s^2 drawn towards what all cells have in common (`analysis.noise`). Of many new
runs, so many should lie inside as the level says; one seed's runs are alike, so they miss together, too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.noise import moderated
from analysis.teff import measure, readable, usable
from lab.errors import LabError

PPL, TEFF = "ln PPL", "ln TEff"
KEYS = ["what", "arm", "language"]


@dataclasses.dataclass(frozen=True)
class Landing:
    """One cell's prediction, and where its new runs fell.

    Attributes:
      what: `ln PPL` or `ln TEff`.
      seeds: of the old runs.
      low, high: the interval of one new run.
      new: (seed, value) of each.
    """

    what: str
    arm: str
    language: str
    seeds: int
    low: float
    high: float
    new: tuple[tuple[int, float], ...]

    @property
    def inside(self) -> int:
        """How many of the new runs fell into the interval."""
        return sum(self.low <= value <= self.high for _, value in self.new)


def landings(old: pd.DataFrame, new: pd.DataFrame, level: float = 0.95, again: str = "") -> tuple[Landing, ...]:
    """Predictions for all cells that both tables have, where the old one has replicates.

    Args:
      old, new: rows of `lab.table`; TEff is read in each seed against the ladder of that seed alone.
      level: of the intervals.
      again: how the names of arms end that were run again under another rule of learning rates: they have ladders of
        their own.

    Raises:
      LabError: when a run is in both tables, or the old one has no replicates of a common cell.
    """
    if both := sorted(set(old.run_id) & set(new.run_id)):
        raise LabError(
            f"{len(both)} runs are in both tables, {both[0]} for one.",
            "New seeds make new runs: `lab sweep run --seeds`.",
        )
    before, after = values(old, again), values(new, again)
    later = dict(list(after.groupby(KEYS, sort=False)))
    cells = before.groupby(KEYS, sort=False).value.agg(["size", "mean", "var"])
    found: list[Landing] = []
    for what in (PPL, TEFF):
        part = cells[cells.index.get_level_values("what") == what]
        seeds, mean = part["size"].to_numpy(), part["mean"].to_numpy()
        noise = moderated(part["var"].to_numpy(), seeds - 1)
        if not noise.total:
            continue
        reach = student.ppf((1 + level) / 2, noise.freedom) * np.sqrt(noise.variance * (1 + 1 / seeds))
        for i, cell in enumerate(part.index):
            if cell in later:
                there = sorted(zip(later[cell].seed.tolist(), later[cell].value.tolist(), strict=True))
                ends = float(mean[i] - reach[i]), float(mean[i] + reach[i])
                _, arm, language = cell
                found.append(Landing(what, arm, language, int(seeds[i]), *ends, tuple(there)))
    if not found:
        raise LabError(
            "Nothing can be predicted: the tables have no cell in common of which the old one has two seeds.",
            "Compare two tables of one study at one scale.",
        )
    return tuple(found)


def values(table: pd.DataFrame, again: str = "") -> pd.DataFrame:
    """ln PPL of every usable row, and ln TEff of languages that are not alone, by `KEYS` and seed."""
    rows = usable(table)
    parts = [_part(PPL, rows, np.log(rows.ppl.astype(float)), rows.seed_init)]
    rule = rows.arm.str.endswith(again) if again else pd.Series(False, rows.index)
    for (seed, _), own in rows.groupby([rows.seed_init, rule]):
        own = readable(own)
        if own.empty:
            continue
        worth = measure(own).frame
        worth = worth[~worth.alone & (worth.bound_local == "exact")]
        parts.append(_part(TEFF, worth, np.log(worth.teff_local.astype(float)), pd.Series(seed, worth.index)))
    return pd.concat(parts, ignore_index=True)


def _part(what: str, rows: pd.DataFrame, value: Any, seed: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"what": what, "arm": rows.arm, "language": rows.language, "seed": seed, "value": value})
