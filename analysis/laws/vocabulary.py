"""How large a vocabulary a model should have."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis.law import Claim, Columns, D, Law, Params, Variable, coefficient, exponent, falls_with
from analysis.objective import Objective
from lab.errors import LabError

N_NV = Variable("N_nv", "parameters outside the vocabulary", ("n_nonembedding", "n_nv", "Non_vocab_parameters"))
N_V = Variable("N_v", "vocabulary parameters V d", ("n_embedding", "n_v"))


class TaoVocabulary(Law):
    """L = E + A1/N_nv^alpha1 + A2/N_v^alpha2 + B/D^beta, N_v = V d, for losses that compare across vocabularies.

    Such are nats per byte or character. The paper's unigram-normalised loss is below 0, with -E in place of E: add a
    constant to all losses and take it off E; the objective, in linear space, does not notice.
    """

    name = "tao-vocabulary"
    source = "Tao et al. 2024, arXiv:2407.13623, the parametric approach"
    variables = (N_NV, N_V, D)
    parameters = (
        coefficient("E", "nats"), coefficient("A1"), coefficient("A2"), coefficient("B"),
        exponent("alpha1"), exponent("alpha2"), exponent("beta"),
    )  # fmt: skip
    objective = Objective("huber", "linear")

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any]:
        return {
            "E": 0.0,
            "A1": -p["alpha1"] * jnp.log(x["N_nv"]),
            "A2": -p["alpha2"] * jnp.log(x["N_v"]),
            "B": -p["beta"] * jnp.log(x["D"]),
        }

    def claims(self) -> tuple[Claim, ...]:
        return tuple(falls_with(self, v) for v in self.variables)

    def best_vocabulary(self, p: Params, n_nv: float, width: float, flops: float) -> float:
        """The V of least loss for a body of n_nv parameters of width d, where 6 (n_nv + V d) D = flops.

        Tokens are counted as they are: for a fixed text, fewer with a larger vocabulary (see `tokens_per_character`).

        Raises:
          LabError: when the loss has no valley between 16 and 1e8 entries.
        """
        from scipy.optimize import minimize_scalar  # a third of a second to import, and no fit needs it

        def loss(log_v: float) -> float:
            size = float(np.exp(log_v)) * width
            with jax.enable_x64(True):
                x = {"N_nv": jnp.asarray(n_nv), "N_v": jnp.asarray(size), "D": jnp.asarray(flops / 6 / (n_nv + size))}
                return float(self.log_pred(p, x))

        grid = np.linspace(np.log(16), np.log(1e8), 400)
        best = int(np.argmin([loss(v) for v in grid]))
        if best in (0, len(grid) - 1):
            raise LabError(f"{self.name} has no best vocabulary at {flops:.3g} FLOPs and N_nv = {n_nv:.3g}.")
        found = minimize_scalar(loss, bracket=tuple(grid[best - 1 : best + 2]), tol=1e-10)
        return float(np.exp(found.x))


def tokens_per_character(vocabulary: float) -> float:
    """Tokens a character of English web text makes with a BPE vocabulary of that size (arXiv:2407.13623)."""
    log_v = np.log(vocabulary)
    return float(0.00639222 * log_v**2 - 0.15811069 * log_v + 1.20470122)


LAWS = (TaoVocabulary(),)
