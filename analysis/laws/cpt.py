"""The joint data-parameter law of continual pre-training."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from analysis.law import Claim, Columns, D, Law, N, Params, Published, coefficient, exponent, falls_with
from lab.errors import LabError

SCRATCH = {"E": 1.55, "A": 420.0, "alpha": 0.40, "B": 719.5, "beta": 0.30, "gamma": 0.0}


class JointCPT(Law):
    """L = E + A/N^alpha + B/(D^beta N^gamma); training from scratch is gamma = 0.

    The paper fits E, A, alpha, B, beta to runs from scratch, freezes E, A, alpha and fits B, beta, gamma to the
    continued runs: `analysis.fit_stages` does both.
    """

    name = "cpt"
    source = "Zheng et al. 2024, arXiv:2407.02118, eq. 4"
    variables = (N, D)
    parameters = (
        coefficient("E", "nats"),
        coefficient("A"),
        coefficient("B"),
        exponent("alpha"),
        exponent("beta"),
        exponent("gamma", start=(-0.2, 0.4), lower=-5.0, plausible=(-1.0, 3.0)),
    )
    published = (
        Published("arXiv:2407.02118, table 2, from scratch", SCRATCH, "LLaMA-2 shapes, 40M to 5B, D = 20 N"),
        Published(
            "arXiv:2407.02118, table 2, continued",
            {"E": 1.55, "A": 420.0, "alpha": 0.40, "B": 433.3, "beta": 0.20, "gamma": 0.08},
            "E, A, alpha frozen; as printed it lies above the law from scratch at D = 20 N",
        ),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        log_n, log_d = jnp.log(x["N"]), jnp.log(x["D"])
        return {"E": 0.0, "A": -p["alpha"] * log_n, "B": -p["beta"] * log_d - p["gamma"] * log_n}

    def optimum(self, p: Params, flops: float, x: Columns | None = None) -> dict[str, float]:
        """Closed form, arXiv:2407.02118, eq. 5.

        Raises:
          LabError: when beta <= gamma or alpha <= gamma, where the loss falls towards an end of N.
        """
        alpha, b, g = p["alpha"], p["beta"], p["gamma"]
        if not (b > g and alpha > g):
            raise LabError(
                f"The law has no optimum with beta {b:.4g}, gamma {g:.4g}, alpha {alpha:.4g}.",
                "It needs gamma below both.",
            )
        total = alpha + b - g
        ratio = (alpha * p["A"] / ((b - g) * p["B"])) ** (1 / total)
        budget = flops / 6
        return {"N": ratio * budget ** (b / total), "D": budget ** ((alpha - g) / total) / ratio}

    def claims(self) -> tuple[Claim, ...]:
        return (falls_with(self, N), falls_with(self, D), self.below_scratch())

    def below_scratch(self, scratch: Params | None = None) -> Claim:
        """Continued training ends below training from scratch at the same N and D (the paper's central claim).

        `scratch` are the parameters of the law from scratch, the paper's unless given.
        """
        base = scratch or SCRATCH

        def margin(p: Params, x: Columns) -> Any:
            return jnp.exp(self.log_pred(base, x)) - jnp.exp(self.log_pred(p, x))

        return Claim("below scratch", "continual pre-training reaches a lower loss than training from scratch", margin)


LAWS = (JointCPT(),)
