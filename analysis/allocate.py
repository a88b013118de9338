"""So what size and how many tokens? The allocation a law recommends, with its interval and the cost of being wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from analysis import surface
from analysis.law import Law
from analysis.laws.constrained import MOST_EPOCHS
from analysis.optimum import Budget, budget_for, minimise
from lab.errors import LabError


@dataclasses.dataclass(frozen=True)
class Range:
    """Percentile interval over parameter draws; an infinite end means that the draws leave it open."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A compute-optimal run.

    Attributes:
      law: that recommends it.
      flops: what it spends, serving included; below the budget where data is the limit.
      n, d, loss: parameters, training tokens, predicted nats per token.
      tokens_per_parameter, epochs: d / n; passes over the unique tokens (None when they are not limited).
      capped: the epoch cap, and not the law, set d.
      intervals: of n, d, loss and tokens_per_parameter, empty without draws.
      deadweight: median over draws of the share of compute wasted if that draw were the truth: 1 - C_eq / C, C_eq the
        budget at which the true optimum reaches the loss that this allocation attains.
      deadweight_high: its upper percentile.
      open_draws: share of draws in which no finite optimum exists.
    """

    law: str
    flops: float
    n: float
    d: float
    loss: float
    tokens_per_parameter: float
    epochs: float | None
    capped: bool
    intervals: Mapping[str, Range]
    deadweight: float | None
    deadweight_high: float | None
    open_draws: float
    level: float


def allocate(
    law: Law,
    params: surface.Values,
    flops: float,
    *,
    draws: Mapping[str, np.ndarray] | None = None,
    inference_tokens: float = 0.0,
    unique_tokens: float | None = None,
    max_epochs: float = MOST_EPOCHS,
    at: surface.Values | None = None,
    level: float = 0.95,
) -> Allocation:
    """The N and D of least loss for a compute budget C = 6 N D + 2 N D_inference.

    Args:
      law: with the variables N and D, and U where data is limited.
      params: its parameters.
      flops: the budget C, for training and serving.
      draws: bootstrap draws of the parameters, each [R], for intervals and deadweight loss.
      inference_tokens: tokens the model will serve (arXiv:2401.00448).
      unique_tokens: distinct training tokens; the law must have U.
      max_epochs: no recommendation beyond this many passes over them: laws of repeated data fall with D for ever.
      at: the law's other variables.

    Raises:
      LabError: for a law without N, D (or U), or one whose loss has no minimum on the budget's curve.
    """
    x = dict(at or {})
    if unique_tokens is not None:
        if not unique_tokens > 0:
            raise LabError("The unique tokens must be above 0.")
        if "U" not in {v.name for v in law.variables}:
            raise LabError(
                f"{law.name} does not know repeated data: it has no variable U.", "Take a data-constrained law."
            )
        x["U"] = unique_tokens
    cap = math.inf if unique_tokens is None else max_epochs * unique_tokens
    budget = Budget(flops, inference_tokens, cap)
    n, d, loss, found = (v[0] for v in minimise(law, params, budget, x))
    if not found:
        raise LabError(
            f"At {flops:.3g} FLOPs {law.name} has no best size: its loss still falls at N = {n:.3g}, D = {d:.3g}.",
            "Check its parameters: an exponent may be 0, or a term missing.",
        )
    point = {"n": float(n), "d": float(d), "loss": float(loss), "tokens_per_parameter": float(d / n)}
    capped = bool(d >= cap * (1 - 1e-9))
    intervals: dict[str, Range] = {}
    deadweight = deadweight_high = None
    open_draws = 0.0
    if draws is not None:
        rn, rd, rl, ok = minimise(law, draws, budget, x)
        open_draws = float(1 - ok.mean())
        ends = {"n": rn, "d": rd, "loss": rl, "tokens_per_parameter": rd / rn}
        intervals = {k: _range(v, ok, rn, level) for k, v in ends.items()}
        if inference_tokens == 0 and not capped:
            waste = _waste(law, draws, float(n), float(d), flops, x)
            deadweight = float(np.median(waste))
            deadweight_high = float(np.quantile(waste, (1 + level) / 2))
    return Allocation(
        law.name, float(budget.cost(n, d)), **point, epochs=None if unique_tokens is None else float(d / unique_tokens),
        capped=capped, intervals=intervals, deadweight=deadweight, deadweight_high=deadweight_high,
        open_draws=open_draws, level=level,
    )  # fmt: skip


def _range(values: np.ndarray, found: np.ndarray, n: np.ndarray, level: float) -> Range:
    """Percentiles in which draws without an optimum count as lying at the end they ran to."""
    ran_up = ~found & (n > np.median(n))
    rises = np.corrcoef(np.log(n), np.log(values))[0, 1] > 0 if np.ptp(n) > 0 and np.ptp(values) > 0 else True
    end = np.where(ran_up == rises, np.inf, 0.0)
    v = np.where(found, values, end)
    low = np.quantile(v, (1 - level) / 2, method="lower")
    high = np.quantile(v, (1 + level) / 2, method="higher")
    return Range(float(low), float(high))


def _waste(
    law: Law, draws: Mapping[str, np.ndarray], n: float, d: float, flops: float, x: surface.Values
) -> np.ndarray:
    """Deadweight compute loss of the allocation (n, d) under each draw [R], as a share of `flops`."""
    attained = surface.loss(law, draws, {**x, "N": n, "D": d})
    return np.clip(1 - budget_for(law, draws, attained, x) / flops, 0.0, 1.0)


def frontier(
    law: Law, params: surface.Values, flops: np.ndarray, x: surface.Values | None = None
) -> dict[str, np.ndarray]:
    """Compute-optimal `N`, `D` and `loss` at each budget [m]; NaN where none exists."""
    found = [minimise(law, params, Budget(float(c)), x) for c in flops]
    keep = np.array([f[3][0] for f in found])
    out = {name: np.array([f[i][0] for f in found]) for i, name in enumerate(("N", "D", "loss"))}
    return {k: np.where(keep, v, np.nan) for k, v in out.items()}


def exponent(law: Law, params: surface.Values, low: float, high: float, x: surface.Values | None = None) -> float:
    """d log N* / d log C between two budgets."""
    ends = frontier(law, params, np.array([low, high]), x)["N"]
    return float(np.log(ends[1] / ends[0]) / np.log(high / low))
