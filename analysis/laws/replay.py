"""Fine-tuning with a share of pre-training data mixed in: what is learnt, and what is forgotten."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from analysis.law import Claim, Columns, Law, N, Params, Variable, coefficient, exponent, falls_with, positive
from lab.errors import LabError

FINETUNING = Variable("D", "unique fine-tuning tokens", ("d", "tokens", "unique_tokens"))
REPLAY = Variable("p", "share of pre-training data", ("replay",), lower=-1e-12, upper=1.0)
BASE_LOSS = Variable("L0", "nats, pre-training loss of the base model", ("base_loss",))


class BethuneTarget(Law):
    """Loss on the fine-tuning domain L = E + A/(N^alpha D^beta); the injected share does not enter."""

    name = "bethune-target"
    source = "Bethune et al. 2025, arXiv:2502.06042, fine-tuning loss"
    variables = (N, FINETUNING)
    parameters = (coefficient("E", "nats"), coefficient("A"), exponent("alpha"), exponent("beta"))

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]) - p["beta"] * jnp.log(x["D"])}


class BethunePretraining(Law):
    """Loss on the pre-training data after fine-tuning L = L0 + A D^beta/((1 + B p) N)^alpha.

    L0, the base model's own loss, is a column. Published: B from 829 (Wikipedia) to 1e4 (mathematics), so 1 % of
    injected data acts on forgetting as a model 9 to 100 times larger.
    """

    name = "bethune-pretraining"
    source = "Bethune et al. 2025, arXiv:2502.06042, pre-training loss"
    variables = (N, FINETUNING, REPLAY, BASE_LOSS)
    parameters = (
        coefficient("A"),
        exponent("alpha"),
        exponent("beta"),
        positive("B", (1.0, 1e5), 1e-4, 1e9),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        size = jnp.log1p(p["B"] * x["p"]) + jnp.log(x["N"])
        return {"L0": jnp.log(x["L0"]), "A": p["beta"] * jnp.log(x["D"]) - p["alpha"] * size}

    def claims(self) -> tuple[Claim, ...]:
        def forgets(p: Params, x: Columns) -> Any:
            return self.log_pred(p, {**x, "D": 1.01 * x["D"]}) - self.log_pred(p, x)

        return (
            falls_with(self, N),
            falls_with(self, REPLAY, strictly=False),
            Claim("forgets", "more fine-tuning raises the pre-training loss", forgets),
        )

    def share_for(self, p: Params, rise: float, n: float, d: float) -> float:
        """The injected share at which fine-tuning raises the pre-training loss by `rise` nats (0 if none is needed).

        Raises:
          LabError: for a rise of 0 or less, and where no share up to 1 is enough.
        """
        if not rise > 0:
            raise LabError(f"Some forgetting must be allowed: a rise above 0, not {rise}.")
        share = ((p["A"] * d ** p["beta"] / rise) ** (1 / p["alpha"]) / n - 1) / p["B"]
        if share > 1:
            raise LabError(f"No injected share keeps the rise at {rise:.3g} nats for N = {n:.3g} and D = {d:.3g}.")
        return max(0.0, float(share))


LAWS = (BethuneTarget(), BethunePretraining())
