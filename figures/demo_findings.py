"""The demo's table taken apart, and every number of its report computed once."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pandas as pd

from analysis import Fit, bootstrap, fit
from analysis.intervals import Draws, Interval
from figures.drawing import Provenance
from figures.transfer import MonolingualLaw, Worth, monolingual_law, worth
from lab.errors import LabError
from lab.table import read_table

RESAMPLES = 2000
DESIGN_NOISE = 0.01
LANGUAGES = {"en": "English", "enm": "Middle English", "en2": "clone of English"}


@dataclasses.dataclass(frozen=True)
class Demo:
    """The demo's table, taken apart.

    Attributes:
      table: rows that no rule excludes, with `alone` (a monolingual run) and `share` (of the row's language).
      excluded: rows that a rule excludes.
      mixed_width: width of the size that has every arm.
    """

    path: Path
    table: pd.DataFrame
    excluded: pd.DataFrame
    mixed_width: int

    @property
    def english(self) -> pd.DataFrame:
        """The factorial grid of the law: English alone, at the budgets that every size has."""
        alone = self.table[self.table.alone & (self.table.language == "en")]
        sizes = alone.groupby("tokens_seen").d_model.transform("nunique")
        return alone[sizes == alone.d_model.nunique()]

    def ladder(self, language: str) -> pd.DataFrame:
        t = self.table
        return t[t.alone & (t.language == language) & (t.d_model == self.mixed_width)]

    @property
    def mixed(self) -> pd.DataFrame:
        return self.table[~self.table.alone]

    def provenance(self, function: str, rows: pd.DataFrame) -> Provenance:
        return Provenance.of(self.path, f"figures.demo.{function}", rows.run_id)


def read(path: Path) -> Demo:
    """Reads the demo's table.

    Raises:
      LabError: when runs that the figures need are missing, naming their arms.
    """
    table = read_table(path)
    excluded = table[table.exclusion.notna()]
    table = table[table.exclusion.isna()].copy()
    table["alone"] = ~table.mixture.str.contains(" ")
    table["share"] = table.tokens_language / table.tokens_seen
    if not (~table.alone).any():
        raise LabError(f"{path} has no mixture runs.", "Finish `lab sweep run demo`, then collect.")
    demo = Demo(path, table, excluded, int(table[~table.alone].d_model.mode()[0]))
    for language in ("en", "enm"):
        if demo.ladder(language).tokens_seen.nunique() < 4:
            raise LabError(
                f"{path} has no full monolingual ladder of {LANGUAGES[language]}: TEff needs 4 budgets.",
                f"Finish the arm `{LANGUAGES[language]} alone` with `lab sweep run demo`, then collect.",
            )
    return demo


@dataclasses.dataclass(frozen=True)
class FittedLaw:
    """A fit, its default intervals (profile likelihood) and its bootstrap; neither where it is not identified."""

    fit: Fit
    intervals: dict[str, Interval]
    draws: Draws | None

    @classmethod
    def of(cls, fitted: Fit) -> FittedLaw:
        if not fitted.identified:
            return cls(fitted, {}, None)
        return cls(fitted, fitted.intervals(), bootstrap(fitted, RESAMPLES))


@dataclasses.dataclass(frozen=True)
class Findings:
    """Every number of the report."""

    tied: FittedLaw
    chinchilla: FittedLaw
    ladders: dict[str, MonolingualLaw]
    worths: list[Worth]


def analyse(demo: Demo) -> Findings:
    grid = partial(fit, demo.english, n="n_nonembedding", d="tokens_language")
    ladders = {language: monolingual_law(demo.ladder(language), language) for language in ("en", "enm")}
    ladders["en2"] = ladders["en"]  # a clone is the same text: one law serves both
    worths = []
    for (_, language), rows in demo.mixed.groupby(["mixture", "language"], sort=False):
        worths.append(worth(ladders[str(language)], rows, str(language)))
    worths.sort(key=lambda w: (w.language, w.share))
    return Findings(
        tied=FittedLaw.of(grid("tied")),
        chinchilla=FittedLaw.of(grid("chinchilla")),
        ladders=ladders,
        worths=worths,
    )
