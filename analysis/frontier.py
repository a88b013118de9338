"""Approaches 1 and 2 of arXiv:2203.15556 to the compute-optimal size, for comparison, with their bias at hand.

Approach 1 takes the lower envelope of loss curves. Approach 2 fits a parabola in log N to each budget. Both only see
the runs near the optimum, and a parabola is not the shape of L(log N): even without noise the intercepts, and where
the grid drifts with the budget also the exponents, are off (arXiv:2603.22339). Here the bias is not a footnote: the
same procedure is run on the losses a fitted law predicts for the same runs, and compared with that law's optimum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from analysis import surface
from analysis.allocate import frontier as law_frontier
from analysis.compare import distinct
from analysis.law import Law
from lab.errors import LabError

ENVELOPE_BINS = 1500
FEWEST_BUDGETS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class PowerLaw:
    """y = coefficient * C^exponent by (weighted) least squares in logs, with the exponent's standard error."""

    coefficient: float
    exponent: float
    se: float

    def __call__(self, c: np.ndarray) -> np.ndarray:
        return np.asarray(self.coefficient * np.asarray(c) ** self.exponent)


@dataclasses.dataclass(frozen=True, eq=False)
class Frontier:
    """Optimal sizes by one approach.

    Attributes:
      approach: `envelope` (1) or `isoflop` (2).
      flops, n, d: budgets and their optima [m].
      size, tokens: power laws through them.
      dropped: budgets without an inner minimum, and why.
      bias: relative error of `size` at the smallest and largest budget, and of its exponent (absolute), if the
        reference law were true; None without one.
    """

    approach: str
    flops: np.ndarray
    n: np.ndarray
    d: np.ndarray
    size: PowerLaw
    tokens: PowerLaw
    dropped: tuple[str, ...]
    bias: tuple[float, float, float] | None = None


def power_law(c: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> PowerLaw:
    """Least squares of log y on log c with weights (1/variance of log y, for example).

    Raises:
      LabError: for fewer than two budgets.
    """
    if len(np.unique(c)) < 2:
        raise LabError("A power law needs optima at two budgets or more.")
    w = np.ones(len(c)) if weight is None else np.asarray(weight, float)
    x, z = np.log(c), np.log(y)
    mx, mz = np.average(x, weights=w), np.average(z, weights=w)
    spread = np.sum(w * (x - mx) ** 2)
    slope = float(np.sum(w * (x - mx) * (z - mz)) / spread)
    rest = z - mz - slope * (x - mx)
    se = float(np.sqrt(np.sum(w * rest**2) / max(len(c) - 2, 1) / spread))
    return PowerLaw(float(np.exp(mz - slope * mx)), slope, se)


def isoflop(flops: np.ndarray, n: np.ndarray, loss: np.ndarray, points: int = 5) -> Frontier:
    """Approach 2: per budget a parabola through the losses against log N; the vertex is the optimal size.

    Args:
      flops, n, loss: of the runs [m]; budgets within 1 % are one.
      points: fewest sizes a budget needs.

    Raises:
      LabError: when fewer than FEWEST_BUDGETS budgets have an inner minimum.
    """
    code = distinct(flops)
    budgets, sizes, dropped = [], [], []
    for k in range(code.max() + 1):
        at = code == k
        c = float(np.exp(np.log(flops[at]).mean()))
        x, y = np.log(n[at]), loss[at]
        if distinct(n[at]).max() + 1 < points:
            dropped.append(f"{c:.3g} FLOPs: {distinct(n[at]).max() + 1} sizes, fewer than {points}")
            continue
        a, b, _ = np.polyfit(x - x.mean(), y, 2)
        vertex = x.mean() - b / (2 * a) if a > 0 else np.inf
        if not (x.min() <= vertex <= x.max()):
            dropped.append(f"{c:.3g} FLOPs: no minimum between the sizes trained")
            continue
        budgets.append(c)
        sizes.append(float(np.exp(vertex)))
    if len(budgets) < FEWEST_BUDGETS:
        raise LabError(
            f"{len(budgets)} of {code.max() + 1} budgets have an inner minimum among {points} sizes or more.",
            f"A parabola per budget needs {FEWEST_BUDGETS} such budgets: runs of several sizes at equal FLOPs.",
        )
    at_c, size = np.array(budgets), np.array(sizes)
    tokens = at_c / (6 * size)
    return Frontier("isoflop", at_c, size, tokens, power_law(at_c, size), power_law(at_c, tokens), tuple(dropped))


def envelope(flops: np.ndarray, n: np.ndarray, loss: np.ndarray, bins: int = ENVELOPE_BINS) -> Frontier:
    """Approach 1: interpolate each size's loss in log C, take the best size at each of `bins` budgets.

    Bins in which the best size is the smallest or largest trained are left out: there the grid, not the law, decides.

    Raises:
      LabError: when fewer than three sizes have curves, or no inner budget is left.
    """
    sizes = np.unique(n)
    curves = [(s, np.log(flops[n == s]), loss[n == s]) for s in sizes if (n == s).sum() > 1]
    if len(curves) < 3:
        raise LabError("The envelope needs loss curves (two or more budgets) of at least three sizes.")
    grid = np.linspace(min(c[1].min() for c in curves), max(c[1].max() for c in curves), bins)
    height = np.full((len(curves), bins), np.inf)
    for i, (_, x, y) in enumerate(curves):
        order = np.argsort(x)
        inside = (grid >= x.min()) & (grid <= x.max())
        height[i, inside] = np.interp(grid[inside], x[order], y[order])
    best = np.argmin(height, axis=0)
    seen = np.isfinite(height).sum(0) > 1
    inner = seen & (best > 0) & (best < len(curves) - 1)
    if inner.sum() < 2:
        raise LabError("At no budget does a size between the smallest and the largest win.", "Train more sizes.")
    c = np.exp(grid[inner])
    size = np.array([curve[0] for curve in curves])[best[inner]]
    tokens = c / (6 * size)
    outside = bins - int(inner.sum())
    dropped = (f"{outside} of {bins} budgets: the best size is not between two others",) if outside else ()
    return Frontier("envelope", c, size, tokens, power_law(c, size), power_law(c, tokens), dropped)


def with_bias(
    approach: Callable[[np.ndarray, np.ndarray, np.ndarray], Frontier],
    flops: np.ndarray,
    n: np.ndarray,
    loss: np.ndarray,
    law: Law,
    params: surface.Values,
    x: surface.Values | None = None,
) -> Frontier:
    """The approach's frontier with its bias on this very grid if `law` at `params` were the truth.

    Raises:
      LabError: as the approach does.
    """
    found = approach(flops, n, loss)
    exact = surface.loss(law, params, {**(x or {}), "N": n, "D": flops / (6 * n)})
    try:
        replayed = approach(flops, n, exact)
    except LabError:
        return found
    ends = np.array([found.flops.min(), found.flops.max()])
    truth = law_frontier(law, params, ends, x)["N"]
    error = replayed.size(ends) / truth - 1
    slope = float(np.log(truth[1] / truth[0]) / np.log(ends[1] / ends[0]))
    return dataclasses.replace(found, bias=(float(error[0]), float(error[1]), replayed.size.exponent - slope))
