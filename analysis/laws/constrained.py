"""Scaling with repeated data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from analysis.law import (
    Claim,
    Columns,
    D,
    Law,
    N,
    Params,
    Published,
    Variable,
    coefficient,
    exponent,
    falls_with,
    positive,
)
from analysis.optimum import search
from lab.errors import LabError

U = Variable("U", "unique tokens", ("unique_tokens", "tokens_unique"))
# The law is monotone in D and recommends any number of epochs; the paper's runs support no more than about this many.
MOST_EPOCHS = 20.0


def repeated(total: Any, unique: Any, half_life: Any) -> Any:
    """Effective size of `total` when only `unique` of it is new: each repetition is worth less by exp(-1/half_life).

    `total` may be 0. ATLAS (arXiv:2510.22037) writes the same with its rate, 1/half_life.
    """
    again = total > unique
    # Both branches of `where` are differentiated: the one not taken must be finite too.
    epochs = jnp.where(again, total / jnp.where(again, unique, 1.0), 1.0)
    return jnp.minimum(total, unique) * (1 - half_life * jnp.expm1(-(epochs - 1) / half_life))


class DataConstrained(Law):
    """L = E + A/N'^alpha + B/D'^alpha with D' the effective tokens and N' the effective parameters.

    D' = U_D (1 + R_D* (1 - exp(-R_D / R_D*))), U_D = min(D, U), R_D = D / U_D - 1; N' alike with U_N the
    compute-optimal N of U_D tokens, (A/B)^(1/alpha) U_D.
    """

    name = "data-constrained"
    source = "Muennighoff et al. 2023, arXiv:2305.16264, eq. 5 and appendix A"
    variables = (N, D, U)
    parameters = (
        coefficient("E", "nats"),
        coefficient("A"),
        coefficient("B"),
        exponent("alpha"),
        positive("R_D", start=(0.5, 500.0), lower=1e-3, upper=1e6, unit="repetitions"),
        positive("R_N", start=(0.1, 500.0), lower=1e-3, upper=1e6, unit="repetitions"),
    )
    published = (
        Published(
            "arXiv:2305.16264, appendix A",
            {"E": 1.8691437, "A": 520.82495, "B": 1487.7161, "alpha": 0.3526596, "R_D": 15.387756, "R_N": 5.309743},
            "182 runs on C4; A, B, E, alpha fixed from single-epoch runs (e .6254804, a 6.255414, b 7.3049974)",
        ),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        n, d = self.effective(p, x)
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(n), "B": -p["alpha"] * jnp.log(d)}

    def effective(self, p: Params, x: Columns) -> tuple[Any, Any]:
        """N' and D'."""
        unique = jnp.minimum(x["D"], x["U"])
        # Away from the fit's coefficients (a start, a vanished term) the ratio may be anything: keep it finite.
        ratio = jnp.clip(p["A"], 1e-100, 1e100) / jnp.clip(p["B"], 1e-100, 1e100)
        best = unique * jnp.exp(jnp.clip(jnp.log(ratio) / jnp.maximum(p["alpha"], 1e-3), -200.0, 200.0))
        return repeated(x["N"], best, p["R_N"]), repeated(x["D"], x["U"], p["R_D"])

    def optimum(self, p: Params, flops: float, x: Columns | None = None) -> dict[str, float]:
        """N and D of least loss for the unique tokens x["U"], D at most MOST_EPOCHS times U.

        Raises:
          LabError: when x has no U.
        """
        if not x or "U" not in x:
            raise LabError("The data-constrained optimum needs the number of unique tokens.", "Give x={'U': ...}.")
        best = search(self, p, flops, x)
        most = MOST_EPOCHS * float(x["U"])
        return best if best["D"] <= most else {"N": flops / (6 * most), "D": most}

    def claims(self) -> tuple[Claim, ...]:
        # Both effects saturate: many half-lives on, the loss is flat to rounding.
        return (falls_with(self, N, strictly=False), falls_with(self, D, strictly=False))


LAWS = (DataConstrained(),)
