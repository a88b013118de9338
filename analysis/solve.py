"""A compiled solver for many small fits of one law at once: damped Gauss-Newton, then exact Newton, in a box.

Every fit of a batch has its own observations, weights and starting points; the columns are shared. One call solves a
chunk, chunks run on a few threads, and shapes are padded to a few sizes so that compiled code is reused.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from analysis.coordinates import Problem, bounds, to_params

GAUSS_NEWTON_STEPS = 12
NEWTON_STEPS = 60
# Numbers in the working set of one chunk (points * fits * starts): about 100 resamples of 250 points.
CHUNK_NUMBERS = 30_000
# Least absolute deviations are reached as the limit of Huber's function at these corners.
ABSOLUTE_DELTAS = (1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10)


class Points(NamedTuple):
    """The shared side of a batch of fits: columns [n], group [n], noise [n], and the centre of the columns."""

    x: dict[str, Any]
    group: Any
    noise: Any
    centre: dict[str, Any]


class Solution(NamedTuple):
    """Optima of a batch: coordinates [B, q], objective [B], iterations [B], and whether each converged [B]."""

    z: np.ndarray
    value: np.ndarray
    steps: np.ndarray
    converged: np.ndarray


def residuals(problem: Problem, points: Points, y: Any, z: Any, constant: Mapping[str, Any]) -> jax.Array:
    """(prediction - y) / noise [n] at coordinates z [q]; y is in the objective's space."""
    p = to_params(problem, z, constant, points.centre)
    if problem.groups > 1:
        p = {k: v[points.group] if jnp.ndim(v) else v for k, v in p.items()}
    pred = problem.law.in_space(p, points.x, problem.objective.space)
    return (jnp.broadcast_to(pred, jnp.shape(y)) - y) / points.noise


def value_at(problem: Problem, points: Points, y: Any, w: Any, z: Any, constant: Mapping[str, Any]) -> jax.Array:
    """The objective at z, with |r| itself for least absolute deviations."""
    objective = problem.objective
    r = residuals(problem, points, y, z, constant)
    rho = jnp.abs(r) if objective.kind == "absolute" else objective.rho(r, objective.delta)
    return jnp.sum(jnp.where(w > 0, w * rho, 0.0))


