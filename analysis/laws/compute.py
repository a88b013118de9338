"""The loss of compute-optimal runs by their compute."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from analysis.law import Claim, Columns, Law, Params, Published, Variable, coefficient, exponent, falls_with

C = Variable("C", "training FLOPs", ("flops", "compute", "flops_6nd", "flops_exact"))


class Frontier(Law):
    """L = E + A/C^gamma over runs on the frontier. Papers that print no E have it frozen at 0."""

    name = "frontier"
    source = "Zheng et al. 2024, arXiv:2407.02118, eq. 3"
    variables = (C,)
    parameters = (coefficient("E", "nats"), coefficient("A"), exponent("gamma", (0.01, 0.6)))
    published = (
        Published(
            "arXiv:2407.02118, from scratch",
            {"E": 0.0, "A": 33.69907, "gamma": 0.0579},
            "Chinese from scratch, D = 20 N",
        ),
        Published("arXiv:2407.02118, continued", {"E": 0.0, "A": 31.9594, "gamma": 0.0575}, "Chinese after English"),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"E": 0.0, "A": -p["gamma"] * jnp.log(x["C"])}

    def claims(self) -> tuple[Claim, ...]:
        return (falls_with(self, C),)


LAWS = (Frontier(),)
