"""Transfer between languages as effective data, and the price of adding languages."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from analysis.law import (
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
from analysis.laws._options import define
from analysis.laws.constrained import repeated
from analysis.laws.repetition import UNIQUE, UNLIMITED

# Interference may cost target tokens (tau < 0) but never leaves less than this share of their worth.
LEAST_SHARE = 1e-3


@dataclasses.dataclass(frozen=True, repr=False)
class Atlas(Law):
    """L = E + A/N^alpha + B/D_eff^beta, D_eff = S(D; U) + sum_i tau_i S(D_i; U_i), S saturating at rate lam.

    D and U are the target language's tokens seen and unique tokens. Every source language i of `sources` has columns
    D_i (0 in monolingual runs) and U_i, and a transfer tau_i: the worth of one of its tokens in target tokens. The
    paper takes the three languages sampled most with the target, and all others as one more, `other`.
    Without repetition (no column U, or D below it) lam means nothing: freeze it.
    """

    sources: tuple[str, ...] = ("other",)
    source = "Longpre et al. 2025, arXiv:2510.22037, the adaptive transfer law"

    def __post_init__(self) -> None:
        seen = (Variable(f"D_{s}", f"tokens of {s}", lower=-1e-12) for s in self.sources)
        unique = (Variable(f"U_{s}", f"unique tokens of {s}", default=UNLIMITED) for s in self.sources)
        parameters = (
            coefficient("E", "nats"),
            coefficient("A"),
            coefficient("B"),
            exponent("alpha"),
            exponent("beta"),
            positive("lam", (0.03, 3.0), 1e-6, 1e6, "1/epochs"),
            *(Parameter(f"tau_{s}", "shape", -2.0, 20.0, (-0.1, 1.0), plausible=(-1.0, 2.0)) for s in self.sources),
        )
        define(self, "atlas", (N, D, UNIQUE, *seen, *unique), parameters)

    def log_effective_tokens(self, p: Params, x: Columns) -> jax.Array:
        """log D_eff, [n]."""
        target = repeated(x["D"], x["U"], 1 / p["lam"])
        sources = sum(p[f"tau_{s}"] * repeated(x[f"D_{s}"], x[f"U_{s}"], 1 / p["lam"]) for s in self.sources)
        return jnp.log(target) + jnp.log(jnp.maximum(1.0 + sources / target, LEAST_SHARE))

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        data = -p["beta"] * self.log_effective_tokens(p, x)
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]), "B": data}


class AtlasCurse(Law):
    """L = E + A K^phi/N^alpha + B K^psi/D^beta for K languages of D tokens each; psi < 0 is positive transfer."""

    name = "atlas-curse"
    source = "Longpre et al. 2025, arXiv:2510.22037, the curse of multilinguality"
    variables = (N, D, Variable("K", "number of languages", ("k", "languages", "num_languages")))
    parameters = (
        coefficient("E", "nats"),
        coefficient("A"),
        coefficient("B"),
        exponent("alpha"),
        exponent("beta"),
        Parameter("phi", "shape", -3.0, 3.0, (-0.1, 0.5), plausible=(-1.0, 1.5)),
        Parameter("psi", "shape", -3.0, 3.0, (-0.3, 0.3), plausible=(-1.0, 1.5)),
    )
    published = (
        Published(
            "arXiv:2510.22037",
            {"phi": 0.11, "psi": -0.04, "alpha": 0.453, "beta": 0.147},
            "phi and psi printed; alpha and beta follow from its iso-loss exponents .243 (N) and .728 (all tokens)",
        ),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        log_k = jnp.log(x["K"])
        return {
            "E": 0.0,
            "A": p["phi"] * log_k - p["alpha"] * jnp.log(x["N"]),
            "B": p["psi"] * log_k - p["beta"] * jnp.log(x["D"]),
        }


@dataclasses.dataclass(frozen=True)
class IsoLoss:
    """Factors that keep every language's loss when the number of languages grows."""

    n: float
    d_language: float
    d_total: float
    flops: float


def iso_loss(p: Params, factor: float) -> IsoLoss:
    """What K -> factor * K asks for under `AtlasCurse`: N by factor^(phi/alpha), tokens a language by
    factor^(psi/beta) (arXiv:2510.22037)."""
    n, d = factor ** (p["phi"] / p["alpha"]), factor ** (p["psi"] / p["beta"])
    return IsoLoss(n, d, factor * d, n * factor * d)


LAWS = (Atlas(), AtlasCurse())
