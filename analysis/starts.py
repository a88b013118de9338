"""Where fits start: a grid over the shapes with the coefficients solved for (variable projection), or a spread of
points over all parameters for laws that are not linear in any."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis.batch import Points
from analysis.coordinates import Problem, bounds
from analysis.law import Law, Parameter

GRID_1D, GRID_2D, SPREAD = 96, 24, 1024
MOST_POINTS = 4096


def spread(parameters: list[Parameter], seed: int = 0) -> np.ndarray:
    """Coordinates [M, k] that cover the start ranges: a grid up to two parameters, an even sequence beyond."""
    k = len(parameters)
    if k == 0:
        return np.zeros((1, 0))
    if k == 1:
        unit = np.linspace(0, 1, GRID_1D)[:, None]
    elif k == 2:
        axis = np.linspace(0, 1, GRID_2D)
        unit = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    else:
        unit = _even(k, SPREAD, seed)
    low, high = np.array([_ends(p) for p in parameters]).T
    return np.asarray(low + unit * (high - low))


def _even(dimensions: int, count: int, seed: int) -> np.ndarray:
    """`count` points spread evenly over the unit cube [count, dimensions]: the additive recurrence whose steps are
    powers of the root of x^(dimensions + 1) = x + 1 (Roberts 2018), from a random origin."""
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    return np.asarray((np.random.default_rng(seed).random(dimensions) + np.outer(np.arange(count), steps)) % 1.0)


def _ends(p: Parameter) -> tuple[float, float]:
    a, b = p.start
    return (float(np.log(a)), float(np.log(b))) if p.scale == "log" and p.role == "shape" else (a, b)


def nonnegative(gram: np.ndarray, right: np.ndarray, free_sign: np.ndarray, sweeps: int = 60) -> np.ndarray:
    """Least-squares coefficients [..., k], at least 0 unless `free_sign`, from normal equations [..., k, k], [..., k].

    Exact where the unconstrained solution is feasible; coordinate descent from its clipped values otherwise. Good to
    start from, which is all it is for.
    """
    k = right.shape[-1]
    scale = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 1e-300))
    g = gram / (scale[..., :, None] * scale[..., None, :]) + 1e-12 * np.eye(k)
    b = right / scale
    c = np.linalg.solve(g, b[..., None])[..., 0]
    infeasible = np.any((c < 0) & ~free_sign, axis=-1)
    if np.any(infeasible):
        gi, bi = g[infeasible], b[infeasible]
        ci = np.where(free_sign, c[infeasible], np.clip(c[infeasible], 0, None))
        for _ in range(sweeps):
            for j in range(k):
                rest = bi[:, j] - np.einsum("mk,mk->m", gi[:, j], ci) + gi[:, j, j] * ci[:, j]
                value = rest / gi[:, j, j]
                ci[:, j] = value if free_sign[j] else np.maximum(value, 0)
        c[infeasible] = ci
    return np.asarray(c / scale)


def candidates(
    problem: Problem, points: Points, y: np.ndarray, w: np.ndarray, constant: Mapping[str, np.ndarray], seed: int = 0
) -> np.ndarray:
    """Coordinates [M, q] over the start ranges, for a problem with one group.

    Coefficients are those of weighted least squares at each point's shapes, at relative errors of the loss.
    """
    law = problem.law
    shapes = [problem.parameter(k) for k in range(problem.q) if problem.parameter(k).role == "shape"]
    coefficients = [problem.parameter(k) for k in range(problem.q) if problem.parameter(k).role == "coefficient"]
    low, high = bounds(problem)
    with jax.enable_x64(True):
        middle = {p.name: _middle(p) for p in law.parameters} | dict(constant)
        # Traced only: run one by one, its operations would each be compiled.
        linear = jax.eval_shape(law.log_basis, middle, points.centre) is not None
    if not linear:
        return np.clip(_spread_all(problem, points, y, constant, seed), low, high)
    z_shapes = spread(shapes, seed)
    if not coefficients:
        return np.clip(z_shapes, low, high)
    if len(y) > MOST_POINTS:
        # Starts need no more; a fixed draw, since tables come sorted.
        some = np.random.default_rng(seed).choice(len(y), MOST_POINTS, replace=False)
        x = {k: np.asarray(v)[some] for k, v in points.x.items()}
        points = Points(x, np.asarray(points.group)[some], np.asarray(points.noise)[some], points.centre)
        y, w = y[some], w[some]
    target, relative = _linear_target(law.linear_in, problem.objective.space, y, np.asarray(points.noise))
    weights = np.where(w > 0, w / relative**2, 0.0)

    with jax.enable_x64(True):
        names = tuple(c.name for c in coefficients)
        features = _compiled_features(law, tuple(shapes), names)
        cells = np.asarray(features(points.x, points.centre, z_shapes, target, dict(constant)))  # [M, k + 1, n]
    weighted = cells * weights
    gram = np.einsum("mkn,mln->mkl", weighted, cells, optimize=True)
    k = len(coefficients)
    free_sign = np.array([c.lower < 0 for c in coefficients])
    ok = np.all(np.isfinite(gram), axis=(1, 2))
    c = nonnegative(gram[ok][:, :k, :k], gram[ok][:, :k, k], free_sign)
    return np.clip(np.concatenate([z_shapes[ok], c], 1), low, high)


@functools.lru_cache(maxsize=64)
def _compiled_features(law: Law, shapes: tuple[Parameter, ...], names: tuple[str, ...]) -> Any:
    """Columns of the linear problem at many shapes z [M, k]: one per coefficient, then what is left to explain."""

    def at_shapes(x: Any, centre: Any, target: Any, constant: Any, z: jax.Array) -> jax.Array:
        p: dict[str, Any] = {s.name: jnp.exp(z[i]) if s.scale == "log" else z[i] for i, s in enumerate(shapes)}
        p = {**{c.name: 1.0 for c in law.parameters if c.role == "coefficient"}, **p, **constant}
        at, mid = law.log_basis(p, x), law.log_basis(p, centre)
        assert at is not None and mid is not None
        sign = {q.name: q.sign for q in law.parameters}
        columns = [sign[k] * jnp.exp(jnp.broadcast_to(at[k] - mid[k], target.shape)) for k in names]
        # Frozen coefficients, and terms that have none.
        rest = [law.factor(p, k) * jnp.exp(jnp.broadcast_to(v, target.shape)) for k, v in at.items() if k not in names]
        return jnp.stack([*columns, target - sum(rest, jnp.zeros(target.shape))])

    def features(x: Any, centre: Any, z: Any, target: Any, constant: Any) -> jax.Array:
        return jax.vmap(lambda v: at_shapes(x, centre, target, constant, v))(z)

    return jax.jit(features)


def _middle(p: Parameter) -> float:
    a, b = p.start
    return float(np.sqrt(a * b)) if p.scale == "log" else 0.5 * (a + b)


def _linear_target(linear_in: str, space: str, y: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The observations in the space where the law is linear, and the size of an error there that the objective
    counts as one."""
    log_loss = {"log": y, "linear": np.log(np.maximum(y, 1e-300)), "reciprocal": None}[space]
    if log_loss is None:
        log_loss = np.log(np.maximum(-np.log(np.clip(y, 1e-300, 1 - 1e-12)), 1e-300))
    loss = np.exp(log_loss)
    to_log = {"log": np.ones_like(y), "linear": 1 / loss, "reciprocal": np.exp(loss) / loss}
    target = {"log": log_loss, "linear": loss, "reciprocal": np.exp(-loss)}[linear_in]
    return target, noise * to_log[space] / to_log[linear_in]


