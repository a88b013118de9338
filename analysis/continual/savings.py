"""What continued pre-training saves at equal loss, read from the runs themselves by monotone interpolation.

A curve of a size is the losses of its runs over their tokens: the ends of annealed runs where the size has three
budgets or more, else the evaluations along its longest run. Where the scratch curve never reaches a continued run's
loss there is no number but a bound, and it says so. At equal N the share of tokens saved and the share of FLOPs saved
are one number, 1 - 1/TEff of arXiv:2404.07982 with the scratch runs as ladder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.continual.roles import averaged
from analysis.equivalence import Kind
from analysis.reference import KINDS, LocalCurve
from lab.errors import LabError

LEAST_POINTS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Loss over tokens at one size and role.

    Attributes:
      n: tied parameters.
      tokens, loss: of the points, tokens rising [m].
      flops_per_token: 6N, as the table counts it.
      along: whether the points lie along one run, and not at the ends of several.
      runs: they come from.
    """

    n: float
    tokens: np.ndarray
    loss: np.ndarray
    flops_per_token: float
    along: bool
    runs: tuple[str, ...]

    @property
    def flops(self) -> np.ndarray:
        return self.tokens * self.flops_per_token

    def worth(self, loss: np.ndarray) -> tuple[np.ndarray, list[Kind]]:
        """Tokens at which the curve has each loss [k], and whether that is exact or a bound."""
        curve = LocalCurve.through(self.tokens, np.log(self.loss)[:, None], np.ones(len(self.tokens)))
        found = [curve.worth(np.log([one])) for one in loss]
        tokens, kinds = [float(w.tokens[0]) for w in found], [KINDS[int(w.bound[0])] for w in found]
        return np.array(tokens), kinds


def curves(runs: pd.DataFrame, rows: pd.DataFrame | None = None) -> dict[tuple[str, float], Curve]:
    """By (role, N), the loss curve of the runs of a ladder, seeds together.

    Args:
      runs: of `analysis.continual.roles.ladder`.
      rows: of `roles`, whose evaluation curves serve sizes with too few budgets.
    """
    found = {}
    for _, part in averaged(runs).groupby(["role", "N"]):
        part = part.sort_values("D")
        role, n = str(part.role.iloc[0]), float(part.N.iloc[0])
        if len(part) >= LEAST_POINTS:
            ids = tuple(run for some in part.runs for run in some)
            each = float((part.C / part.D).iloc[-1])
            found[role, n] = Curve(n, part.D.to_numpy(), part.loss.to_numpy(), each, False, ids)
        elif rows is not None:
            longest = part.iloc[-1]
            along = _along(rows, longest.runs)
            if along is not None:
                tokens, loss = along
                found[role, n] = Curve(n, tokens, loss, float(longest.C / longest.D), True, tuple(longest.runs))
    return found


def _along(rows: pd.DataFrame, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Tokens of the target and loss along runs that differ in their seeds; None where they were evaluated less often
    than LEAST_POINTS times."""
    own = rows[rows.run_id.isin(ids) & (rows.language == rows.target)]
    tokens = np.asarray(own.eval_curve_tokens.iloc[0], float)
    if len(tokens) < LEAST_POINTS or any(len(t) != len(tokens) for t in own.eval_curve_tokens):
        return None
    losses = np.mean([np.asarray(one, float) for one in own.eval_curve_loss], axis=0)
    return tokens * float(own.tokens_language.iloc[0] / own.tokens_seen.iloc[0]), losses


def savings(found: dict[tuple[str, float], Curve]) -> pd.DataFrame:
    """Every point of the continued curves read against the scratch curve of its size.

    Returns a frame of N, D (tokens of the continued run), C, loss, scratch_tokens (at equal loss), kind (`exact`; `at
    least` where the scratch curve never gets there, `at most` where it was below from its first point), saved (share of
    tokens and of FLOPs), transferred (tokens D_PT - D_CPT), runs.

    Raises:
      LabError: when no size has both curves.
    """
    rows = []
    for (role, n), curve in sorted(found.items()):
        if role != "cpt" or ("scratch", n) not in found:
            continue
        anchor = found["scratch", n]
        tokens, kinds = anchor.worth(curve.loss)
        rows.append(pd.DataFrame({
            "N": n, "D": curve.tokens, "C": curve.flops, "loss": curve.loss, "scratch_tokens": tokens, "kind": kinds,
            "saved": 1 - curve.tokens / tokens, "transferred": tokens - curve.tokens,
            "runs": [curve.runs + anchor.runs] * len(tokens),
        }))  # fmt: skip
    if not rows:
        raise LabError(
            f"No size has {LEAST_POINTS} points from scratch and {LEAST_POINTS} continued ones.",
            "Train budgets of both at one size, or evaluate the runs more often.",
        )
    return pd.concat(rows, ignore_index=True)
