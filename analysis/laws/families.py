"""Language families in one mixture: each family's loss by its own share, and the best shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from analysis.law import Claim, Columns, D, Law, N, Params, Variable, coefficient, exponent, falls_with
from lab.errors import LabError

SHARE = Variable("p", "share of the family in the mixture", ("share", "h"), upper=1.0)


class HeFamily(Law):
    """L_i = (E + A/N^alpha + B/D^beta) p_i^-gamma, with D all tokens and p_i the family's share of them.

    No transfer between families. One fit a family (give the family as the group).
    """

    name = "he-family"
    source = "He et al. 2024, arXiv:2410.12883, the joint law"
    variables = (N, D, SHARE)
    parameters = (
        coefficient("E", "nats"),
        coefficient("A"),
        coefficient("B"),
        exponent("alpha"),
        exponent("beta"),
        exponent("gamma", (0.005, 0.5)),
    )

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        share = -p["gamma"] * jnp.log(x["p"])
        return {"E": share, "A": share - p["alpha"] * jnp.log(x["N"]), "B": share - p["beta"] * jnp.log(x["D"])}

    def claims(self) -> tuple[Claim, ...]:
        return (*super().claims(), falls_with(self, SHARE))


def optimal_shares(
    losses: Sequence[float] | np.ndarray,
    gammas: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Shares p [m] that sum to 1 and minimise sum_i w_i c_i p_i^-gamma_i.

    Stationarity gives p_i = (w_i c_i gamma_i / lam)^(1 / (1 + gamma_i)); lam is the root of sum p = 1. The objective is
    that of He et al. 2024, arXiv:2410.12883.

    Args:
      losses: c_i, each family's loss at share 1 for the N and D planned, nats.
      gammas: each family's exponent.
      weights: of the families in the objective; equal when left out.

    Raises:
      LabError: when lengths differ or a number is not above 0.
    """
    from scipy.optimize import brentq  # a third of a second to import, and no fit needs it

    c, g = np.asarray(losses, float), np.asarray(gammas, float)
    w = np.ones_like(c) if weights is None else np.asarray(weights, float)
    if not c.shape == g.shape == w.shape or c.ndim != 1 or len(c) == 0:
        raise LabError(f"Losses, gammas and weights must be of one length, not {c.shape}, {g.shape}, {w.shape}.")
    if not (np.all(c > 0) and np.all(g > 0) and np.all(w > 0)):
        raise LabError("Losses, gammas and weights must all be above 0.")
    rate = np.log(w * c * g)

    def shares(log_lam: float) -> np.ndarray:
        return np.exp((rate - log_lam) / (1 + g))

    # Every share is at most 1 at the upper end, and one alone reaches 1 at the lower.
    high = float(rate.max() + (1 + g.max()) * np.log(len(c)))
    root = brentq(lambda v: shares(v).sum() - 1, float(rate.max()), high + 1e-9, xtol=1e-14, rtol=1e-15)
    return shares(float(root))


LAWS = (HeFamily(),)
