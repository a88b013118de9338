"""A law at given parameters as plain numpy functions: predictions, their slopes, and their Jacobian.

Parameters are floats, or arrays [R] of bootstrap draws; with draws every result has a leading axis R.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis.law import Law
from lab.errors import LabError

Values = Mapping[str, Any]


@functools.lru_cache(maxsize=64)
def _compiled(law: Law) -> Callable[..., Any]:
    return jax.jit(law.log_pred)


@functools.lru_cache(maxsize=64)
def _slope(law: Law, variable: str) -> Callable[..., Any]:
    def along(p: Any, x: Any) -> Any:
        def shifted(step: Any) -> Any:
            return law.log_pred(p, {**x, variable: x[variable] * jnp.exp(step)})

        zero = jnp.zeros(jnp.shape(x[variable]))
        return jax.jvp(shifted, (zero,), (jnp.ones_like(zero),))

    return jax.jit(along)


def as_params(law: Law, params: Values) -> dict[str, np.ndarray]:
    """The law's parameters as float64 arrays of shape [] or [R].

    Raises:
      LabError: when one is missing or unknown.
    """
    names = [p.name for p in law.parameters]
    if missing := [n for n in names if n not in params]:
        raise LabError(f"The law {law.name} needs {', '.join(missing)}.", f"Its parameters: {', '.join(names)}.")
    if unknown := [n for n in params if n not in names]:
        raise LabError(f"The law {law.name} has no parameter {unknown[0]!r}.", f"It has: {', '.join(names)}.")
    return {n: np.asarray(params[n], np.float64) for n in names}


def as_columns(law: Law, x: Values) -> dict[str, np.ndarray]:
    """The law's variables as float64 arrays of one shape; defaults fill what is left out.

    Raises:
      LabError: when a variable is missing.
    """
    columns = {}
    for variable in law.variables:
        if variable.name in x:
            columns[variable.name] = np.asarray(x[variable.name], np.float64)
        elif variable.default is not None:
            columns[variable.name] = np.asarray(variable.default, np.float64)
        else:
            raise LabError(f"The law {law.name} needs {variable.name} ({variable.unit}).")
    shape = np.broadcast_shapes(*(c.shape for c in columns.values()))
    return {k: np.array(np.broadcast_to(v, shape)) for k, v in columns.items()}


def _stretched(
    params: Mapping[str, np.ndarray], x: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draws [R] and columns of shape S, both brought to shape [R, *S]: laws see columns of the full shape."""
    rows = draws_of(params)
    if rows is None:
        return dict(params), dict(x)
    shape = (rows, *next(iter(x.values())).shape)
    tail = (1,) * (len(shape) - 1)
    return (
        {k: v.reshape((rows, *tail)) if v.ndim else v for k, v in params.items()},
        {k: np.array(np.broadcast_to(v, shape)) for k, v in x.items()},
    )


def log_loss(law: Law, params: Values, x: Values) -> np.ndarray:
    """log of the predicted loss in nats: shape of the columns, with a leading [R] for draws."""
    p, columns = as_params(law, params), as_columns(law, x)
    with jax.enable_x64(True):
        return np.asarray(_compiled(law)(*_stretched(p, columns)))


def loss(law: Law, params: Values, x: Values) -> np.ndarray:
    """Predicted loss in nats per token; NaN where the law is undefined."""
    with np.errstate(over="ignore"):
        return np.exp(log_loss(law, params, x))


def paired(law: Law, params: Values, x: Values, along: str) -> tuple[np.ndarray, np.ndarray]:
    """log loss and its derivative with respect to log x[along], where columns and parameters share one shape.

    Draw r of the parameters meets row r of the columns: what a vectorised root search needs.
    """
    p, columns = as_params(law, params), as_columns(law, x)
    with jax.enable_x64(True):
        value, slope = _slope(law, along)(p, columns)
    return np.asarray(value), np.asarray(slope)


@functools.lru_cache(maxsize=64)
def _jacobian(law: Law) -> Callable[..., Any]:
    def row(theta: Any, x: Any) -> Any:
        return law.log_pred(theta, {k: v[None] for k, v in x.items()})[0]

    return jax.jit(jax.vmap(jax.jacfwd(row), in_axes=(None, 0)))


def jacobian(law: Law, params: Values, x: Values) -> np.ndarray:
    """d log loss / d parameter [n, P], in natural units and in the order of `law.parameters`."""
    p, columns = as_params(law, params), as_columns(law, x)
    with jax.enable_x64(True):
        rows = _jacobian(law)(p, {k: np.atleast_1d(v) for k, v in columns.items()})
    return np.column_stack([np.asarray(rows[q.name]) for q in law.parameters])


def broadcast(params: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {k: np.array(np.broadcast_to(v, shape)) for k, v in params.items()}


def draws_of(params: Mapping[str, np.ndarray]) -> int | None:
    """Number of draws R, or None for a single parameter set."""
    sizes = {len(v) for v in params.values() if np.ndim(v) == 1}
    if len(sizes) > 1:
        raise LabError(f"Parameter draws have different lengths: {sorted(sizes)}.")
    return sizes.pop() if sizes else None
