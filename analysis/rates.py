"""Best learning rates from a sweep's table, and the rule LR = c N^p D^q through them.

    found = optima(frame)          # one Optimum for each cell: a size and a number of tokens
    fit   = fit_rule(found)        # fit.rule, fit.residual, fit.regret
    tuned(frame, fit.rule)         # ln(peak_lr / rule's rate) of each row

A frame is a result table; of its columns these count: those of `COLUMNS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lab.errors import LabError
from lab.recipes import RateRule

if TYPE_CHECKING:
    import pandas as pd

# Runs of one rule agree in these ...
SETUP = (
    *("family", "mixture", "layout_hash", "base_width", "context", "batch_tokens", "schedule", "warmup"),
    *("weight_decay", "eval_hash"),
)
# ... and runs of one cell in these as well.
CELL = ("n_nonembedding", "tokens_seen", "n_layers", "d_model")
COLUMNS = (*SETUP, *CELL, "language", "peak_lr", "seed_init", "seed_data", "run_id", "loss", "status")

Edge = Literal["low", "high", "diverges"]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """The runs of one size and budget, K rates by S seeds.

    Attributes:
      n, d: parameters without embedding and head, tokens seen.
      n_layers, d_model: depth and width.
      rates: [K], rising.
      losses: [S, K] nats per token, mean over evaluation languages; inf where a run diverged, NaN where none ran.
    """

    n: int
    d: int
    n_layers: int
    d_model: int
    rates: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Optimum:
    """The best rate of a cell.

    Attributes:
      rate, loss: bottom of the parabola in ln rate through the best rate and its neighbours (losses are means over
        seeds); where there is an `edge`, the best rate that was tried and its loss.
      edge: None, or why there is no such parabola: the best rate is the `low`est or `high`est tried, so that the true
        one may lie beyond it; or the next higher one `diverges`, so that it lies within one step of the grid.
      curvature: second derivative of loss by ln rate / 2, nats; NaN at an edge.
      worse_below, worse_above: by how many nats the neighbours are worse; NaN where there is none.
      spread: standard deviation of ln rate over the optima of single seeds; NaN for one seed, or where a seed's best
        lies on an edge.
    """

    cell: Cell
    rate: float
    loss: float
    edge: Edge | None
    curvature: float
    worse_below: float
    worse_above: float
    spread: float


def cells(frame: pd.DataFrame) -> tuple[Cell, ...]:
    """The cells of a sweep, by size and then tokens.

    Raises:
      LabError: when columns are missing, or the runs differ in more than size, tokens, rate and seed.
    """
    if missing := [c for c in COLUMNS if c not in frame.columns]:
        raise LabError(f"A table of learning rates needs the columns {missing}.")
    done = frame[frame.status != "incomplete"]
    for column in SETUP:
        if done.groupby("language")[column].nunique(dropna=False).max() > 1:
            raise LabError(
                f"The table's runs differ in {column}: one rule of learning rates holds for one.",
                f"Give the rows of one: {', '.join(map(str, done[column].unique()[:4]))}.",
            )
    runs = done.groupby("run_id").agg(
        **{c: (c, "first") for c in (*CELL, "peak_lr", "seed_init", "seed_data", "status")}, loss=("loss", "mean")
    )
    runs["loss"] = runs.loss.where(runs.status == "done", np.inf)
    found = []
    for _, members in runs.groupby(list(CELL)):
        grid = members.groupby(["seed_init", "seed_data", "peak_lr"]).loss.mean().unstack("peak_lr")
        n, d, layers, width = (int(members[c].iloc[0]) for c in CELL)
        found.append(Cell(n, d, layers, width, grid.columns.to_numpy(float), grid.to_numpy(float)))
    if not found:
        raise LabError("The table has no finished run.")
    return tuple(found)


def optima(frame: pd.DataFrame) -> tuple[Optimum, ...]:
    """The best rate of every cell of a sweep; errors as of `cells`."""
    return tuple(optimum(cell) for cell in cells(frame))


def optimum(cell: Cell) -> Optimum:
    """The best rate of a cell, over the rates that every seed has.

    Raises:
      LabError: when every rate diverged, or none has every seed.
    """
    complete = ~np.isnan(cell.losses).any(axis=0)
    if not complete.any():
        raise LabError(f"No rate has every seed at {cell.n:,} parameters and {cell.d:,} tokens.", "Run those missing.")
    x, y = np.log(cell.rates[complete]), cell.losses[:, complete].mean(axis=0)
    if not np.isfinite(y).any():
        raise LabError(f"Every rate diverged at {cell.n:,} parameters and {cell.d:,} tokens.", "Try lower rates.")
    at, value, edge, curvature = _bottom(x, y)
    i = int(np.argmin(y))
    below, above = (float(y[j] - y[i]) if 0 <= j < len(y) else math.nan for j in (i - 1, i + 1))
    singly = [_bottom(x, row) for row in cell.losses[:, complete]]
    inside = len(singly) > 1 and all(s[2] is None for s in singly)
    spread = float(np.std([s[0] for s in singly], ddof=1)) if inside else math.nan
    rate = math.exp(at) if edge is None else float(cell.rates[complete][i])
    return Optimum(cell, rate, value, edge, curvature, below, above, spread)


def _bottom(x: np.ndarray, y: np.ndarray) -> tuple[float, float, Edge | None, float]:
    """Where the parabola through the lowest point and its neighbours is lowest, its value, edge and curvature."""
    i = int(np.argmin(y))
    edge: Edge | None = "low" if i == 0 else "high" if i == len(x) - 1 else None
    if edge is None and not np.isfinite(y[i + 1]):
        edge = "diverges"
    if edge is not None:
        return float(x[i]), float(y[i]), edge, math.nan
    left, right = x[i - 1] - x[i], x[i + 1] - x[i]
    slopes = (y[i - 1] - y[i]) / left, (y[i + 1] - y[i]) / right
    curvature = (slopes[1] - slopes[0]) / (right - left)
    if curvature <= 0:  # three equal losses
        return float(x[i]), float(y[i]), None, 0.0
    slope = slopes[0] - curvature * left
    step = -slope / (2 * curvature)
    return float(x[i] + step), float(y[i] + slope * step / 2), None, float(curvature)


@dataclasses.dataclass(frozen=True, eq=False)
class RateFit:
    """A rule, and what it leaves over in each of the optima it was given.

    Attributes:
      fitted: which optima the rule was fitted to; those on the edge of their grid only bound the best rate.
      residual: ln(best rate / rule's rate).
      regret: nats that the rule's rate costs over the best one, by the cell's parabola; NaN at an edge.
      contradicted: optima on an edge whose rule lies on the wrong side of it.
      notes: what the sweep cannot say.
    """

    rule: RateRule
    optima: tuple[Optimum, ...]
    fitted: np.ndarray
    residual: np.ndarray
    regret: np.ndarray
    contradicted: np.ndarray
    notes: tuple[str, ...]


def fit_rule(found: Sequence[Optimum]) -> RateFit:
    """Least squares of ln rate = ln c + p ln N + q ln D over the optima that are not at the edge of their grid.

    With one size (one budget) p (q) is 0, and the rule holds for that size (budget) alone.

    Raises:
      LabError: when too few optima are left, or sizes and tokens rise together so that p and q are not identified.
    """
    fitted = np.array([o.edge in (None, "diverges") for o in found])
    used = [o for o, keep in zip(found, fitted, strict=True) if keep]
    if not used:
        raise LabError("In every cell the best rate lies on the edge of its grid.", "Sweep further rates.")
    n, d = (np.array([getattr(o.cell, name) for o in used], float) for name in "nd")
    best = np.log([o.rate for o in used])
    logs = {"p": np.log(n), "q": np.log(d)}
    free = {name: v - v.mean() for name, v in logs.items() if np.ptp(v) > 0}
    design = np.stack([np.ones(len(used)), *free.values()], axis=1)
    if len(used) < design.shape[1]:
        raise LabError(
            f"{len(used)} best rates that do not lie on an edge cannot fix {design.shape[1]} parameters of a rule.",
            "Sweep further rates where the best lies on the edge, or add sizes or token budgets.",
        )
    if np.linalg.cond(design / np.linalg.norm(design, axis=0)) > 1e6:
        raise LabError(
            "Sizes and tokens rise together: only the sum of their exponents could be fitted.",
            "Add a second token budget at one size.",
        )
    solution = np.linalg.lstsq(design, best, rcond=None)[0]
    exponents = dict(zip(free, solution[1:].tolist(), strict=True))
    p, q = exponents.get("p", 0.0), exponents.get("q", 0.0)
    log_c = float(solution[0] - p * logs["p"].mean() - q * logs["q"].mean())
    rule = RateRule(math.exp(log_c), p, q, (float(n.min()), float(n.max())), (float(d.min()), float(d.max())))
    residual = np.array([math.log(o.rate / rule.rate(o.cell.n, o.cell.d)) for o in found])
    curvature = np.array([o.curvature for o in found])
    side = np.array([{"high": 1, "low": -1}.get(o.edge or "", 0) for o in found])
    notes = [f"{int((~fitted).sum())} of {len(found)} best rates lie on the edge of their grid and were left out."]
    if fitted.all():
        notes = []
    if len(used) == design.shape[1]:
        notes.append("As many best rates as parameters: nothing is left to check the rule with.")
    return RateFit(rule, tuple(found), fitted, residual, curvature * residual**2, side * residual > 0, tuple(notes))


def tuned(frame: pd.DataFrame, rule: RateRule) -> np.ndarray:
    """ln(peak_lr / the rule's rate) of each row, for the column `tuned`; NaN outside the range of the rule."""
    n, d = frame.n_nonembedding.to_numpy(float), frame.tokens_seen.to_numpy(float)
    distance = np.log(frame.peak_lr.to_numpy(float) / rule.rate(n, d))
    return np.where(rule.covers(n, d), distance, np.nan)
