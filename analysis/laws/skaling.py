"""Chinchilla's sum under a power: one more parameter for the joint curvature in N and D."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from analysis.law import Columns, D, Law, N, Parameter, Params, coefficient, exponent
from analysis.laws.chinchilla import power_optimum


class Skaling(Law):
    """L = E + (A/N^alpha + B/D^beta)^k; k = 1 is Chinchilla, and k leaves the optimal allocation alone.

    Published on grids of open runs: k between .31 and .45 on the densest ones, .77 to .90 on Chinchilla's.
    """

    name = "skaling"
    source = "Skaling, arXiv:2608.07222"
    variables = (N, D)
    parameters = (
        coefficient("E", "nats"),
        coefficient("A"),
        coefficient("B"),
        exponent("alpha"),
        exponent("beta"),
        Parameter("k", "shape", 0.02, 10.0, (0.3, 1.0), plausible=(0.1, 3.0)),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        # Exact at k = 1 only; there it centres A and B and supplies starting points.
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]), "B": -p["beta"] * jnp.log(x["D"])}

    def terms(self, p: Params, x: Columns) -> dict[str, Any]:
        inner = p["A"] * jnp.exp(-p["alpha"] * jnp.log(x["N"])) + p["B"] * jnp.exp(-p["beta"] * jnp.log(x["D"]))
        # A and B may both touch 0, where a power has no derivative.
        return {"E": p["E"], "N and D": jnp.exp(p["k"] * jnp.log(jnp.maximum(inner, 1e-300)))}

    def optimum(self, p: Params, flops: float, x: Columns | None = None) -> dict[str, float]:
        return power_optimum(p["A"], p["B"], p["alpha"], p["beta"], flops)


LAWS = (Skaling(),)
