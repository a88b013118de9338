"""Additive power laws in parameters and tokens: Chinchilla, and its form with one exponent for both."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from analysis.law import Columns, D, Law, N, Params, Published, coefficient, exponent


def power_optimum(a: float, b: float, alpha: float, beta: float, flops: float) -> dict[str, float]:
    """Least a/N^alpha + b/D^beta with 6ND = flops (arXiv:2203.15556, eq. 4)."""
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    budget = flops / 6
    return {"N": g * budget ** (beta / (alpha + beta)), "D": budget ** (alpha / (alpha + beta)) / g}


class Chinchilla(Law):
    """L = E + A/N^alpha + B/D^beta."""

    name = "chinchilla"
    source = "Hoffmann et al. 2022, arXiv:2203.15556, eq. 2"
    variables = (N, D)
    parameters = (coefficient("E", "nats"), coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta"))
    published = (
        Published(
            "arXiv:2203.15556, section D.3",
            {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
            "MassiveText, printed (rounded) values",
        ),
        Published(
            "Besiroglu et al. 2024, arXiv:2404.10102",
            {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
            "240 points read off the figures of arXiv:2203.15556",
        ),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]), "B": -p["beta"] * jnp.log(x["D"])}

    def optimum(self, p: Params, flops: float, x: Columns | None = None) -> dict[str, float]:
        return power_optimum(p["A"], p["B"], p["alpha"], p["beta"], flops)


class Tied(Law):
    """L = E + A/N^alpha + B/D^alpha."""

    name = "tied"
    source = "Hoffmann et al. 2022, arXiv:2203.15556, eq. 2 with beta = alpha (as in arXiv:2305.16264)"
    variables = (N, D)
    parameters = (coefficient("E", "nats"), coefficient("A"), coefficient("B"), exponent("alpha"))
    published = (
        Published(
            "Muennighoff et al. 2023, arXiv:2305.16264",
            {"E": 1.8691437, "A": 520.82495, "B": 1487.7161, "alpha": 0.3526596},
            "C4, one epoch: e .6254804, a 6.255414, b 7.3049974",
        ),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]), "B": -p["alpha"] * jnp.log(x["D"])}

    def optimum(self, p: Params, flops: float, x: Columns | None = None) -> dict[str, float]:
        return power_optimum(p["A"], p["B"], p["alpha"], p["alpha"], flops)


LAWS = (Tied(), Chinchilla())
