"""Which parameters a set of points can tell apart: the rank of the Jacobian of the predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.batch import Points, jacobian
from analysis.coordinates import Problem, make_problem, to_coordinates
from analysis.law import Law

# Singular values of the Jacobian with unit columns, below which a direction counts as unseen. Rounded sizes of a
# D = 20 N sweep sit near 1e-7; a badly conditioned but usable sweep above 1e-4.
RANK_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class NullDirection:
    """A combination of parameters that leaves every prediction of the table unchanged.

    Attributes:
      weights: label -> share of the parameter in the direction (shapes as they are or in logs, coefficients as the
        size of their term at the centre of the data), unit length.
      singular: the singular value, 0 for an exact null.
      text: the direction in words.
    """

    weights: Mapping[str, float]
    singular: float
    text: str


def centre_of(x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Geometric mean of positive columns, arithmetic mean of others."""
    return {k: np.asarray(np.exp(np.log(v).mean()) if np.all(v > 0) else v.mean()) for k, v in x.items()}


def in_own_units(problem: Problem, jac: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The Jacobian [n, q] per unit of each shape and per relative change of each coefficient."""
    factors = np.array([problem.parameter(k).role == "coefficient" for k in range(problem.q)])
    return jac * np.where(factors, np.maximum(np.abs(z), 1e-12), 1.0)


def directions(
    jac: np.ndarray, labels: tuple[str, ...], tolerance: float = RANK_TOLERANCE
) -> tuple[NullDirection, ...]:
    """Null directions of a Jacobian [n, q] after its columns are brought to unit length."""
    if jac.shape[1] == 0:
        return ()
    size = np.linalg.norm(jac, axis=0)
    scale = np.where(size > 1e-12 * max(size.max(), 1e-300), size, 1.0)
    unit = np.where(size > 1e-12 * max(size.max(), 1e-300), jac / scale, 0.0)
    tall = np.vstack([unit, np.zeros((max(0, jac.shape[1] - len(jac)), jac.shape[1]))])
    _, s, vt = np.linalg.svd(tall, full_matrices=False)
    found = []
    for k in np.flatnonzero(s < tolerance * max(s[0], 1e-300)):
        v = vt[k] / scale
        v = v / np.linalg.norm(v)
        # Equal weights differ by rounding, which must decide neither the sign nor the order of names.
        v = v * np.sign(v[np.argmax(np.round(np.abs(v), 3))])
        weights = {label: float(w) for label, w in zip(labels, v, strict=True) if abs(w) > 0.02}
        found.append(NullDirection(weights, float(s[k]), _words(weights)))
    return tuple(found)


def _words(weights: Mapping[str, float]) -> str:
    names = sorted(weights, key=lambda k: -round(abs(weights[k]), 3))
    if len(names) == 1:
        return f"{names[0]} changes no prediction of the table"
    moves = ", ".join(f"{k} {'up' if weights[k] > 0 else 'down'} {abs(weights[k]):.2g}" for k in names)
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{listed} cannot be told apart: {moves} changes no prediction of the table"


def condition_of(jac: np.ndarray) -> float:
    """Condition number of the Jacobian with unit columns (inf when rank-deficient to rounding)."""
    size = np.linalg.norm(jac, axis=0)
    if jac.shape[1] == 0:
        return 1.0
    if not np.all(size > 0):
        return float("inf")
    s = np.linalg.svd(jac / size, compute_uv=False)
    return float(s[0] / s[-1]) if s[-1] > 0 and len(jac) >= jac.shape[1] else float("inf")


def null_directions(
    law: Law,
    x: Mapping[str, Any],
    params: Mapping[str, float],
    *,
    frozen: tuple[str, ...] = (),
    tolerance: float = RANK_TOLERANCE,
) -> tuple[NullDirection, ...]:
    """Directions that points at columns x (arrays of one length) cannot determine, near `params`.

    An empty tuple means that the design identifies every parameter not in `frozen`.
    """
    columns = {v.name: np.asarray(x[v.name], float) for v in law.variables}
    problem = make_problem(law, law.objective, 1, frozenset(frozen), frozenset())
    n = len(next(iter(columns.values())))
    points = Points(columns, np.zeros(n, int), np.ones(n), centre_of(columns))
    z = to_coordinates(problem, params, points.centre)
    constant = {k: np.asarray(params[k], float) for k in frozen}
    labels = tuple(f.name for f in problem.free)
    jac = in_own_units(problem, jacobian(problem, points, z, constant), z)
    return directions(jac, labels, tolerance)
