"""The law of one model size in tokens, fitted to reciprocal perplexity."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from analysis.law import Claim, Columns, D, Law, Params, Published, coefficient, exponent, falls_with
from analysis.objective import Objective, Space

# Tokens of the monolingual run that arXiv:2404.07982 measures tokens by.
REFERENCE_TOKENS = 1_197_015_040.0
SMALLEST_LOSS = 1e-12


class ReciprocalPerplexity(Law):
    """1/PPL = c - a x^-b with x = D / 1,197,015,040 tokens; the loss is log PPL.

    Below x* = (a/c)^(1/b) the form has a pole (no perplexity reaches it), and no amount of data takes the
    perplexity below 1/c: `floor` and `ceiling` say so, and inverses are censored there.
    """

    name = "reciprocal-perplexity"
    source = "Schäfer et al. 2024, arXiv:2404.07982, section 3 (their plot_utils.PowerLaw)"
    variables = (D,)
    parameters = (coefficient("c"), coefficient("a", sign=-1.0), exponent("b", start=(0.02, 2.0)))
    objective = Objective("squares", "reciprocal")
    linear_in = "reciprocal"
    published = (
        Published(
            "arXiv:2404.07982, recovered from its notebooks, small English",
            {"a": 0.03868394, "b": 0.2072531, "c": 0.08406529},
            "books, own vocabulary; tokens of one language only",
        ),
        Published(
            "arXiv:2404.07982, recovered from its notebooks, small French",
            {"a": 0.05686375, "b": 0.19327459, "c": 0.1191906},
        ),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"c": 0.0, "a": -p["b"] * jnp.log(x["D"] / REFERENCE_TOKENS)}

    def in_space(self, p: Params, x: Columns, space: Space) -> jax.Array:
        terms = self.terms(p, x)
        reciprocal = jnp.asarray(terms["c"] + terms["a"])
        if space == "reciprocal":
            return reciprocal
        loss = -jnp.log(reciprocal)
        return loss if space == "linear" else jnp.log(loss)

    def log_pred(self, p: Params, x: Columns) -> jax.Array:
        """log of the loss; inf at and below the pole."""
        reciprocal = jnp.asarray(self.in_space(p, x, "reciprocal"))
        safe = jnp.clip(reciprocal, 1e-300, 1 - SMALLEST_LOSS)
        return jnp.where(reciprocal > 0, jnp.log(-jnp.log(safe)), jnp.inf)

    def floor(self, p: Params) -> float:
        """Tokens at the pole x*: the law gives no finite perplexity to fewer."""
        return float(REFERENCE_TOKENS * (p["a"] / p["c"]) ** (1 / p["b"]))

    def ceiling(self, p: Params) -> float:
        """The loss in nats that no number of tokens reaches, log(1/c) (0 where c > 1)."""
        return float(max(0.0, -math.log(p["c"])))

    def tokens_for(self, p: Params, loss: float) -> float:
        """Tokens D at which the law reaches `loss` nats: its exact inverse, inf at or below the ceiling's loss."""
        gap = p["c"] - float(math.exp(-loss))
        return float("inf") if gap <= 0 else float(REFERENCE_TOKENS * (gap / p["a"]) ** (-1 / p["b"]))

    def claims(self) -> tuple[Claim, ...]:
        return (falls_with(self, D),)


LAWS = (ReciprocalPerplexity(),)
