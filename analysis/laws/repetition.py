"""A scarce target corpus repeated inside a mixture."""

from __future__ import annotations

import dataclasses
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
from analysis.laws.constrained import U, repeated

# Unique tokens of a corpus that is never repeated: a table without the column has this.
UNLIMITED = 1e30
UNIQUE = dataclasses.replace(U, default=UNLIMITED)


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
        log_n, log_d = jnp.log(x["N"]), jnp.log(repeated(x["h"] * x["D"], x["U"], p["r1"]))
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
