"""The two sides of every figure of the imbalance study, published and measured, in one form.

Both speak of arms in the study's names, of sizes by role (smaller, main, larger), and of tokens in units of T, so that
one function draws either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.reference import TokenLaw
from figures.provenance import Provenance
from figures.published import EXACT, RECOVERED, Published

ROLES = ("smaller", "main", "larger")
# What a frame of a side holds, beside the value itself: its spread, and whether it is exact, read off a plot, a bound.
RESULTS = [
    "arm", "times", "size", "language", "share", "ppl", "ppl_low", "ppl_high", "ppl_exact",
    "teff", "teff_low", "teff_high", "teff_exact", "teff_kind", "seeds", "runs",
]  # fmt: skip
LADDERS = ["size", "language", "x", "ppl", "ppl_low", "ppl_high", "ppl_exact", "runs"]
PROBES = [
    "probe", "arm", "times", "size", "place", "language", "condition", "value", "value_low", "value_high",
    "value_exact", "value_kind", "runs",
]  # fmt: skip


def reference(language: str) -> str:
    """The language whose ladder a language is read against: a clone is the same text as `l1`."""
    return "l2" if language == "l2" else "l1"


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of the comparison; frames have the columns RESULTS, LADDERS and PROBES, and may be empty.

    Attributes:
      title: of its panels.
      sizes: what its sizes are called, by role.
      tokens: T.
      laws: by size and language.
      rough: which of them were read off a plot.
      remarks: what must be said of its numbers, a sentence each.
    """

    title: str
    sizes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokens: float = 1.0
    results: pd.DataFrame = dataclasses.field(default_factory=lambda: empty(RESULTS))
    ladders: pd.DataFrame = dataclasses.field(default_factory=lambda: empty(LADDERS))
    laws: Mapping[tuple[str, str], TokenLaw] = dataclasses.field(default_factory=dict)
    rough: frozenset[tuple[str, str]] = frozenset()
    probes: pd.DataFrame = dataclasses.field(default_factory=lambda: empty(PROBES))
    remarks: tuple[str, ...] = ()

    def law(self, size: str, language: str, x: np.ndarray) -> np.ndarray | None:
        """MLPE: perplexity of the language alone at x T tokens; NaN below the law's pole; None without a law."""
        law = self.laws.get((size, reference(language)))
        return None if law is None else np.exp(law.log_ppl(np.asarray(x) * self.tokens))

    def pick(self, arms: str, times: float | None = None, size: str | None = "main") -> pd.DataFrame:
        """The results of the arms that match a pattern (with `p`, the second language's share)."""
        return _picked(self.results, arms, times, size)

    def probed(self, probe: str, arms: str = ".*", condition: str | None = None) -> pd.DataFrame:
        """The rows of one probe, in models of the main size after T tokens."""
        rows = _picked(self.probes[self.probes.probe == probe], arms, 1.0, "main")
        return rows if condition is None else rows[rows.condition == condition]

    def ladder(self, size: str, language: str) -> pd.DataFrame:
        rows = self.ladders
        return rows[(rows["size"] == size) & (rows.language == language)].sort_values("x")


def _picked(rows: pd.DataFrame, arms: str, times: float | None, size: str | None) -> pd.DataFrame:
    keep = rows.arm.str.fullmatch(arms).astype(bool)
    if times is not None:
        keep &= rows.times == times
    if size is not None:
        keep &= rows["size"] == size
    return rows[keep]


def missing(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    """The arms that the published rows have and the measured ones lack, by name."""
    there = set(map(tuple, measured[["arm", "times", "size"]].to_numpy()))
    wanted = published[["arm", "times", "size"]].drop_duplicates()
    return [
        f"{arm}, {times:g} T" + ("" if size == "main" else f" ({size} size)")
        for arm, times, size in map(tuple, wanted.to_numpy())
        if (arm, times, size) not in there
    ]


@dataclasses.dataclass(frozen=True)
class Sides:
    """Both sides, and where a figure of them says that it comes from.

    Attributes:
      table: that the measured side was read from, or the file of published numbers where there is none.
    """

    published: Side
    measured: Side
    table: Path
    paper: Published

    @property
    def notes(self) -> Mapping[str, str]:
        """By artefact, what a reader of the published numbers must know."""
        return self.paper.notes

    @property
    def both(self) -> tuple[Side, Side]:
        return self.published, self.measured

    def provenance(self, function: str, *frames: pd.DataFrame) -> Provenance:
        """Of a figure that shows these rows."""
        runs = {run for frame in frames if "runs" in frame for shown in frame.runs for run in shown}
        return Provenance.of(self.table, f"figures.imbalance.{function}", runs)


def published_side(found: Published) -> Side:
    """The paper's numbers."""
    laws, rough = {}, set()
    for row in found.laws.to_dict("records"):
        key = (str(row["size"]), str(row["language"]))
        points = found.ladders[(found.ladders["size"] == key[0]) & (found.ladders.language == key[1])]
        laws[key] = TokenLaw.of({name: float(row[name]) for name in "abc"}, float(points.x.max()) * found.tokens)
        if row["evidence"] not in RECOVERED:
            rough.add(key)
    return Side(
        title="published",
        sizes=found.sizes,
        tokens=found.tokens,
        results=_published_results(found.results),
        ladders=_with_runs(_spread(_best_ladders(found.ladders), "ppl", "error", "evidence"))[LADDERS],
        laws=laws,
        rough=frozenset(rough),
        probes=_published_probes(found.probes),
    )


def _published_results(rows: pd.DataFrame) -> pd.DataFrame:
    rows = _spread(rows, "ppl", "ppl_error", "ppl_evidence")
    rows = _spread(rows, "teff", "teff_error", "teff_evidence")
    rows["times"] = rows.times.astype(float)
    return _with_runs(rows.assign(seeds=1))[RESULTS]


def _published_probes(rows: pd.DataFrame) -> pd.DataFrame:
    rows = _spread(rows, "value", "error", "evidence").rename(columns={"kind": "value_kind"})
    rows["times"] = rows.times.astype(float)
    return _with_runs(rows)[PROBES]


def _best_ladders(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a point: the exact number where there is one."""
    ordered = rows.assign(rank=(~rows.evidence.isin(EXACT)).astype(int)).sort_values("rank", kind="stable")
    return ordered.drop_duplicates(["size", "language", "x"])


def _spread(rows: pd.DataFrame, value: str, error: str, evidence: str) -> pd.DataFrame:
    """Adds the ends of what was read off a plot, and whether the number is exact."""
    margin = rows[error].astype(float).fillna(0.0)
    return rows.assign(
        **{
            f"{value}_low": rows[value] - margin,
            f"{value}_high": rows[value] + margin,
            f"{value}_exact": rows[evidence].isin(EXACT),
        }
    )


def _with_runs(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(runs=pd.Series([()] * len(rows), rows.index, object))


def empty(columns: list[str]) -> pd.DataFrame:
    """A frame of no rows whose text columns can be matched."""
    frame = pd.DataFrame(columns=columns)
    return frame.astype({c: str for c in ("arm", "size", "language", "probe", "place", "condition") if c in columns})
