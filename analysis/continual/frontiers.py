"""Least loss for a compute, of the runs (a power law through their lower envelope) and of the laws, accounted two ways.

The paper counts a continued run without its parent, which someone else has paid for. Amortised over k targets, the
parent costs C_parent / k more; k = 1 pays for all of it, k = inf is the paper's accounting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis import surface
from analysis.frontier import PowerLaw, power_law
from analysis.law import Law
from lab.errors import LabError

GRID = 4000


def counted(runs: pd.DataFrame, targets: float = math.inf) -> pd.Series:
    """FLOPs of each run of `points` with its parent's divided among `targets` (inf: the parent is free)."""
    paid = runs.parent_C.fillna(0.0) / targets if math.isfinite(targets) else 0.0
    return runs.C + paid


def envelope(flops: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Mask of the points on the lower envelope: no other point has less loss for as little compute."""
    order = np.lexsort((loss, flops))
    best = np.minimum.accumulate(loss[order])
    on = np.zeros(len(loss), bool)
    on[order] = loss[order] <= best
    return on


def frontier(flops: np.ndarray, loss: np.ndarray) -> PowerLaw:
    """L = A C^-g through the lower envelope of the runs (arXiv:2407.02118, eq. 3 with E' = 0).

    Raises:
      LabError: when the envelope has fewer than two points.
    """
    on = envelope(flops, loss)
    if on.sum() < 2:
        raise LabError("A frontier needs two runs or more on its envelope.", "Train more sizes or budgets.")
    return power_law(flops[on], loss[on])


def saved_at(scratch: PowerLaw, cpt: PowerLaw, flops: np.ndarray) -> np.ndarray:
    """Share of `flops` that continuing saves at the loss which the scratch frontier has there."""
    loss = scratch(np.asarray(flops, float))
    needed = (cpt.coefficient / loss) ** (-1 / cpt.exponent)
    return np.asarray(1 - needed / flops)


@dataclasses.dataclass(frozen=True, eq=False)
class Paid:
    """What one pays for the parent of a continued run.

    Attributes:
      tokens: power law of the parent's tokens in its size N.
      targets: among how many continued runs its cost is divided.
    """

    tokens: PowerLaw
    targets: float

    def cost(self, n: np.ndarray) -> np.ndarray:
        return 6 * n * self.tokens(n) / self.targets


def parents(runs: pd.DataFrame, targets: float) -> Paid:
    """The accounting of the parents in a table: their tokens over size as a power law (a constant at one size).

    Raises:
      LabError: when no run is continued.
    """
    continued = runs[runs.role == "cpt"].drop_duplicates(["parent_N", "parent_D"])
    if continued.empty:
        raise LabError("No run of the table continues another: no parent is to be paid for.")
    n, tokens = continued.parent_N.to_numpy(float), continued.parent_D.to_numpy(float)
    if len(np.unique(n)) < 2:
        return Paid(PowerLaw(float(np.exp(np.log(tokens).mean())), 0.0, 0.0), targets)
    return Paid(power_law(n, tokens), targets)


def optima(law: Law, params: Mapping[str, float], flops: np.ndarray, paid: Paid | None = None) -> dict[str, np.ndarray]:
    """`N`, `D` and `loss` of the best continued run for each total budget [m], the parent paid for or free.

    Minimises over N with 6 N D = C - the parent's part; NaN where the parent leaves nothing, or the loss still falls at
    an end of the searched sizes.
    """
    out = {name: np.full(len(flops), np.nan) for name in ("N", "D", "loss")}
    for i, budget in enumerate(np.asarray(flops, float)):
        n = np.geomspace(1e2, max(budget / 6, 1e3), GRID)
        left = budget - (0.0 if paid is None else paid.cost(n))
        d = left / (6 * n)
        keep = (left > 0) & (d >= 1)
        if keep.sum() < 3:
            continue
        loss = surface.loss(law, params, {"N": n[keep], "D": d[keep]})
        best = int(np.nanargmin(loss))
        if not 0 < best < len(loss) - 1:
            continue
        for name, values in (("N", n[keep]), ("D", d[keep]), ("loss", loss)):
            out[name][i] = values[best]
    return out


def breakeven(law: Law, scratch: Mapping[str, float], cpt: Mapping[str, float]) -> float:
    """Compute at which the continued law's optimal size meets the scratch law's; above it the order turns.

    From the closed forms N* = G (C/6)^a of both (arXiv:2407.02118, eq. 2 and 5), which cross once; inf where they never
    do.

    Raises:
      LabError: where a law has no optimum.
    """
    low, high = 1e6, 1e36
    ratio = [math.log(law.optimum(cpt, c)["N"] / law.optimum(scratch, c)["N"]) for c in (low, high)]
    slope = (ratio[1] - ratio[0]) / math.log(high / low)
    return math.inf if slope == 0 else float(low * math.exp(-ratio[0] / slope))
