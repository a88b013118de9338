"""What seeds alone do to a loss, from the replicated cells of a result table; and the smallest effect that shows.

A *cell* is everything a row names but its seeds. All deviations are of log loss, so .01 is 1 % of the loss.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CELL = (
    "arm", "mixture", "language", "n_total", "n_nonembedding", "context", "tokens_seen", "peak_lr", "weight_decay",
    "schedule", "batch_tokens",
)  # fmt: skip
BLOCK = ("n_nonembedding", "tokens_seen", "language")
SLOPE_CELLS = 8  # fewer replicated cells show no dependence on N and D
LEVEL, POWER = 0.05, 0.8


@dataclasses.dataclass(frozen=True)
class Slope:
    """d log sigma / d log of a variable, and its standard error."""

    value: float
    se: float


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviation of log loss from seed to seed.

    Attributes:
      sigma: over all cells.
      degrees: of freedom of sigma; infinite where it is assumed.
      cells: replicated cells.
      n, d: how sigma changes with N (n_nonembedding) and D (tokens_seen), at their geometric means `centre`; None
        where too few cells tell.
      ranges: the N and the D that were seen, least and most; beyond them sigma stays what it is at their end.
      paired: standard deviation of the difference between two arms of one seed; None where no two arms share seeds.
      paired_degrees: its degrees of freedom.
    """

    sigma: float
    degrees: float
    cells: int = 0
    n: Slope | None = None
    d: Slope | None = None
    centre: tuple[float, float] = (1.0, 1.0)
    ranges: tuple[tuple[float, float], tuple[float, float]] = ((0.0, math.inf), (0.0, math.inf))
    paired: float | None = None
    paired_degrees: float = math.inf

    def at(self, n: np.ndarray | Sequence[float], d: np.ndarray | Sequence[float]) -> np.ndarray:
        """sigma(N, D), one for each row."""
        log_sigma = np.full(np.shape(n), math.log(self.sigma))
        for slope, value, centre, seen in zip((self.n, self.d), (n, d), self.centre, self.ranges, strict=True):
            if slope is not None:
                log_sigma = log_sigma + slope.value * np.log(np.clip(value, *seen) / centre)
        return np.exp(log_sigma)

    def detectable(self, seeds: int) -> float:
        """Smallest difference of log loss between two arms that `seeds` pairs show, at 5 % two-sided and power .8.

        (t_{.975} + t_{.8}) sd / sqrt(seeds), with sd that of a difference of two arms trained with the same seed where
        the table has such pairs, and sqrt(2) sigma where it has none.
        """
        from scipy.stats import t

        known = self.paired is not None
        sd = self.paired if self.paired is not None else math.sqrt(2) * self.sigma
        degrees = self.paired_degrees if known else self.degrees
        return float((t.ppf(1 - LEVEL / 2, degrees) + t.ppf(POWER, degrees)) * sd / math.sqrt(seeds))


def noise_of(table: pd.DataFrame) -> Noise | None:
    """The noise in a result table, or None where no cell has two seeds."""
    rows = table[table.loss.notna() & table.exclusion.isna()].copy()
    rows["log_loss"] = np.log(rows.loss)
    found = rows.groupby(list(CELL), dropna=False).log_loss.agg(["var", "count"]).reset_index()
    found = found[(found["count"] > 1) & (found["var"] > 0)]
    if found.empty:
        return None
    variance, degrees = found["var"].to_numpy(), found["count"].to_numpy() - 1.0
    log_x = np.log(found[["n_nonembedding", "tokens_seen"]].to_numpy(float))
    slopes: list[Slope | None] = [None, None]
    varied = np.flatnonzero(np.ptp(log_x, axis=0) > 0)
    sigma = math.sqrt(float(np.sum(degrees * variance) / degrees.sum()))
    if len(found) >= SLOPE_CELLS and len(varied):
        design = np.column_stack([np.ones(len(found)), (log_x - log_x.mean(0))[:, varied]])
        coefficients, se = _log_variance(design, variance, degrees)
        sigma = math.exp(coefficients[0] / 2)
        for k, column in enumerate(varied, start=1):
            slopes[column] = Slope(float(coefficients[k]) / 2, float(se[k]) / 2)
    paired, paired_degrees = _paired(rows)
    centre, low, high = (np.exp(v) for v in (log_x.mean(0), log_x.min(0), log_x.max(0)))
    return Noise(
        sigma=sigma,
        degrees=float(degrees.sum()),
        cells=len(found),
        n=slopes[0],
        d=slopes[1],
        centre=(float(centre[0]), float(centre[1])),
        ranges=((float(low[0]), float(high[0])), (float(low[1]), float(high[1]))),
        paired=paired,
        paired_degrees=paired_degrees,
    )


def _log_variance(design: np.ndarray, variance: np.ndarray, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of log sigma^2 and their standard errors, by maximum likelihood.

    k s^2 / sigma^2 is chi-squared with k degrees of freedom: a gamma model with log link, by Fisher scoring.
    """
    beta = np.zeros(design.shape[1])
    beta[0] = math.log(np.sum(degrees * variance) / degrees.sum())
    information = design.T @ (design * (degrees / 2)[:, None])
    for _ in range(100):
        step = np.linalg.solve(information, design.T @ (degrees / 2 * (variance / np.exp(design @ beta) - 1)))
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            break
    return beta, np.sqrt(np.diag(np.linalg.inv(information)))


def _paired(rows: pd.DataFrame) -> tuple[float | None, float]:
    """sd of the difference of two arms of one seed, and its degrees: what arm and seed leave over, times sqrt(2)."""
    squares, degrees = 0.0, 0
    for _, block in rows.groupby(list(BLOCK)):
        if block.arm.nunique() < 2:
            continue
        whole = block.pivot_table(index="arm", columns=["seed_init", "seed_data"], values="log_loss").dropna(axis=1)
        arms, seeds = whole.shape
        if seeds < 2:
            continue
        y = whole.to_numpy()
        left = y - y.mean(0, keepdims=True) - y.mean(1, keepdims=True) + y.mean()
        squares += float(np.sum(left**2))
        degrees += (arms - 1) * (seeds - 1)
    return (None, math.inf) if degrees == 0 else (math.sqrt(2 * squares / degrees), float(degrees))
