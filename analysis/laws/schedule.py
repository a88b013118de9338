"""The whole loss curve of a run from its learning rates: intermediate checkpoints become data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from analysis.law import Claim, Columns, Law, Params, Variable, coefficient, exponent, falls_with
from lab.errors import LabError

S1 = Variable("S1", "summed learning rate", ("s1",))
S2 = Variable("S2", "annealing momentum", ("s2",), lower=None)


class Tissue(Law):
    """L = L0 + A/S1^alpha - C S2 at a step: S1 the area under the learning rate so far, S2 its annealing momentum.

    `annealing` makes both columns from a schedule. The loss a checkpoint would have after annealing is the law at the
    S1 and S2 of that annealing.
    """

    name = "tissue"
    source = "Tissue et al. 2024, arXiv:2408.11029, eq. 1"
    variables = (S1, S2)
    parameters = (
        coefficient("L0", "nats"),
        coefficient("A"),
        coefficient("C", sign=-1.0),
        exponent("alpha", (0.05, 1.5)),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {"L0": 0.0, "A": -p["alpha"] * jnp.log(x["S1"]), "C": jnp.log(jnp.maximum(x["S2"], 1e-200))}

    def terms(self, p: Params, x: Columns) -> dict[str, Any]:
        # Unlike its logarithm, S2 may be 0 (no decay yet) or below (a warm-up counted in).
        return {**super().terms(p, x), "C": -p["C"] * x["S2"]}

    def claims(self) -> tuple[Claim, ...]:
        def anneals(p: Params, x: Columns) -> Any:
            return self.log_pred(p, x) - self.log_pred(p, {**x, "S2": x["S2"] + 0.01 * jnp.abs(x["S2"]) + 1e-9})

        return (falls_with(self, S1), Claim("annealing helps", "the loss falls with S2", anneals))


def annealing(
    learning_rates: Sequence[float] | np.ndarray, decay: float = 0.999, warmup: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """S1 and S2 after each step, [T] each, of a schedule [T].

    S1_t = sum_i<=t eta_i and S2_t = sum_i<=t m_i with m_i = decay m_(i-1) + (eta_(i-1) - eta_i).

    Args:
      learning_rates: eta of every step, the first one included.
      decay: the paper's lambda, chosen among .99, .995, .999 and .9995.
      warmup: steps whose rise does not count as (negative) annealing.

    Raises:
      LabError: for an empty schedule or a negative learning rate.
    """
    eta = np.asarray(learning_rates, float)
    if eta.ndim != 1 or len(eta) == 0 or not np.all(eta >= 0) or not 0 <= decay < 1:
        raise LabError("A schedule is a list of learning rates of at least 0, with a decay in [0, 1).")
    fall = -np.diff(eta, prepend=eta[0])
    fall[: warmup + 1] = 0.0
    momentum = np.empty_like(eta)
    carried = 0.0
    for i, drop in enumerate(fall):
        carried = decay * carried + drop
        momentum[i] = carried
    return np.cumsum(eta), np.cumsum(momentum)


LAWS = (Tissue(),)
