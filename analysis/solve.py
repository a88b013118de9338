"""A compiled solver for many small fits of one law at once: damped Gauss-Newton, then exact Newton, in a box."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from analysis.batch import Batch, Points, chunks, evaluate, residuals
from analysis.coordinates import Problem, bounds

GAUSS_NEWTON_STEPS = 12
LOG_STEP = 0.7
NEWTON_ROUNDS = (5, 10, 40, 150)
# Least absolute deviations are reached as the limit of Huber's function at these corners.
ABSOLUTE_DELTAS = (1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10)


class Solution(NamedTuple):
    """Optima of a batch: coordinates [B, q], objective [B], iterations [B], and whether each converged [B]."""

    z: np.ndarray
    value: np.ndarray
    steps: np.ndarray
    converged: np.ndarray


def _solve_linear(h: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solves h x = g for a small symmetric h; second value: whether h is positive definite.

    Gauss-Jordan elimination as a loop over pivots, which needs no exchanges where h is positive definite: a batched
    factorisation from LAPACK takes longer, an unrolled one longer to compile.
    """
    q = g.shape[0]
    places = jnp.arange(q)[:, None]

    def eliminate(k: Any, state: Any) -> Any:
        a, ok = state
        pivot = a[k, k]
        row = a[k] / jnp.maximum(pivot, 1e-14)
        return jnp.where(places == k, row, a - a[:, k, None] * row), ok & (pivot > 1e-14)

    a, ok = jax.lax.fori_loop(0, q, eliminate, (jnp.concatenate([h, g[:, None]], 1), jnp.array(True)))
    return a[:, q], ok


class _State(NamedTuple):
    z: Any
    f: Any
    g: Any
    h: Any
    majorant: Any
    rounding: Any
    damping: Any
    steps: Any
    done: Any


