"""The size and tokens of least loss on a curve of equal cost, found numerically, for one parameter set or many draws.

The curve is searched on a grid of log N, and the minimum is the zero of the derivative along the curve (by autodiff,
bisected), which is exact to rounding where comparing losses is exact only to its square root.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis import surface
from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.law import Law

GRID = 256
_LOG_LARGEST = math.log(1e30)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Compute for training, and for serving when `inference_tokens` is above 0: C = 6 N D + 2 N D_inference.

    Attributes:
      flops: C, one number or one a draw.
      inference_tokens: tokens the model will serve in its life (arXiv:2401.00448).
      max_tokens: no more training tokens than this; compute beyond it stays unspent.
    """

    flops: Any
    inference_tokens: float = 0.0
    max_tokens: float = math.inf

    def cost(self, n: Any, d: Any) -> Any:
        return 6 * n * d + 2 * n * self.inference_tokens


@functools.lru_cache(maxsize=64)
def _curve(law: Law) -> Callable[..., Any]:
    def value_and_slope(p: Any, x: Any, log_n: Any, flops: Any, inference: Any, max_tokens: Any) -> Any:
        def along(u: Any) -> Any:
            left = jnp.maximum(flops * jnp.exp(-u) - 2 * inference, 1e-300)
            return law.log_pred(p, {**x, "N": jnp.exp(u), "D": jnp.minimum(left / 6, max_tokens)})

        return jax.jvp(along, (log_n,), (jnp.ones_like(log_n),))

    return jax.jit(value_and_slope)


def minimise(
    law: Law, params: surface.Values, budget: Budget, x: surface.Values | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """N, D, loss in nats and whether a minimum exists, each of shape [R] (R = 1 for one parameter set).

    Args:
      law: a law with the variables N and D.
      params: floats, or draws [R].
      budget: its `flops` may be an array [R].
      x: the law's other variables, scalars.

    Where none exists (the loss still falls at an end of the searched range) the end is returned and marked False.

    Raises:
      LabError: when the law has no N or no D, or the budget is not above 0.
    """
    names = {v.name for v in law.variables}
    if not {"N", "D"} <= names:
        raise LabError(f"The law {law.name} has no {'N' if 'N' not in names else 'D'}: it has no best size.")
    p = surface.as_params(law, params)
    flops = np.atleast_1d(np.asarray(budget.flops, np.float64))
    if np.any(~(flops > 0)):
        raise LabError("A compute budget must be above 0.", "Give FLOPs, e.g. 1e20.")
    rows = max(surface.draws_of(p) or 1, len(flops))
    flops = np.broadcast_to(flops, (rows,))
    others = surface.as_columns(law, {**(x or {}), "N": 1.0, "D": 1.0})
    fixed = {k: v for k, v in others.items() if k not in ("N", "D")}
    compiled = _curve(law)

    def evaluate(log_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = log_n.shape
        tail = (1,) * (len(shape) - 1)
        pb = surface.broadcast({k: v.reshape(v.shape + tail) if v.ndim else v for k, v in p.items()}, shape)
        xb = {k: np.full(shape, v) for k, v in fixed.items()}
        c = np.array(np.broadcast_to(flops.reshape((-1, *tail)), shape))
        with jax.enable_x64(True):
            value, slope = compiled(pb, xb, log_n, c, float(budget.inference_tokens), float(budget.max_tokens))
        return np.where(np.isfinite(value), np.asarray(value), np.inf), np.asarray(slope)

    top = np.log(flops / (6 + 2 * budget.inference_tokens))
    grid = np.linspace(0, 1, GRID)[None, :] * top[:, None]
    values, _ = evaluate(grid)
    best = np.argmin(values, axis=1)
    inside = (best > 0) & (best < GRID - 1)
    index = np.clip(best, 1, GRID - 2)
    r = np.arange(rows)
    low, high = grid[r, index - 1], grid[r, index + 1]
    for _ in range(52):
        middle = 0.5 * (low + high)
        rising = evaluate(middle)[1] > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    log_n = np.where(inside, 0.5 * (low + high), grid[r, best])
    n = np.exp(log_n)
    d = np.minimum((flops / n - 2 * budget.inference_tokens) / 6, budget.max_tokens)
    return n, d, np.exp(evaluate(log_n)[0]), inside


def search(law: Law, p: surface.Values, flops: float, x: surface.Values) -> dict[str, float]:
    """The N and D of least loss with 6 N D = flops; what `Law.optimum` calls where it has no closed form.

    Raises:
      LabError: when the law has no N or D, or its loss falls without end as N or D grows.
    """
    n, d, _, found = minimise(law, p, Budget(flops), x)
    if not found[0]:
        raise LabError(
            f"{law.name} has no optimum at {flops:.3g} FLOPs: its loss still falls at N = {n[0]:.3g}.",
            "Check its parameters: an exponent may be 0, or a term missing.",
        )
    return {"N": float(n[0]), "D": float(d[0])}


def budget_for(law: Law, params: surface.Values, loss: Any, x: surface.Values | None = None) -> np.ndarray:
    """FLOPs at which the compute-optimal loss reaches `loss` [R]; inf where it never does."""
    p = surface.as_params(law, params)
    target = np.log(np.atleast_1d(np.asarray(loss, np.float64)))
    rows = max(surface.draws_of(p) or 1, len(target))
    target = np.broadcast_to(target, (rows,))

    def excess(log_c: np.ndarray) -> np.ndarray:
        return np.log(minimise(law, p, Budget(np.exp(log_c)), x)[2]) - target

    return np.exp(falling_root(excess, np.full(rows, math.log(1e3)), np.full(rows, _LOG_LARGEST), 1e-10))


def falling_root(
    f: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray, tolerance: float = 1e-13
) -> np.ndarray:
    """Zeros [R] of decreasing functions, all rows at once; +inf (-inf) where f is above (below) 0 at both ends.

    NaN counts as +inf: laws are undefined only below their smallest argument. Chandrupatla (1997): inverse quadratic
    steps where they are safe, bisection elsewhere.
    """

    def safe(u: np.ndarray) -> np.ndarray:
        v = f(u)
        return np.where(np.isnan(v), np.inf, v)

    a, b = np.array(high, float), np.array(low, float)
    fa, fb = safe(a), safe(b)
    above, below = fa > 0, fb < 0
    t = np.full(a.shape, 0.5)
    with np.errstate(all="ignore"):
        for _ in range(200):
            u = a + t * (b - a)
            fu = safe(u)
            same = np.sign(fu) == np.sign(fa)
            c, fc = np.where(same, a, b), np.where(same, fa, fb)
            b, fb = np.where(same, b, a), np.where(same, fb, fa)
            a, fa = u, fu
            width = np.abs(b - a)
            if np.all((width <= tolerance * np.maximum(1, np.abs(a))) | (fa == 0) | above | below):
                break
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            t = np.where(smooth & np.isfinite(step), step, 0.5)
            edge = np.minimum(0.5 * tolerance / np.maximum(width, 1e-300), 0.5)
            t = np.where(fa == 0, 0.0, np.clip(t, edge, 1 - edge))
        root = np.where(np.abs(fa) < np.abs(fb), a, b)
    return np.where(above, np.inf, np.where(below, -np.inf, root))
