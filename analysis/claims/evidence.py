"""Estimates with intervals: one joint bootstrap over seeds, ladder and evaluation documents.

Each draw redraws the seeds (a common effect of each seed, so that arms are paired by it, and each run's own), the
evaluation documents (the same multiplicities for all arms that are scored on one text), refits every ladder to what it
has become, and reads every statistic anew.

Three seeds cannot be resampled: 10 distinct resamples exist, and their percentiles cover far less than they claim.
Therefore runs are drawn from normal distributions with the moderated variances of `analysis.noise`, and an interval
is the estimate plus t / z times the draws' distance from their median to their 16th and 84th percentiles, with t at the
degrees of freedom of the estimate's own sources of noise (Satterthwaite 1946). `benchmarks/claim_coverage.py` measures
what these intervals cover.

The sliding protocol's perplexity has no per-document values: documents enter ln PPL by the plain loss's change.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import MutableMapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.estimands import LOSS, PPL, Span, Statistic
from analysis.reference import Reference
from analysis.teff import Ladder
from lab.errors import LabError

Reading = Literal["law", "local"]
LEVEL = 0.95
# Refits of one law differ by so much among draws that do not concern it.
ROUNDING = 1e-6
# One standard deviation on either side of a normal's median.
ONE_SD = stats.norm.cdf(-1), stats.norm.cdf(1)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A statistic with its noise.

    Attributes:
      low, high: the estimate; they differ, and are infinite, where it is only bounded.
      below, above: its standard error on either side; infinite where too many draws are bounds.
      freedom: degrees of freedom of those.
      seeds, documents: variances by what they come from, seeds at the numbers that were run.
    """

    low: float
    high: float
    below: float
    above: float
    freedom: float
    seeds: float
    documents: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Its two-sided interval; infinite at an open end."""
        t = self.quantile(level)
        return self.low - t * self.below, self.high + t * self.above

    def quantile(self, level: float = LEVEL) -> float:
        return float(stats.t.ppf((1 + level) / 2, self.freedom)) if self.freedom > 0 else np.inf

    def p_above(self, value: float) -> float:
        """One-sided p of the statistic not being above `value`."""
        return self._p(self.low - value, self.below)

    def p_below(self, value: float) -> float:
        """One-sided p of the statistic not being below `value`."""
        return self._p(value - self.high, self.above)

    def _p(self, distance: float, error: float) -> float:
        if not (np.isfinite(distance) and np.isfinite(error) and self.freedom > 0):
            return 1.0
        if error == 0:
            return float(distance <= 0)
        return float(stats.t.sf(distance / error, self.freedom))


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """A result table, and what probes measured, ready to be asked; `analysis.claims.gather` makes it.

    Attributes:
      cells: one row for each arm and language (`what` is "ln PPL", or "loss") or probe (`what` is its name): arm, what,
        language, mean over seeds, seeds, variance of one run and its freedom, error of the mean, and of scores tokens,
        tokens_seen, n_nonembedding, parameters, reference, eval_hash, bytes_per_token, flops (exact).
      weights: [cells, seeds] share of each seed in a cell's mean.
      common: variance of the effect that a seed has on all arms.
      together: correlation of a run's noise between its languages.
      total: degrees of freedom of all replicates.
      documents: eval_hash -> how many it has, where they were kept.
      ladders: (language, n_nonembedding) -> ladder.
      runs: arm -> run ids.
      draws: [cells, 1 + cells + R]: the estimate, each cell moved by its error (or a little, where that is not known),
        the joint draws.
      shifts: [cells, R] of the documents alone.
    """

    cells: pd.DataFrame
    weights: np.ndarray
    common: float
    together: float
    total: int
    ladders: dict[tuple[str, int], Ladder]
    documents: dict[str, int]
    runs: dict[str, tuple[str, ...]]
    draws: np.ndarray
    shifts: np.ndarray

    @functools.cached_property
    def _at(self) -> dict[tuple[str, str, str], list[int]]:
        keys = zip(self.cells.arm, self.cells.what, self.cells.language, strict=True)
        found: dict[tuple[str, str, str], list[int]] = {}
        for i, key in enumerate(keys):
            found.setdefault(key, []).append(i)
        return found

    @functools.cached_property
    def _references(self) -> dict[tuple[str, int, Reading], Reference]:
        return {}

    @functools.cached_property
    def memos(self) -> dict[Reading, dict[Any, Any]]:
        """What statistics keep of the draws, by the reading of ladders."""
        return {"law": {}, "local": {}}

    def cell(self, arm: str, what: str, language: str = "") -> int:
        """Row of a cell.

        Raises:
          LabError: when there is none, or the arm holds runs of several budgets.
        """
        rows = self._at.get((arm, what, language), [])
        if len(rows) != 1:
            name = {PPL: f"perplexity in {language}", LOSS: f"loss in {language}"}.get(what, what)
            problem = "has runs of several budgets" if rows else f"has no {name}"
            raise LabError(f"Arm {arm!r} {problem}.", "Collect the runs again, or name another arm.")
        return rows[0]

    def reference(self, cell: int, reading: Reading) -> Reference:
        """The ladder of a cell's language and size, refitted for every draw.

        Raises:
          LabError: when it is missing.
        """
        language, size = str(self.cells.reference[cell]), int(self.cells.n_nonembedding[cell])
        if (language, size) not in self.ladders:
            raise LabError(
                f"Arm {self.cells.arm[cell]!r} has no monolingual ladder of {language or self.cells.language[cell]} at "
                f"{size:,} parameters.",
                "Train the language alone at that size, on 4 budgets or more.",
            )
        key = (language, size, reading)
        if key not in self._references:
            ladder = self.ladders[language, size]
            where = {
                (a, t): i
                for i, (a, w, s, t) in enumerate(
                    zip(self.cells.arm, self.cells.what, self.cells.language, self.cells.tokens_seen, strict=True)
                )
                if w == PPL and s == language
            }
            rows = [where[p.arm, p.tokens] for p in ladder.points.itertuples()]
            drawn = self.draws[rows]
            self._references[key] = ladder.law_of(drawn) if reading == "law" else ladder.local_of(drawn)
        return self._references[key]

    def misfits(self, statistic_cells: list[int]) -> bool:
        """Whether the token law misfits the ladder of any of these cells."""
        keys = {(str(self.cells.reference[i]), int(self.cells.n_nonembedding[i])) for i in statistic_cells}
        return any(self.ladders[k].misfit for k in keys if k in self.ladders)

    def estimate(self, statistic: Statistic, reading: Reading = "law") -> Estimate:
        """The statistic with its noise.

        Raises:
          LabError: when it asks for an arm, a probe or a ladder that is not there.
        """
        span = statistic.of(Reader(self, reading))
        low, high = float(span.low[0]), float(span.high[0])
        first = 1 + len(self.cells)
        seeds, documents, freedom = self._sources(span)
        known = freedom > 0
        below = _distance(span.low[first:], ONE_SD[0]) if known else np.inf
        above = _distance(span.high[first:], ONE_SD[1]) if known else np.inf
        return Estimate(low, high, below, above, freedom, seeds, documents)

    def _sources(self, span: Span) -> tuple[float, float, float]:
        """Variance of an estimate from seeds and from documents, and its degrees of freedom, by its slopes."""
        value = span.low if np.isfinite(span.low[0]) else span.high
        if not np.isfinite(value[0]):
            return np.inf, np.inf, 0.0
        moved = value[1 : 1 + len(self.cells)] - value[0]
        moved = np.where(np.isfinite(moved), moved, 0.0)
        error = self.cells.error.to_numpy()
        unknown = ~np.isfinite(error)
        if (np.abs(moved[unknown]) > ROUNDING).any():
            return np.inf, np.inf, 0.0
        error = np.where(unknown, 0.0, error)
        slope = np.divide(moved, error, out=np.zeros_like(moved), where=error > 0)
        parts = []
        for _, rows in self.cells.groupby(["arm", "what"]).indices.items():
            c = moved[rows]
            variance = self.together * c.sum() ** 2 + (1 - self.together) * (c**2).sum()
            parts.append((variance, float(self.cells.freedom.to_numpy()[rows].min())))
        own, own_freedom = _satterthwaite(parts)
        own_freedom = min(own_freedom, float(self.total))
        shared = self.common * float(((slope @ self.weights) ** 2).sum())
        documents = float(np.var(slope @ self.shifts))
        fewest = min((n for n in self.documents.values() if n > 1), default=2)
        total = [(own, own_freedom), (shared, self.weights.shape[1] - 1.0), (documents, fewest - 1.0)]
        return own + shared, documents, _satterthwaite(total)[1]


@dataclasses.dataclass(frozen=True)
class Reader:
    """`analysis.claims.estimands.Sample` of all draws."""

    evidence: Evidence
    reading: Reading

    def log_ppl(self, arm: str, language: str) -> np.ndarray:
        return np.asarray(self.evidence.draws[self.evidence.cell(arm, PPL, language)])

    def tokens(self, arm: str, language: str) -> float:
        return float(self.evidence.cells.tokens[self.evidence.cell(arm, PPL, language)])

    def share(self, arm: str, language: str) -> float:
        cell = self.evidence.cell(arm, PPL, language)
        return float(self.evidence.cells.tokens[cell] / self.evidence.cells.tokens_seen[cell])

    def reference(self, arm: str, language: str) -> Reference:
        return self.evidence.reference(self.evidence.cell(arm, PPL, language), self.reading)

    def loss(self, arm: str, language: str) -> np.ndarray:
        return np.asarray(self.evidence.draws[self.evidence.cell(arm, LOSS, language)])

    def parameters(self, arm: str, language: str) -> float:
        return float(self.evidence.cells.parameters[self.evidence.cell(arm, PPL, language)])

    def bytes_per_token(self, arm: str, language: str) -> float:
        return float(self.evidence.cells.bytes_per_token[self.evidence.cell(arm, LOSS, language)])

    def flops(self, arm: str, language: str) -> float:
        return float(self.evidence.cells.flops[self.evidence.cell(arm, LOSS, language)])

    @property
    def memo(self) -> MutableMapping[Any, Any]:
        return self.evidence.memos[self.reading]

    def probe(self, arm: str, what: str) -> np.ndarray:
        return np.asarray(self.evidence.draws[self.evidence.cell(arm, what)])


def _satterthwaite(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """Sum of variances, each with its degrees of freedom, and those of the sum (Satterthwaite 1946)."""
    total = sum(v for v, _ in parts)
    if total == 0:
        return 0.0, 1.0
    if any(v > 0 and f <= 0 for v, f in parts):
        return total, 0.0
    return total, total**2 / sum(v**2 / f for v, f in parts if v > 0)


def _distance(draws: np.ndarray, quantile: float) -> float:
    """Distance of a quantile of the draws from their median; infinite where it falls among bounds."""
    if np.isfinite(draws).all():
        end, middle = np.quantile(draws, quantile), np.quantile(draws, 0.5)
    else:
        end, middle = (np.quantile(draws, q, method="inverted_cdf") for q in (quantile, 0.5))
    return float(abs(end - middle)) if np.isfinite(end) and np.isfinite(middle) else np.inf
