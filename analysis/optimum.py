"""The compute-optimal N and D of any law, by search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar

from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.law import Columns, Law, Params


def search(law: Law, p: Params, flops: float, x: Columns) -> dict[str, float]:
    """N and D of least loss with 6 N D = flops, other columns fixed at x; see `Law.optimum`.

    A grid over log N finds the lowest valley, Brent's method its floor (to about 1e-8 in log N).
    """
    names = {v.name for v in law.variables}
    if not {"N", "D"} <= names:
        raise LabError(f"The law {law.name} has no N and D to choose.", f"It reads: {', '.join(sorted(names))}.")
    half = 0.5 * np.log(flops / 6)
    grid = np.linspace(max(0.0, half - 14), half + 14, 2000)

    def loss(log_n: np.ndarray | float) -> np.ndarray:
        size = np.atleast_1d(log_n)
        columns = {k: jnp.broadcast_to(jnp.asarray(v, jnp.float64), size.shape) for k, v in x.items()}
        columns |= {"N": jnp.exp(size), "D": flops / 6 / jnp.exp(size)}
        return np.asarray(law.log_pred(p, columns))

    with jax.enable_x64(True):
        values = np.where(np.isfinite(v := loss(grid)), v, np.inf)
        best = int(np.argmin(values))
        if best in (0, len(grid) - 1):
            raise LabError(f"{law.name} has no optimum at {flops:.3g} FLOPs: its loss falls towards an end of N.")
        found = minimize_scalar(
            lambda v: float(loss(v)[0]), bracket=(grid[best - 1], grid[best], grid[best + 1]), tol=1e-10
        )
    size = float(np.exp(found.x))
    return {"N": size, "D": flops / 6 / size}
