"""What the parent's length is worth at one size: D_source apart from N, which the paper varies together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.continual.roles import averaged
from analysis.continual.savings import Curve
from lab.errors import LabError

COLUMNS = ["N", "parent_D", "D", "loss", "scratch_tokens", "kind", "saved", "runs"]


def by_parent(runs: pd.DataFrame, curves: Mapping[tuple[str, float], Curve], text: str) -> pd.DataFrame:
    """Savings of the continued runs of every size whose parents have several lengths, each with two budgets or more.

    Args:
      runs: of `analysis.continual.roles.points`.
      curves: of `analysis.continual.savings.curves`, of the same target.
      text: the target.

    Returns a frame of COLUMNS: tokens of the parent and of the continued run, its loss, scratch tokens at equal loss
    (`kind` as in `savings`), the share of them saved, and the runs behind it.

    Raises:
      LabError: when no size has parents of two lengths beside a scratch curve.
    """
    cells = averaged(runs[(runs.role == "cpt") & (runs.replay == 0) & (runs.text == text)])
    budgets = cells.groupby(["N", "setting", "parent_D"]).D.transform("nunique")
    cells = cells[budgets >= 2]
    parts = []
    for n, part in cells.groupby("N"):
        anchor = curves.get(("scratch", float(str(n))))
        if anchor is None or part.parent_D.nunique() < 2:
            continue
        tokens, kinds = anchor.worth(part.loss.to_numpy())
        ids = [some + anchor.runs for some in part.runs]
        found = part.assign(scratch_tokens=tokens, kind=kinds, saved=1 - part.D.to_numpy() / tokens)
        parts.append(found.assign(runs=pd.Series(ids, part.index)))
    if not parts:
        raise LabError("No size has parents of two lengths, each with two budgets of the target.",
                       "Continue one size from two budgets of its source.")  # fmt: skip
    return pd.concat(parts)[COLUMNS].sort_values(["N", "parent_D", "D"]).reset_index(drop=True)


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """At every size, the middle budget that all lengths have with an exact saving: the rows of `by_parent` there."""
    exact = table[table.kind == "exact"]
    parts = []
    for n, part in exact.groupby("N"):
        lengths = part.groupby("D").parent_D.nunique()
        shared = lengths.index[lengths == table[n == table.N].parent_D.nunique()].to_numpy()
        if len(shared):
            middle = shared[np.argsort(shared)[len(shared) // 2]]
            parts.append(part[part["D"] == middle])
    return pd.concat(parts, ignore_index=True) if parts else exact.iloc[:0]
