"""Kaplan's joint law: no irreducible loss, and one power over both shortages."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from analysis.law import Columns, D, Law, N, Params, Published, exponent, positive


class Kaplan(Law):
    """L = [(Nc/N)^(aN/aD) + Dc/D]^aD; N is non-embedding in the paper.

    Fitted in logarithms of Nc and Dc, which are the size and the tokens at which each term alone is 1 nat.
    """

    name = "kaplan"
    source = "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5"
    variables = (N, D)
    parameters = (
        exponent("aN", (0.03, 0.6)),
        exponent("aD", (0.03, 0.6)),
        positive("Nc", (1e6, 1e15), 1e-30, 1e60, "parameters"),
        positive("Dc", (1e6, 1e15), 1e-30, 1e60, "tokens"),
    )
    published = (
        Published(
            "arXiv:2001.08361, table 2",
            {"aN": 0.076, "aD": 0.103, "Nc": 6.4e13, "Dc": 1.8e13},
            "WebText2, L(N, D), non-embedding N",
        ),
    )

    def log_pred(self, p: Params, x: Columns) -> jax.Array:
        size = p["aN"] / p["aD"] * (jnp.log(p["Nc"]) - jnp.log(x["N"]))
        return p["aD"] * jnp.logaddexp(size, jnp.log(p["Dc"]) - jnp.log(x["D"]))

    def optimum(self, p: Params, flops: float, x: Columns | None = None) -> dict[str, float]:
        """Least (Nc/N)^r + Dc/D with 6ND = flops and r = aN/aD."""
        r = p["aN"] / p["aD"]
        log_n = (jnp.log(r) + r * jnp.log(p["Nc"]) + jnp.log(flops / 6) - jnp.log(p["Dc"])) / (1 + r)
        n = float(jnp.exp(log_n))
        return {"N": n, "D": flops / 6 / n}


LAWS = (Kaplan(),)