def _cholesky_solve(h: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solves h x = g for small h by an unrolled Cholesky; second value: whether h is positive definite."""
    q = g.shape[0]
    if q > 10:
        factor = jnp.linalg.cholesky(h)
        ok = jnp.all(jnp.isfinite(factor))
        x = jax.scipy.linalg.cho_solve((jnp.where(ok, factor, jnp.eye(q)), True), g)
        return x, ok
    low: list[list[Any]] = [[None] * q for _ in range(q)]
    ok = jnp.array(True)
    for j in range(q):
        d = h[j, j] - sum((low[j][k] ** 2 for k in range(j)), jnp.zeros(()))
        ok = ok & (d > 1e-14)
        low[j][j] = jnp.sqrt(jnp.maximum(d, 1e-14))
        for i in range(j + 1, q):
            low[i][j] = (h[i, j] - sum((low[i][k] * low[j][k] for k in range(j)), jnp.zeros(()))) / low[j][j]
    u: list[Any] = []
    for i in range(q):
        u.append((g[i] - sum((low[i][k] * u[k] for k in range(i)), jnp.zeros(()))) / low[i][i])
    x: list[Any] = [None] * q
    for i in reversed(range(q)):
        x[i] = (u[i] - sum((low[k][i] * x[k] for k in range(i + 1, q)), jnp.zeros(()))) / low[i][i]
    return jnp.stack(x), ok


class _State(NamedTuple):
    z: Any
    f: Any
    g: Any
    h: Any
    scale: Any
    damping: Any
    steps: Any
    done: Any


def _descend(
    problem: Problem, points: Points, y: Any, w: Any, z0: Any, constant: Any, delta: float, exact: bool, limit: int
) -> _State:
    """Minimises from z0. `exact` uses second derivatives, falling back on Gauss-Newton where they are indefinite."""
    objective, q = problem.objective, problem.q
    low, high = (jnp.asarray(v) for v in bounds(problem))
    basis = jnp.eye(q)

    def r_of(z: Any) -> jax.Array:
        r = residuals(problem, points, y, z, constant)
        return jnp.where(w > 0, r, 0.0)

    def evaluate(z: Any) -> tuple[Any, Any, Any, Any]:
        r, push = jax.linearize(r_of, z)
        jac = jax.vmap(push)(basis)  # [q, n]
        f = jnp.sum(w * objective.rho(r, delta))
        wpsi = w * objective.psi(r, delta)
        g = jac @ wpsi
        majorant = (jac * (w * objective.weight(r, delta))) @ jac.T
        if exact:
            second = jax.jacfwd(jax.grad(lambda v: jnp.vdot(jax.lax.stop_gradient(wpsi), r_of(v))))(z)
            h = (jac * (w * objective.slope(r, delta))) @ jac.T + second
            h = 0.5 * (h + h.T)
        else:
            h = majorant
        bad = ~(jnp.isfinite(f) & jnp.all(jnp.isfinite(g)) & jnp.all(jnp.isfinite(h)))
        return jnp.where(bad, jnp.inf, f), g, h, majorant

    def body(s: _State) -> _State:
        fixed = ((s.z <= low) & (s.g > 0)) | ((s.z >= high) & (s.g < 0))
        live = ~fixed
        d = jnp.diagonal(s.scale)
        d = jnp.sqrt(jnp.maximum(d, 1e-30 + 1e-18 * jnp.max(d)))
        mask = live[:, None] & live[None, :]
        g = jnp.where(live, s.g / d, 0.0)

        def matrix(h: Any) -> Any:
            return jnp.where(mask, h / (d[:, None] * d[None, :]), 0.0) + jnp.diag(jnp.where(live, s.damping, 1.0))

        step, ok = _cholesky_solve(matrix(s.h), g)
        if exact:
            fallback, _ = _cholesky_solve(matrix(s.scale), g)
            step = jnp.where(ok, step, fallback)
        z = jnp.clip(s.z - jnp.where(live, step / d, 0.0), low, high)
        dz = z - s.z
        gain = -(s.g @ dz) - 0.5 * dz @ jnp.where(ok, s.h, s.scale) @ dz
        f, g_new, h_new, scale_new = evaluate(z)
        better = f <= s.f
        ratio = (s.f - f) / jnp.maximum(gain, 1e-300)
        damping = jnp.where(
            better, s.damping * jnp.where(ratio > 0.75, 0.1, jnp.where(ratio < 0.25, 3.0, 1.0)), s.damping * 6.0
        )
        damping = jnp.clip(damping, 1e-14, 1e12)
        floor = 1e-15 * s.f + 1e-32 * jnp.sum(w)
        done = (jnp.abs(gain) <= floor) | (~better & (damping > 1e11))

        def pick(new: Any, old: Any) -> Any:
            return jnp.where(better, new, old)

        return _State(
            pick(z, s.z), pick(f, s.f), pick(g_new, s.g), pick(h_new, s.h), pick(scale_new, s.scale),
            damping, s.steps + 1, done,
        )  # fmt: skip

    z0 = jnp.clip(z0, low, high)
    start = _State(z0, *evaluate(z0), jnp.asarray(1e-3 if not exact else 1e-6), jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(lambda s: ~s.done & (s.steps < limit) & jnp.isfinite(s.f), body, start)


def _solve_one(problem: Problem, points: Points, y: Any, w: Any, z0: Any, constant: Any) -> tuple[Any, ...]:
    """Best optimum from the starts z0 [S, q]."""
    kind, delta = problem.objective.kind, problem.objective.delta
    deltas = ABSOLUTE_DELTAS if kind == "absolute" else (delta,)

    def coarse(z: Any) -> _State:
        return _descend(problem, points, y, w, z, constant, deltas[0], False, GAUSS_NEWTON_STEPS)

    first = jax.vmap(coarse)(z0)
    best = jnp.argmin(jnp.where(jnp.isfinite(first.f), first.f, jnp.inf))
    z, steps = first.z[best], first.steps[best]
    done = jnp.asarray(True)
    for corner in deltas:
        s = _descend(problem, points, y, w, z, constant, corner, True, NEWTON_STEPS)
        z, steps, done = s.z, steps + s.steps, s.done
    return z, value_at(problem, points, y, w, z, constant), steps, done


@functools.lru_cache(maxsize=64)
def _compiled(problem: Problem, what: str, y_batched: bool, w_batched: bool) -> Any:
    ys, ws = (0 if y_batched else None), (0 if w_batched else None)
    if what == "solve":

        def solve_chunk(points: Points, y: Any, w: Any, z0: Any, constant: Any) -> Any:
            one = functools.partial(_solve_one, problem, points)
            return jax.vmap(one, in_axes=(ys, ws, 0, 0))(y, w, z0, constant)

        return jax.jit(solve_chunk)

    def value_chunk(points: Points, y: Any, w: Any, z: Any, constant: Any) -> Any:
        one = functools.partial(value_at, problem, points)
        return jax.vmap(one, in_axes=(ys, ws, 0, 0))(y, w, z, constant)

    return jax.jit(value_chunk)


def padded(n: int) -> int:
    """The size n is padded to: at most an eighth more, so that tables of near sizes share compiled code."""
    step = max(8, 1 << max(0, n.bit_length() - 4))
    return -(-n // step) * step


def pad_points(points: Points, n_to: int) -> Points:
    """Points with their last row repeated up to n_to rows (which carry no weight)."""

    def pad(v: Any) -> np.ndarray:
        v = np.asarray(v)
        return np.concatenate([v, np.repeat(v[-1:], n_to - len(v), 0)]) if v.ndim else v

    return Points({k: pad(v) for k, v in points.x.items()}, pad(points.group), pad(points.noise), points.centre)


def _pad_last(v: np.ndarray, n_to: int, fill: float) -> np.ndarray:
    width = [(0, 0)] * (v.ndim - 1) + [(0, n_to - v.shape[-1])]
    return np.pad(v, width, constant_values=fill)


@dataclasses.dataclass(frozen=True)
class Batch:
    """B fits over one set of points.

    Attributes:
      y: observations in the objective's space, [n] or [B, n].
      w: weights, [n] or [B, n]; rows of weight 0 do not take part.
      starts: coordinates to start from, [B, S, q].
      constant: frozen parameters, name -> [B] or [B, G].
    """

    y: np.ndarray
    w: np.ndarray
    starts: np.ndarray
    constant: Mapping[str, np.ndarray]

    def slice(self, a: int, b: int) -> Batch:
        def cut(v: np.ndarray) -> np.ndarray:
            return v[a:b] if v.ndim == 2 else v

        return Batch(cut(self.y), cut(self.w), self.starts[a:b], {k: v[a:b] for k, v in self.constant.items()})


def solve(problem: Problem, points: Points, batch: Batch) -> Solution:
    """Optima of every fit in the batch."""
    count, starts = batch.starts.shape[:2]
    if problem.q == 0:
        values = evaluate(problem, points, batch, batch.starts[:, 0])
        return Solution(batch.starts[:, 0], values, np.zeros(count, int), np.ones(count, bool))
    return Solution(*_run("solve", problem, points, batch, starts))


def evaluate(problem: Problem, points: Points, batch: Batch, z: np.ndarray) -> np.ndarray:
    """The objective [B] of fit b at coordinates z[b]; z [B, q]."""
    (values,) = _run("value", problem, points, dataclasses.replace(batch, starts=z[:, None]), 1)
    return values


def _run(what: str, problem: Problem, points: Points, batch: Batch, starts: int) -> tuple[np.ndarray, ...]:
    n_to = padded(len(points.group))
    count = len(batch.starts)
    points = pad_points(points, n_to)
    size = int(np.clip(CHUNK_NUMBERS // (n_to * starts), 1, 256))
    size = 1 << (size.bit_length() - 1)
    while size > 1 and size // 2 >= count:
        size //= 2
    edges = range(0, count, size)
    function = _compiled(problem, what, batch.y.ndim == 2, batch.w.ndim == 2)

    def work(a: int) -> tuple[np.ndarray, ...]:
        part = batch.slice(a, min(a + size, count))
        short = size - len(part.starts)

        def fill(v: np.ndarray) -> np.ndarray:
            return np.concatenate([v, np.repeat(v[:1], short, 0)]) if short else v

        y = _pad_last(part.y, n_to, float(np.mean(part.y)))
        w = _pad_last(part.w, n_to, 0.0)
        y, w = (fill(v) if v.ndim == 2 else v for v in (y, w))
        # enable_x64 is local to a thread, so every worker opens its own.
        with jax.enable_x64(True):
            z = fill(part.starts) if what == "solve" else fill(part.starts)[:, 0]
            out = function(points, y, w, z, {k: fill(v) for k, v in part.constant.items()})
            out = out if isinstance(out, tuple) else (out,)
            return tuple(np.asarray(v)[: size - short] for v in out)

    if len(edges) == 1:
        return work(0)
    parts = [work(0)]
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts += list(pool.map(work, edges[1:]))
    return tuple(np.concatenate(v) for v in zip(*parts, strict=True))
