"""One table, every convention: how the exponent of the best size depends on what N and C count.

Counting parameters without embeddings, or FLOPs without the head, moves the exponent of N* by more than most results
claim (arXiv:2406.12907, arXiv:2406.19146). The audit refits the same rows under each convention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import laws as law_registry
from analysis import surface
from analysis.fitting import fit
from analysis.law import Law
from analysis.table import read
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

# Columns of this laboratory's result tables that count parameters and training compute.
N_COLUMNS = ("n_total", "n_nonembedding")
C_COLUMNS = ("flops_6nd", "flops_exact")
SIX_ND = "6ND"


@dataclasses.dataclass(frozen=True)
class Convention:
    """One refit.

    Attributes:
      n_column: what N counts.  c_column: what C counts; `6ND` is 6 times that N times D.
      params, value, status: of the fit (they depend on N only).
      exponent: d log N* / d log C over the budgets of the table; NaN where no optimum exists.
      n_ratio: range of N / n of the first convention over the table.
    """

    n_column: str
    c_column: str
    params: Mapping[str, float]
    value: float
    status: str
    exponent: float
    n_ratio: tuple[float, float]


def audit(
    data: pd.DataFrame | str | Path,
    law: str | Law = "chinchilla",
    *,
    n_columns: Sequence[str] = N_COLUMNS,
    c_columns: Sequence[str] = C_COLUMNS,
    **options: Any,
) -> tuple[Convention, ...]:
    """Refits `law` with every count of N, and finds the best size under every count of C.

    Args:
      n_columns: columns that count parameters; the first is the reference.
      c_columns: columns of training FLOPs; `6ND` is always added.
      options: as in `fit` (d, loss, group, objective, ...).

    Raises:
      LabError: when no column of `n_columns` is in the table, or a fit fails.
    """
    form = law_registry.get(law)
    frame = read(data) if isinstance(data, (str, Path)) else data.reset_index(drop=True)
    counts = [c for c in n_columns if c in frame.columns]
    if not counts:
        raise LabError(
            f"None of {', '.join(n_columns)} is a column.", f"The table has {', '.join(map(str, frame.columns))}."
        )
    costs = [SIX_ND, *(c for c in c_columns if c in frame.columns)]
    found = []
    for column in counts:
        one = fit(frame, form, n=column, **options)
        if len(one.table.groups) > 1:
            raise LabError("The audit compares conventions within one group.", "Filter the table to one group.")
        rows = one.table.row
        n, d = one.table.columns["N"], one.table.columns["D"]
        reference = frame[counts[0]].to_numpy(float)[rows]
        ratio = (float((n / reference).min()), float((n / reference).max()))
        for cost in costs:
            c = 6 * n * d if cost == SIX_ND else frame[cost].to_numpy(float)[rows]
            per_token = flops_per_token(n, c / d)
            slope = local_exponent(form, one.params_of(), per_token, float(c.min()), float(c.max()))
            found.append(Convention(column, cost, one.params, one.value, one.status, slope, ratio))
    return tuple(found)


@dataclasses.dataclass(frozen=True, eq=False)
class FlopsPerToken:
    """FLOPs a token as a function of N: a straight line in logs between the sizes trained, and beyond them."""

    log_n: np.ndarray
    log_f: np.ndarray

    def __call__(self, log_n: np.ndarray) -> np.ndarray:
        if len(self.log_n) == 1:
            return self.log_f[0] + (log_n - self.log_n[0])
        inner = np.interp(log_n, self.log_n, self.log_f)
        slope = np.diff(self.log_f) / np.diff(self.log_n)
        below, above = log_n < self.log_n[0], log_n > self.log_n[-1]
        inner = np.where(below, self.log_f[0] + slope[0] * (log_n - self.log_n[0]), inner)
        return np.where(above, self.log_f[-1] + slope[-1] * (log_n - self.log_n[-1]), inner)


def flops_per_token(n: np.ndarray, per_token: np.ndarray) -> FlopsPerToken:
    """Interpolates the measured FLOPs a token [m] over sizes n [m]; rows of one size are averaged."""
    sizes = np.unique(n)
    mean = np.array([np.log(per_token[n == s]).mean() for s in sizes])
    return FlopsPerToken(np.log(sizes), mean)


def best_size(law: Law, params: surface.Values, per_token: FlopsPerToken, flops: float) -> float:
    """N of least loss with per_token(N) * D = flops; NaN where the loss has no inner minimum.

    Zooms in on a grid: the interpolated cost has kinks, at which derivatives would mislead.
    """
    low, high = 0.0, float(np.log(flops))
    for _ in range(12):
        grid = np.linspace(low, high, 201)
        d = np.exp(np.log(flops) - per_token(grid))
        values = surface.log_loss(law, params, {"N": np.exp(grid), "D": d})
        best = int(np.nanargmin(values))
        if best in (0, len(grid) - 1):
            return float("nan")
        low, high = grid[best - 1], grid[best + 1]
    return float(np.exp(0.5 * (low + high)))


def local_exponent(law: Law, params: surface.Values, per_token: FlopsPerToken, low: float, high: float) -> float:
    """d log N* / d log C between two budgets under a count of C."""
    sizes = [best_size(law, params, per_token, c) for c in (low, high)]
    return float(np.log(sizes[1] / sizes[0]) / np.log(high / low))
