"""Predicting the loss of a larger run, with two bands: what resampling says, and what past extrapolation errors say.

Bootstrap bands measure how well the curve is known if the law is true; of points at larger scales nominal 95 % bands
hold only 57-73 %. Forward-chained conformal bands measure how far fits to smaller scales have missed larger ones in
this very table, and hold about what they promise. Both are shown, and the second is the one to plan with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from analysis import surface
from analysis.compare import conformal_halfwidth, forward_folds, levels, scale_of
from analysis.fitting import fit as refit
from analysis.result import Fit
from lab.errors import LabError

# With fewer residuals than this, a 95 % conformal band cannot be had.
ENOUGH = 19


@dataclasses.dataclass(frozen=True, eq=False)
class Misses:
    """Errors of extrapolation within a table.

    Attributes:
      residual: log(predicted / observed) of rows beyond the scales a fit had seen [m].
      distance: log10 of how far beyond the largest of them the row lies [m], above 0.
      folds: how many fits made them.
    """

    residual: np.ndarray
    distance: np.ndarray
    folds: int


@dataclasses.dataclass(frozen=True)
class Band:
    """A conformal band: loss * exp(-half) to loss * exp(half), from `count` misses; its level is what they allow."""

    half: float
    level: float
    count: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Loss in nats at one point.

    Attributes:
      x: the law's variables.
      loss: predicted.
      bootstrap: interval of the curve over resamples, or None.
      conformal: interval for a new run, or None where the table has too few scales.
      band: how the conformal one was made.
      distance: log10 of the scale beyond the largest fitted; at or below 0 inside.
    """

    x: Mapping[str, float]
    loss: float
    bootstrap: tuple[float, float] | None
    conformal: tuple[float, float] | None
    band: Band | None
    distance: float


def misses(fit: Fit, shared: Sequence[str] = ()) -> Misses:
    """Refits the law to the smallest k scales for every possible k and collects its errors on all larger ones.

    Raises:
      LabError: when the table has too few scales.
    """
    table = fit.table
    scale = scale_of(table)
    folds = forward_folds(scale, max(fit.problem.q + 1, table.n // 5))
    code = levels(scale)
    residual, distance = [], []
    for f in folds:
        inside = dataclasses.replace(table, weight=table.weight * f.train)
        one = refit(inside, fit.law, objective=fit.objective, frozen=fit.frozen, shared=shared)
        later = code > code[f.train].max()
        residual.append(np.log(one.fitted[later] / table.loss[later]))
        distance.append(np.log10(scale[later] / scale[f.train].max()))
    return Misses(np.concatenate(residual), np.concatenate(distance), len(folds))


def band_at(past: Misses, distance: float, level: float = 0.95) -> Band:
    """The band for a point `distance` decades beyond the fitted scales, from misses at least half as far out."""
    near = past.residual[past.distance >= distance / 2] if distance > 0 else past.residual
    note = ""
    if len(near) < ENOUGH:
        near = past.residual
        note = f"no miss of this table lies {distance:.2g} decades out: the band may be too narrow"
    if len(near) < level / (1 - level) - 1e-9:
        level = len(near) / (len(near) + 1)
        note = (note + "; " if note else "") + f"{len(near)} misses allow a {level:.0%} band"
    return Band(conformal_halfwidth(near, level), level, len(near), note)


def predict(
    fit: Fit,
    x: Mapping[str, float | np.ndarray],
    *,
    draws: Mapping[str, np.ndarray] | None = None,
    past: Misses | None = None,
    group: str | None = None,
    level: float = 0.95,
) -> list[Prediction]:
    """Predicted losses at points x (scalars or arrays [m]) with their bands.

    Args:
      draws: parameter draws by plain name, each [R] (`Draws.params_of`).
      past: from `misses`.

    Raises:
      LabError: for a missing variable, or values out of the law's range.
    """
    columns = {k: np.atleast_1d(v) for k, v in surface.as_columns(fit.law, x).items()}
    for variable in fit.law.variables:
        if variable.lower is not None and np.any(columns[variable.name] <= variable.lower):
            raise LabError(f"{variable.name} must be above {variable.lower:g}.")
    loss = surface.loss(fit.law, fit.params_of(group), columns)
    spread = None if draws is None else surface.loss(fit.law, draws, columns)
    tail = (1 - level) / 2
    try:
        largest = float(scale_of(fit.table).max())
        probe = dataclasses.replace(fit.table, columns=columns)
        distance = np.log10(scale_of(probe) / largest)
    except LabError:
        distance = np.zeros(len(loss))
    out = []
    for i, value in enumerate(loss):
        boot = None if spread is None else tuple(float(v) for v in np.nanquantile(spread[:, i], [tail, 1 - tail]))
        band = None if past is None else band_at(past, float(distance[i]), level)
        conformal = None if band is None else (float(value * np.exp(-band.half)), float(value * np.exp(band.half)))
        point = {k: float(v[i]) for k, v in columns.items()}
        out.append(Prediction(point, float(value), boot, conformal, band, float(distance[i])))  # type: ignore[arg-type]
    return out
