"""Pre-training as transferred tokens: a continued run of D tokens is worth D + k D^a N^b from scratch.

Unlike a term of its own for continued runs (arXiv:2407.02118), this form cannot predict that pre-training hurts: its
loss lies at or below the scratch law's everywhere and meets it as D grows (for a < 1). It cannot show ossification
either: look for residuals of one sign at the largest D.
"""

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
    Published,
    Variable,
    coefficient,
    exponent,
    positive,
)  # fmt: skip

PRETRAINED = Variable("pretrained", "1 continued, 0 from scratch", ("cpt",), lower=-1e-12, default=1.0)
TRANSFER = (
    positive("k", (1e-3, 1e7), 1e-30, 1e40, "tokens"),
    Parameter("a", "shape", -1.0, 1.5, (0.0, 0.8), plausible=(-0.5, 0.999)),
    Parameter("b", "shape", -3.0, 3.0, (0.0, 0.8), plausible=(-1.0, 2.0)),
)


def log_effective_tokens(p: Params, x: Columns) -> jax.Array:
    """log(D + k D^a N^b), and log D for rows from scratch (arXiv:2102.01293, eq. 1.1). Shape [n]."""
    log_d = jnp.log(x["D"])
    log_multiple = jnp.log(p["k"]) + (p["a"] - 1) * log_d + p["b"] * jnp.log(x["N"])
    return log_d + jnp.where(x["pretrained"] > 0.5, jnp.logaddexp(log_multiple, 0.0), 0.0)


def _at_most_scratch(law: Law) -> Claim:
    def margin(p: Params, x: Columns) -> Any:
        scratch = law.log_pred(p, {**x, "pretrained": jnp.zeros_like(x["pretrained"])})
        return jnp.where(x["pretrained"] > 0.5, scratch - law.log_pred(p, x), jnp.inf)

    return Claim("below scratch", "a continued run has a lower loss than one from scratch of the same N and D", margin)


class BoundedCPT(Law):
    """L = E + A/N^alpha + B/(D + k D^a N^b)^beta; scratch rows (`pretrained` 0) have k = 0.

    The constraint-respecting law for continual pre-training: it fits scratch and continued runs at once, or, with E,
    A, B, alpha and beta frozen from scratch runs, k, a and b alone.
    """

    name = "cpt-bounded"
    source = "arXiv:2203.15556, eq. 2, at the effective tokens of Hernandez et al. 2021, arXiv:2102.01293, eq. 1.1"
    variables = (N, D, PRETRAINED)
    parameters = (
        coefficient("E", "nats"), coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta"), *TRANSFER,
    )  # fmt: skip

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]), "B": -p["beta"] * log_effective_tokens(p, x)}

    def claims(self) -> tuple[Claim, ...]:
        return (*super().claims(), _at_most_scratch(self))


class Transfer(Law):
    """L = [(Nc/N)^(aN/aD) + Dc/(D + k D^a N^b)]^aD, with D the tokens (characters in the paper) of fine-tuning.

    Published k hold for characters and non-embedding N, and for D up to a tenth of what N can use.
    """

    name = "transfer"
    source = "Hernandez et al. 2021, arXiv:2102.01293, unified law"
    variables = (N, D, PRETRAINED)
    parameters = (
        exponent("aN", (0.03, 0.6)),
        exponent("aD", (0.03, 0.6)),
        positive("Nc", (1e6, 1e15), 1e-30, 1e60, "parameters"),
        positive("Dc", (1e6, 1e15), 1e-30, 1e60, "tokens"),
        *TRANSFER,
    )
    published = (
        Published(
            "arXiv:2102.01293, text to Python", {"k": 1.9e4, "a": 0.18, "b": 0.38}, "characters, non-embedding N"
        ),
        Published(
            "arXiv:2102.01293, text and code to Python",
            {"k": 2.1e5, "a": 0.096, "b": 0.38},
            "characters, non-embedding N; half text, half code",
        ),
    )

    def log_pred(self, p: Params, x: Columns) -> jax.Array:
        size = p["aN"] / p["aD"] * (jnp.log(p["Nc"]) - jnp.log(x["N"]))
        return p["aD"] * jnp.logaddexp(size, jnp.log(p["Dc"]) - log_effective_tokens(p, x))

    def claims(self) -> tuple[Claim, ...]:
        return (*super().claims(), _at_most_scratch(self))


LAWS = (BoundedCPT(), Transfer())