def _spread_all(
    problem: Problem, points: Points, y: np.ndarray, constant: Mapping[str, np.ndarray], seed: int
) -> np.ndarray:
    """Points over the ranges of every parameter, for a law without a basis (where coefficients are not centred)."""
    unit = _even(problem.q, 4 * SPREAD, seed)
    out = np.empty_like(unit)
    for k in range(problem.q):
        p = problem.parameter(k)
        a, b = p.start
        if p.scale == "log":
            logs = np.log(a) + unit[:, k] * (np.log(b) - np.log(a))
            out[:, k] = logs if p.role == "shape" else np.exp(logs)
        else:
            out[:, k] = a + unit[:, k] * (b - a)
    return out


def pick(z: np.ndarray, values: np.ndarray, count: int, distance: float = 0.12) -> np.ndarray:
    """Indices of up to `count` good candidates, best first, no two within `distance` of each other (each coordinate
    measured by its range among the candidates)."""
    order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
    order = order[np.isfinite(values[order])]
    span = np.maximum(np.ptp(z, axis=0), 1e-300)
    chosen: list[int] = []
    for i in order:
        gaps = [np.max(np.abs(z[i] - z[j]) / span) for j in chosen]
        if not gaps or min(gaps) > distance:
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return np.array(chosen, int)
