"""The loss on one domain by the shares of all domains of a mixture. One fit per evaluated domain (as the group)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from analysis.law import Columns, D, Law, N, Parameter, Params, Variable, coefficient, exponent, positive
from analysis.laws._options import define


@dataclasses.dataclass(frozen=True, repr=False)
class YeMixing(Law):
    """L = c + k exp(sum_j t_j r_j) over the shares r_j of `domains`, at one size and one number of tokens.

    Leave one domain of the mixture out of `domains`: shares sum to 1, so with all of them k and every t can be shifted
    against each other. t_j is then relative to the one left out, and k is the loss above c where it is alone.
    """

    domains: tuple[str, ...] = ("1",)
    source = "Ye et al. 2024, arXiv:2403.16952, the data mixing law"

    def __post_init__(self) -> None:
        shares = (Variable(f"r_{d}", f"share of {d}", lower=-1e-12, upper=1.0) for d in self.domains)
        slopes = (Parameter(f"t_{d}", "shape", -60.0, 60.0, (-6.0, 6.0), plausible=(-40, 40)) for d in self.domains)
        define(self, "ye-mixing", shares, (coefficient("c", "nats"), coefficient("k", "nats"), *slopes))

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"c": 0.0, "k": sum(p[f"t_{d}"] * x[f"r_{d}"] for d in self.domains)}


@dataclasses.dataclass(frozen=True, repr=False)
class AdditiveMixture(Law):
    """L = E + 1/sum_j C_j h_j^g_j + A/N^alpha + B/D^beta, h_j the share of domain j: the best mixture is the same at
    every scale. A domain that is no use has C_j near 0."""

    domains: tuple[str, ...] = ("1", "2")
    source = "Shukor et al. 2025, arXiv:2507.09404, additive law"

    def __post_init__(self) -> None:
        shares = (Variable(f"h_{d}", f"share of {d}", lower=-1e-12, upper=1.0) for d in self.domains)
        parameters = (
            coefficient("E", "nats"), coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta"),
            *(positive(f"C_{d}", (0.1, 30.0), 1e-6, 1e6, "1/nats") for d in self.domains),
            *(exponent(f"g_{d}", (0.05, 1.5)) for d in self.domains),
        )  # fmt: skip
        define(self, "additive-mixture", (N, D, *shares), parameters)

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        def worth(d: str) -> Any:
            some = x[f"h_{d}"] > 0
            power = jnp.exp(p[f"g_{d}"] * jnp.log(jnp.where(some, x[f"h_{d}"], 1.0)))
            return p[f"C_{d}"] * jnp.where(some, power, 0.0)

        return {
            "E": 0.0,
            "A": -p["alpha"] * jnp.log(x["N"]),
            "B": -p["beta"] * jnp.log(x["D"]),
            "mixture": -jnp.log(sum(worth(d) for d in self.domains)),
        }


LAWS = (YeMixing(), AdditiveMixture())