def _descend(
    problem: Problem, points: Points, y: Any, w: Any, z0: Any, low: Any, high: Any, damping: Any, constant: Any,
    delta: Any, exact: Any, limit: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """At most `limit` damped steps downhill from z0 [q] in the box [low, high].

    `exact` (a scalar for the whole batch) adds second derivatives to the Hessian; where that is indefinite, and
    without it, the step uses the Gauss-Newton matrix of the majorising least-squares problem.

    Returns:
      z [q], objective, damping, steps taken, whether no further decrease is possible to rounding.
    """
    objective, q = problem.objective, problem.q
    basis = jnp.eye(q)
    factors = jnp.array([problem.parameter(k).role == "coefficient" for k in range(q)])

    def r_of(z: Any) -> jax.Array:
        return jnp.where(w > 0, residuals(problem, points, y, z, constant), 0.0)

    def evaluate(z: Any) -> tuple[Any, Any, Any, Any, Any]:
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
        # What rounding of the predictions does to f: no smaller decrease can be seen.
        rounding = 2.3e-16 * jnp.sum(jnp.abs(wpsi) * (1 + jnp.abs(y)) / points.noise)
        return jnp.where(sane, f, jnp.inf), g, h, majorant, rounding

    def body(s: _State) -> _State:
        # The first turn stands still and only evaluates: the model is compiled once, not before the loop as well.
        first = s.steps < 0
        live = ~(((s.z <= low) & (s.g > 0)) | ((s.z >= high) & (s.g < 0)))
        d = jnp.diagonal(s.majorant)
        d = jnp.sqrt(jnp.maximum(d, 1e-30 + 1e-18 * jnp.max(d)))
        both = live[:, None] & live[None, :]
        g = jnp.where(live, s.g / d, 0.0)

        def matrix(h: Any) -> Any:
            return jnp.where(both, h / (d[:, None] * d), 0.0) + jnp.diag(jnp.where(live, s.damping, 1.0))

        # Both at once: the Newton step where it exists, the majorant's otherwise.
        both_steps, positive = jax.vmap(_solve_linear, in_axes=(0, None))(
            jnp.stack([matrix(s.h), matrix(s.majorant)]), g
        )
        ok = positive[0]
        step = jnp.where(ok, both_steps[0], both_steps[1])
        dz = -jnp.where(live, step / d, 0.0)
        # A factor moves by its logarithm, along which the valleys of steep exponents are straight, unless it is to
        # shrink or grow so far that the way to 0 should stay open.
        share = jnp.where(factors & (s.z > 0), dz / jnp.where(s.z > 0, s.z, 1.0), jnp.inf)
        z = jnp.where(jnp.abs(share) < LOG_STEP, s.z * jnp.exp(jnp.clip(share, -1.0, 1.0)), s.z + dz)
        z = jnp.clip(z, low, high)
        dz = z - s.z
        gain = -(s.g @ dz) - 0.5 * dz @ jnp.where(ok, s.h, s.majorant) @ dz
        f, g_new, h_new, majorant_new, rounding_new = evaluate(z)
        better = f <= s.f
        ratio = (s.f - f) / jnp.maximum(gain, 1e-300)
        factor = jnp.where(better, jnp.where(ratio > 0.75, 0.1, jnp.where(ratio < 0.25, 3.0, 1.0)), 6.0)
        damping = jnp.where(first, s.damping, jnp.clip(s.damping * factor, 1e-14, 1e12))
        # A Gauss-Newton phase only has to come near; its steps shrink geometrically.
        floor = jnp.where(exact, 1e-15, 1e-7) * s.f + s.rounding + 1e-32 * jnp.sum(w)
        done = ~first & ((jnp.abs(gain) <= floor) | (~better & (damping > 1e11)))

        def pick(new: Any, old: Any) -> Any:
            return jnp.where(better, new, old)

        return _State(
            pick(z, s.z), pick(f, s.f), pick(g_new, s.g), pick(h_new, s.h), pick(majorant_new, s.majorant),
            pick(rounding_new, s.rounding),
            damping, s.steps + 1, done,
        )  # fmt: skip

    start = _State(
        jnp.clip(z0, low, high), jnp.inf, jnp.zeros(q), jnp.eye(q), jnp.eye(q), 0.0,
        damping, jnp.asarray(-1), jnp.asarray(False),
    )  # fmt: skip
    end = jax.lax.while_loop(lambda s: ~s.done & (s.steps < limit) & (jnp.isfinite(s.f) | (s.steps < 0)), body, start)
    return end.z, end.f, end.damping, end.steps, end.done


@functools.lru_cache(maxsize=64)
def _compiled_descend(problem: Problem) -> Any:
    def chunk(
        points: Points,
        y: Any,
        w: Any,
        z: Any,
        low: Any,
        high: Any,
        damping: Any,
        constant: Any,
        delta: Any,
        exact: Any,
        limit: Any,
    ) -> Any:
        one = functools.partial(_descend, problem, points)
        lanes = jax.vmap(one, in_axes=(0,) * 7 + (None,) * 3)
        return lanes(y, w, z, low, high, damping, constant, delta, exact, limit)

    return jax.jit(chunk)


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
    z, value, steps = z1[best], f1[best], steps1[best]
    converged = np.ones(count, bool)
    for delta in deltas:
        left = np.arange(count)
        damping = np.full(count, 1e-6)
        for limit in NEWTON_ROUNDS:
            z[left], value[left], damping[left], more, done = _run(
                problem, points, batch, left, z[left], damping[left], delta, True, limit
            )
            steps[left] += more
            left = left[~done]
            if len(left) == 0:
                break
        converged[:] = True
        converged[left] = False
    if kind == "absolute":
        value = evaluate(problem, points, batch, z)
    return Solution(z, value, steps, converged)


def _run(
    problem: Problem, points: Points, batch: Batch, fit_of: np.ndarray, z: np.ndarray, damping: float | np.ndarray,
    delta: float, exact: bool, limit: int,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    function = _compiled_descend(problem.code)
    damping = np.broadcast_to(np.asarray(damping, float), (len(z),))
    low, high = (np.broadcast_to(v, z.shape) for v in bounds(problem))
    if batch.held is not None:
        held = batch.held[fit_of]
        low, high = (np.where(np.isnan(held), v, held) for v in (low, high))

    def call(points: Points, y: Any, w: Any, z: Any, constant: Any, rows: np.ndarray) -> Any:
        return function(points, y, w, z, low[rows], high[rows], damping[rows], constant, delta, exact, limit)

    return chunks(call, points, batch, fit_of, z)
