"""Domain-specific continual pre-training: the loss on one domain by its share of the mixture."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis.law import (
    Claim,
    Columns,
    D,
    Law,
    N,
    Params,
    Variable,
    coefficient,
    exponent,
    falls_with,
    positive,
)
from lab.errors import LabError

SHARE = Variable("r", "share of the domain in the mixture", ("ratio", "share"), lower=-1e-12, upper=1.0)


class DCPT(Law):
    """L = E + A/N^alpha + B r^eta/D^beta + C/(r + eps)^gamma, r the share of the domain whose loss it is.

    One fit a domain; for the general domain r is its own share, 1 - r of the other. eps keeps r = 0 finite.
    """

    name = "d-cpt"
    source = "Que et al. 2024, arXiv:2406.01375, the D-CPT law"
    variables = (N, D, SHARE)
    parameters = (
        coefficient("E", "nats"),
        coefficient("A"),
        coefficient("B"),
        coefficient("C"),
        exponent("alpha"),
        exponent("beta"),
        exponent("eta", (0.02, 1.0)),
        exponent("gamma", (0.02, 2.0)),
        positive("eps", (1e-3, 1.0), 1e-8, 1e3),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        some = x["r"] > 0
        log_r = jnp.log(jnp.where(some, x["r"], 1.0))
        return {
            "E": 0.0,
            "A": -p["alpha"] * jnp.log(x["N"]),
            # r^eta is 0 at r = 0; e^-600 is as good and keeps every derivative finite.
            "B": jnp.where(some, p["eta"] * log_r, -600.0) - p["beta"] * jnp.log(x["D"]),
            "C": -p["gamma"] * jnp.log(x["r"] + p["eps"]),
        }

    def claims(self) -> tuple[Claim, ...]:
        """The paper's requirements: the loss falls with N, D and the domain's share, and more so with both."""

        def together(p: Params, x: Columns) -> Any:
            def loss(d: float, r: float) -> Any:
                return jnp.exp(self.log_pred(p, {**x, "D": d * x["D"], "r": r * x["r"]}))

            return jnp.where(x["r"] > 0, loss(1.0, 1.0) + loss(1.01, 0.99) - loss(1.01, 1.0) - loss(1.0, 0.99), jnp.inf)

        return (
            falls_with(self, N),
            falls_with(self, D, strictly=False),
            falls_with(self, SHARE, strictly=False),
            Claim("more data at more share", "the gain from D grows with the share", together),
        )

    def smallest_share(self, p: Params, loss: float, n: float, d: float) -> float:
        """The least share r whose loss is at most `loss`: the general domain's share that bounds forgetting.

        Raises:
          LabError: when no share reaches the loss.
        """
        grid = np.linspace(0, 1, 20001)
        with jax.enable_x64(True):
            columns = {"N": jnp.full(grid.shape, n), "D": jnp.full(grid.shape, d), "r": jnp.asarray(grid)}
            losses = np.exp(np.asarray(self.log_pred(p, columns)))
        fine = np.flatnonzero(losses <= loss)
        if len(fine) == 0:
            raise LabError(f"No share reaches a loss of {loss:.4g}: the least is {losses.min():.4g}.")
        return float(grid[fine[0]])


LAWS = (DCPT(),)
