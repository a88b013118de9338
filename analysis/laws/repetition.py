"""A scarce target corpus repeated inside a mixture, and how much a repeated token is worth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from analysis.law import (
    Claim,
    Columns,
    D,
    Law,
    N,
    Parameter,
    Params,
    Variable,
    coefficient,
    exponent,
    falls_with,
    positive,
)

# Unique tokens of a corpus that is never repeated: a table without the column has this.
UNLIMITED = 1e30
UNIQUE = Variable("U", "unique tokens", ("unique", "unique_tokens"), default=UNLIMITED)


def log_saturated(tokens: Any, unique: Any, half_life: Any) -> jax.Array:
    """log of the tokens that `tokens` drawn from `unique` are worth: themselves up to one epoch, then
    unique * (1 + R (1 - exp(-(epochs - 1) / R))) with R the half-life in epochs (arXiv:2305.16264, eq. 5).

    arXiv:2510.22037 writes it with lam = 1/R. Tokens may be 0 (the log is then that of 1e-300). Shape [n].
    """
    repeated = tokens > unique
    # Both branches of `where` are differentiated: keep the one not taken finite.
    epochs = jnp.where(repeated, tokens / jnp.where(repeated, unique, 1.0), 1.0)
    worth = -half_life * jnp.expm1(-(epochs - 1) / half_life)
    return jnp.log(jnp.maximum(jnp.minimum(tokens, unique), 1e-300)) + jnp.log1p(worth)


class RepetitionMixture(Law):
    """Target loss L = E + C/N^beta + B N^delta/D_eff^alpha + gamma h, with D_eff the h D target tokens after r = h D/U
    epochs, worth h D r_eff/r: r_eff = r up to 1, 1 + r1 (1 - exp(-(r - 1)/r1)) beyond.

    N^delta lets larger models tire of repeats sooner; gamma h charges for the generic data that the target displaces.
    """

    name = "repetition-mixture"
    source = "Sedova, Seto, Schluter and Ablin 2026, arXiv:2605.12715"
    variables = (
        N,
        D,
        Variable("h", "share of the target in the mixture", ("share", "p"), upper=1.0),
        UNIQUE,
    )
    parameters = (
        coefficient("E", "nats"),
        coefficient("C"),
        coefficient("B"),
        coefficient("gamma", "nats"),
        exponent("beta"),
        exponent("alpha"),
        Parameter("delta", "shape", -3.0, 3.0, (-0.1, 0.4), plausible=(-0.5, 2.0)),
        positive("r1", (1.0, 60.0), 1e-2, 1e6, "epochs"),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        log_n, log_d = jnp.log(x["N"]), log_saturated(x["h"] * x["D"], x["U"], p["r1"])
        return {
            "E": 0.0,
            "C": -p["beta"] * log_n,
            "B": p["delta"] * log_n - p["alpha"] * log_d,
            "gamma": jnp.log(x["h"]),
        }

    def claims(self) -> tuple[Claim, ...]:
        # N is left out: with delta > 0 a larger model may do worse on repeated data, which is the law's point.
        return (falls_with(self, D, strictly=False), falls_with(self, UNIQUE, strictly=False))

    def best_share(self, p: Params, n: float, d: float, unique: float) -> float:
        """The h in (0, 1] of least target loss for a run of n parameters and d tokens over `unique` target tokens."""
        grid = jnp.concatenate([jnp.geomspace(1e-6, 0.1, 4000), jnp.linspace(0.1, 1, 4000)])
        with jax.enable_x64(True):
            h = jnp.asarray(grid, jnp.float64)
            full = {k: jnp.full(h.shape, v) for k, v in (("N", n), ("D", d), ("U", unique))}
            return float(h[jnp.argmin(self.log_pred(p, {**full, "h": h}))])


LAWS = (RepetitionMixture(),)
