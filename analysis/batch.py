"""Many fits of one law over one set of points, evaluated in compiled chunks.

Every fit has its own observations, weights and frozen values; the columns are shared. Chunks run on a few threads, and
the points are padded to a few sizes so that compiled code is reused.
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

from analysis.coordinates import Problem, to_params

# A chunk is as many lanes (one fit from one start) as keep its working set in the cache.
CHUNK_LANES = 64
CHUNK_NUMBERS = 65_536


class Points(NamedTuple):
    """The shared side of a batch of fits: columns [n], group [n], noise [n], and the centre of the columns."""

    x: dict[str, Any]
    group: Any
    noise: Any
    centre: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """B fits over one set of points.

    Attributes:
      y: observations in the objective's space, [n] or [B, n].
      w: weights, [n] or [B, n]; points of weight 0 do not take part.
      starts: coordinates to start from, [B, S, q].
      constant: frozen parameters, name -> [B] or [B, G].
      held: coordinates fixed at a value, nan where free, [B, q]; None when none is.
    """

    y: np.ndarray
    w: np.ndarray
    starts: np.ndarray
    constant: Mapping[str, np.ndarray]
    held: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Batch:
        """The fits numbered `rows`."""

        def cut(v: np.ndarray) -> np.ndarray:
            return v[rows] if v.ndim == 2 else v

        held = None if self.held is None else self.held[rows]
        return Batch(cut(self.y), cut(self.w), self.starts[rows], {k: v[rows] for k, v in self.constant.items()}, held)


def residuals(problem: Problem, points: Points, y: Any, z: Any, constant: Mapping[str, Any]) -> jax.Array:
    """(prediction - y) / noise [n] at coordinates z [q]; y is in the objective's space."""
    p = to_params(problem, z, constant, points.centre)
    if problem.groups > 1:
        p = {k: v[points.group] if jnp.ndim(v) else v for k, v in p.items()}
    pred = problem.law.in_space(p, points.x, problem.objective.space)
    return (jnp.broadcast_to(pred, jnp.shape(y)) - y) / points.noise


@functools.lru_cache(maxsize=64)
def _compiled_params(problem: Problem) -> Any:
    def chunk(points: Points, y: Any, w: Any, z: Any, constant: Any) -> Any:
        def one(y: Any, z: Any, constant: Any) -> Any:
            p = to_params(problem, z, constant, points.centre)
            return {k: p[k] for k in sorted({f.name for f in problem.free})}, residuals(problem, points, y, z, constant)

        params, r = jax.vmap(one)(y, z, constant)
        return (*params.values(), r)

    return jax.jit(chunk)


@functools.lru_cache(maxsize=64)
def _compiled_jacobian(problem: Problem) -> Any:
    def one(points: Points, y: Any, z: Any, constant: Any) -> Any:
        return jax.jacfwd(lambda v: residuals(problem, points, y, v, constant))(z)

    return jax.jit(one)


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


def evaluate(problem: Problem, points: Points, batch: Batch, z: np.ndarray) -> np.ndarray:
    """The objective [B] of fit b at coordinates z[b]; z [B, q]."""
    function = _compiled_params(problem.code)

    def call(points: Points, y: Any, w: Any, z: Any, constant: Any, rows: np.ndarray) -> Any:
        r = np.asarray(function(points, y, w, z, constant)[-1])
        with np.errstate(invalid="ignore"):
            return (np.sum(np.where(w > 0, w * problem.objective.summand(r), 0.0), 1),)

    return chunks(call, points, batch, np.arange(len(z)), z)[0]


def describe(problem: Problem, points: Points, batch: Batch, z: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Free parameters in natural units, name -> [B] or [B, G], and residuals over the noise [B, n], at z [B, q]."""
    function = _compiled_params(problem.code)
    n = len(points.group)

    def call(points: Points, y: Any, w: Any, z: Any, constant: Any, rows: np.ndarray) -> Any:
        return function(points, y, w, z, constant)

    *values, r = chunks(call, points, batch, np.arange(len(z)), z)
    return dict(zip(sorted({f.name for f in problem.free}), values, strict=True)), r[:, :n]


def jacobian(problem: Problem, points: Points, z: np.ndarray, constant: Mapping[str, Any]) -> np.ndarray:
    """d residual / d coordinate [n, q] at z [q]: in the objective's space, over the noise."""
    n = len(points.group)
    padded_points = pad_points(points, padded(n))
    with jax.enable_x64(True):
        y = np.zeros(padded(n))
        return np.asarray(_compiled_jacobian(problem.code)(padded_points, y, np.asarray(z), dict(constant)))[:n]


def chunks(
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
