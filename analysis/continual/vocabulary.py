"""Continued runs in other vocabularies beside those in the joint one, in bits a byte: never by token.

At equal bytes of the target, and at equal exact FLOPs: the joint vocabulary's budgets of the same body are joined
monotonely, and read where the other run is.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.continual.names import other_vocabulary
from analysis.continual.roles import averaged
from analysis.reference import LocalCurve
from lab.errors import LabError

# Sizes of one body differ in the head by as much, where their vocabularies differ.
SAME_SIZE = 0.2
# Realised bytes differ by as much from those that were asked for: steps are whole.
SAME_BYTES = 0.03
COLUMNS = ["setting", "target_bytes", "flops_exact", "bits_per_byte", "at_bytes", "at_flops", "seeds", "runs"]


def vocabularies(runs: pd.DataFrame, ladder: pd.DataFrame) -> pd.DataFrame:
    """Every continued run of another vocabulary, and the joint vocabulary's that reads as many bytes.

    Args:
      runs: of `analysis.continual.roles.points`.
      ladder: of `analysis.continual.roles.ladder`: the joint vocabulary.

    Returns a frame of setting ("" is the joint vocabulary), target_bytes, flops_exact, bits_per_byte, at_bytes and
    at_flops (ln of own bits a byte over the joint vocabulary's; NaN beyond its budgets), seeds, runs; by rising bytes.

    Raises:
      LabError: when there are no such runs, or the joint vocabulary has fewer than two budgets at their size.
    """
    other = runs.setting.map(other_vocabulary).astype(bool)
    others = averaged(runs[(runs.role == "cpt") & (runs.replay == 0) & other])
    if others.empty:
        raise LabError("No continued run has another vocabulary than the joint one.")
    joint = averaged(ladder[ladder.role == "cpt"])
    joint = joint[np.isclose(joint.N, others.N.iloc[0], rtol=SAME_SIZE)].sort_values("D")
    if len(joint) < 2:
        raise LabError(
            "Other vocabularies have no two budgets of the joint one beside them.", "Train the ladder first."
        )
    bits = np.log(joint.bits_per_byte.to_numpy())
    for name, x in (("at_bytes", "target_bytes"), ("at_flops", "flops_exact")):
        curve = LocalCurve.through(joint[x].to_numpy(), bits[:, None], np.ones(len(joint)))
        others[name] = [np.log(row["bits_per_byte"]) - curve.log_ppl(row[x])[0] for row in others.to_dict("records")]
    near = [bool(np.isclose(b, others.target_bytes, rtol=SAME_BYTES).any()) for b in joint.target_bytes]
    both = pd.concat([joint[near].assign(at_bytes=0.0, at_flops=0.0), others], ignore_index=True)
    # Runs of one budget stand together, whatever a step more or less.
    budget = np.round(np.log(both.target_bytes) / (2 * SAME_BYTES))
    return both.assign(budget=budget).sort_values(["budget", "bits_per_byte"])[COLUMNS].reset_index(drop=True)
