"""A compiled solver for many small fits of one law at once: damped Gauss-Newton, then exact Newton, in a box.

Every fit of a batch has its own observations, weights and starting points; the columns are shared. One call solves a
chunk, chunks run on a few threads, and shapes are padded to a few sizes so that compiled code is reused.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from analysis.coordinates import Problem, bounds, to_params

GAUSS_NEWTON_STEPS = 12
NEWTON_ROUNDS = (5, 10, 40, 150)
# A chunk is as many lanes (one fit from one start) as keep its working set in the cache.
CHUNK_LANES = 64
CHUNK_NUMBERS = 65_536
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
    majorant: Any
    damping: Any
    steps: Any
    done: Any


def _descend(
    problem: Problem, points: Points, y: Any, w: Any, z0: Any, damping: Any, constant: Any,
    delta: Any, exact: Any, limit: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """At most `limit` damped steps downhill from z0 [q] in the box.

    `exact` (a scalar for the whole batch) adds second derivatives to the Hessian; where that is indefinite, and
    without it, the step uses the Gauss-Newton matrix of the majorising least-squares problem.

    Returns:
      z [q], objective, damping, steps taken, whether no further decrease is possible to rounding.
    """
    objective, q = problem.objective, problem.q
    low, high = (jnp.asarray(v) for v in bounds(problem))
    basis = jnp.eye(q)

    def r_of(z: Any) -> jax.Array:
        return jnp.where(w > 0, residuals(problem, points, y, z, constant), 0.0)

    def evaluate(z: Any) -> tuple[Any, Any, Any, Any]:
        r, push = jax.linearize(r_of, z)
        jac = jax.vmap(push)(basis)  # [q, n]
        f = jnp.sum(w * objective.rho(r, delta))
        wpsi = w * objective.psi(r, delta)
        g = jac @ wpsi
        majorant = (jac * (w * objective.weight(r, delta))) @ jac.T

        def newton() -> Any:
            second = jax.jacfwd(jax.grad(lambda v: jnp.vdot(jax.lax.stop_gradient(wpsi), r_of(v))))(z)
            h = (jac * (w * objective.slope(r, delta))) @ jac.T + second
            return 0.5 * (h + h.T)

        h = jax.lax.cond(exact, newton, lambda: majorant)
        sane = jnp.isfinite(f) & jnp.all(jnp.isfinite(g)) & jnp.all(jnp.isfinite(h))
        return jnp.where(sane, f, jnp.inf), g, h, majorant

    def body(s: _State) -> _State:
        live = ~(((s.z <= low) & (s.g > 0)) | ((s.z >= high) & (s.g < 0)))
        d = jnp.diagonal(s.majorant)
        d = jnp.sqrt(jnp.maximum(d, 1e-30 + 1e-18 * jnp.max(d)))
        both = live[:, None] & live[None, :]
        g = jnp.where(live, s.g / d, 0.0)

        def matrix(h: Any) -> Any:
            return jnp.where(both, h / (d[:, None] * d), 0.0) + jnp.diag(jnp.where(live, s.damping, 1.0))

        step, ok = _cholesky_solve(matrix(s.h), g)
        safe, _ = _cholesky_solve(matrix(s.majorant), g)
        step = jnp.where(ok, step, safe)
        z = jnp.clip(s.z - jnp.where(live, step / d, 0.0), low, high)
        dz = z - s.z
        gain = -(s.g @ dz) - 0.5 * dz @ jnp.where(ok, s.h, s.majorant) @ dz
        f, g_new, h_new, majorant_new = evaluate(z)
        better = f <= s.f
        ratio = (s.f - f) / jnp.maximum(gain, 1e-300)
        factor = jnp.where(better, jnp.where(ratio > 0.75, 0.1, jnp.where(ratio < 0.25, 3.0, 1.0)), 6.0)
        damping = jnp.clip(s.damping * factor, 1e-14, 1e12)
        # A Gauss-Newton phase only has to come near; its steps shrink geometrically.
        floor = jnp.where(exact, 1e-15, 1e-7) * s.f + 1e-32 * jnp.sum(w)
        done = (jnp.abs(gain) <= floor) | (~better & (damping > 1e11))

        def pick(new: Any, old: Any) -> Any:
            return jnp.where(better, new, old)

        return _State(
            pick(z, s.z), pick(f, s.f), pick(g_new, s.g), pick(h_new, s.h), pick(majorant_new, s.majorant),
            damping, s.steps + 1, done,
        )  # fmt: skip

    z0 = jnp.clip(z0, low, high)
    start = _State(z0, *evaluate(z0), damping, jnp.asarray(0), jnp.asarray(False))
    end = jax.lax.while_loop(lambda s: ~s.done & (s.steps < limit) & jnp.isfinite(s.f), body, start)
    return end.z, end.f, end.damping, end.steps, end.done


@functools.lru_cache(maxsize=64)
def _compiled_descend(problem: Problem) -> Any:
    def chunk(
        points: Points, y: Any, w: Any, z: Any, damping: Any, constant: Any, delta: Any, exact: Any, limit: Any
    ) -> Any:
        one = functools.partial(_descend, problem, points)
        return jax.vmap(one, in_axes=(0, 0, 0, 0, 0, None, None, None))(y, w, z, damping, constant, delta, exact, limit)

    return jax.jit(chunk)


@functools.lru_cache(maxsize=64)
def _compiled_value(problem: Problem) -> Any:
    def chunk(points: Points, y: Any, w: Any, z: Any, constant: Any) -> Any:
        return (jax.vmap(functools.partial(value_at, problem, points))(y, w, z, constant),)

    return jax.jit(chunk)


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


@dataclasses.dataclass(frozen=True)
class Batch:
    """B fits over one set of points.

    Attributes:
      y: observations in the objective's space, [n] or [B, n].
      w: weights, [n] or [B, n]; points of weight 0 do not take part.
      starts: coordinates to start from, [B, S, q].
      constant: frozen parameters, name -> [B] or [B, G].
    """

    y: np.ndarray
    w: np.ndarray
    starts: np.ndarray
    constant: Mapping[str, np.ndarray]

    def take(self, rows: np.ndarray) -> Batch:
        """The fits numbered `rows`."""

        def cut(v: np.ndarray) -> np.ndarray:
            return v[rows] if v.ndim == 2 else v

        return Batch(cut(self.y), cut(self.w), self.starts[rows], {k: v[rows] for k, v in self.constant.items()})


def solve(problem: Problem, points: Points, batch: Batch) -> Solution:
    """Optima of every fit in the batch, each the best its starts lead to.

    All starts take Gauss-Newton steps; the best of each fit goes on with exact Newton steps. Fits that need more
    steps than most are gathered and continued together, so that none waits for the slowest.
    """
    count, starts, q = batch.starts.shape
    if q == 0:
        z = batch.starts[:, 0]
        return Solution(z, evaluate(problem, points, batch, z), np.zeros(count, int), np.ones(count, bool))
    kind = problem.objective.kind
    deltas = ABSOLUTE_DELTAS if kind == "absolute" else (problem.objective.delta,)
    fit_of = np.repeat(np.arange(count), starts)
    z0 = batch.starts.reshape(-1, q)
    z1, f1, _, steps1, _ = _run(problem, points, batch, fit_of, z0, 1e-3, deltas[0], False, GAUSS_NEWTON_STEPS)
    best = np.argmin(np.where(np.isfinite(f1), f1, np.inf).reshape(count, starts), 1) + starts * np.arange(count)
    z, steps = z1[best], steps1[best]
    converged = np.ones(count, bool)
    for delta in deltas:
        left = np.arange(count)
        damping = np.full(count, 1e-6)
        for limit in NEWTON_ROUNDS:
            z[left], _, damping[left], more, done = _run(
                problem, points, batch, left, z[left], damping[left], delta, True, limit
            )
            steps[left] += more
            left = left[~done]
            if len(left) == 0:
                break
        converged[:] = True
        converged[left] = False
    return Solution(z, evaluate(problem, points, batch, z), steps, converged)


def _run(
    problem: Problem, points: Points, batch: Batch, fit_of: np.ndarray, z: np.ndarray, damping: float | np.ndarray,
    delta: float, exact: bool, limit: int,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    function = _compiled_descend(problem)
    damping = np.broadcast_to(np.asarray(damping, float), (len(z),))

    def call(points: Points, y: Any, w: Any, z: Any, constant: Any, rows: np.ndarray) -> Any:
        return function(points, y, w, z, damping[rows], constant, delta, exact, limit)

    return _chunks(call, points, batch, fit_of, z)


def evaluate(problem: Problem, points: Points, batch: Batch, z: np.ndarray) -> np.ndarray:
    """The objective [B] of fit b at coordinates z[b]; z [B, q]."""
    function = _compiled_value(problem)

    def call(points: Points, y: Any, w: Any, z: Any, constant: Any, rows: np.ndarray) -> Any:
        return function(points, y, w, z, constant)

    return _chunks(call, points, batch, np.arange(len(z)), z)[0]


def _chunks(
    call: Callable[..., Any], points: Points, batch: Batch, fit_of: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Runs `call` over chunks of lanes, lane i working on fit fit_of[i] from z[i]; results have the lane axis first."""
    lanes, n = len(z), len(points.group)
    n_to = padded(n)
    points = pad_points(points, n_to)
    size = 1 << int(np.clip(CHUNK_NUMBERS // n_to, 1, CHUNK_LANES)).bit_length() - 1
    blank = n_to - n

    def work(a: int) -> tuple[np.ndarray, ...]:
        rows = np.minimum(np.arange(a, a + size), lanes - 1)
        fits = fit_of[rows]

        def wide(v: np.ndarray, fill: float) -> np.ndarray:
            part = v[fits] if v.ndim == 2 else np.broadcast_to(v, (size, n))
            return np.pad(part, ((0, 0), (0, blank)), constant_values=fill) if blank else part

        constant = {k: v[fits] for k, v in batch.constant.items()}
        # enable_x64 is local to a thread, so every worker opens its own.
        with jax.enable_x64(True):
            out = call(points, wide(batch.y, 1.0), wide(batch.w, 0.0), z[rows], constant, rows)
            return tuple(np.asarray(v)[: lanes - a] for v in out)

    edges = range(0, lanes, size)
    if len(edges) == 1:
        return work(0)
    parts = [work(0)]
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts += list(pool.map(work, edges[1:]))
    return tuple(np.concatenate(v) for v in zip(*parts, strict=True))
