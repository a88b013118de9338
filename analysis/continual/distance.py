"""Transfer against how far a target lies from its source, by every distance that was measured.

Distances come from a table of probes: rows of probe `distance`, whose place names the measure (MEASURES) and whose run
is a continued one of that target. Gradient cosine is of the parent, before it has read a word of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.continual.roles import averaged
from analysis.continual.savings import Curve
from lab.errors import LabError

PROBE = "distance"
# What a target is: renamed pieces leave its text as it was, so that its text alone does not tell it.
TARGET = ["text", "setting"]
DIAL = "dial setting"
# Measure -> whether a larger value is a closer language.
MEASURES = {
    DIAL: False,
    "vocabulary overlap": True,
    "token-mass overlap": True,
    "unigram JSD": False,
    "gradient cosine": True,
}


def transfer(runs: pd.DataFrame) -> pd.DataFrame:
    """What pre-training on the source is worth for each target, at equal size and tokens of the target.

    Args:
      runs: of `analysis.continual.roles.points`.

    Returns a frame of text, setting, N, D, replay, parent_D, scratch (loss), cpt (loss), gain (ln of scratch over cpt:
    above 0 where continuing is better), teff (scratch tokens at equal loss over own; NaN without two scratch budgets),
    kind, runs. Only runs without replay, and of the setting that the runs from scratch have: a target may have others,
    such as another length of the parent.

    Raises:
      LabError: when no target has both at one size and budget.
    """
    cells = averaged(runs[runs.replay == 0])
    plain = cells[cells.role == "scratch"][["text", "setting", "N", "D", "loss", "runs", "seeds"]]
    continued = cells[cells.role == "cpt"]
    both = continued.merge(plain, on=["text", "setting", "N", "D"], suffixes=("", "_scratch"))
    if both.empty:
        raise LabError(
            "No target has runs from scratch and continued ones at one size and budget.",
            "Every target, and every setting of the dial, needs an anchor from scratch of its own.",
        )
    worth = [_teff(row, cells) for row in both.to_dict("records")]
    return pd.DataFrame({
        "text": both.text, "setting": both.setting, "N": both.N, "D": both.D, "parent_D": both.parent_D,
        "scratch": both.loss_scratch, "cpt": both.loss, "gain": np.log(both.loss_scratch / both.loss),
        "teff": [w[0] for w in worth], "kind": [w[1] for w in worth],
        "runs": [a + b for a, b in zip(both.runs, both.runs_scratch, strict=True)],
    })  # fmt: skip


def _teff(row: Mapping[Any, Any], cells: pd.DataFrame) -> tuple[float, str]:
    same = (cells.text == row["text"]) & (cells.setting == row["setting"]) & (row["N"] == cells.N)
    plain = cells[same & (cells.role == "scratch")].sort_values("D")
    if len(plain) < 2:
        return float("nan"), "exact"
    anchor = Curve(float(row["N"]), plain.D.to_numpy(), plain.loss.to_numpy(), 0.0, False, ())
    tokens, kinds = anchor.worth(np.array([row["loss"]]))
    return float(tokens[0] / row["D"]), kinds[0]


def distances(probes: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Every measured distance of every target: text, setting, measure, value (mean over runs), derived.

    `derived` says that the target was made from the source by a dial, whose setting is then among its measures.
    """
    rows = probes[(probes.probe == PROBE) & (probes.condition == "pairs")]
    of = runs.drop_duplicates("run_id").set_index("run_id")[TARGET]
    # The text of a probe is what it was measured on.
    rows = rows[rows.run_id.isin(of.index)].drop(columns="text", errors="ignore").join(of, on="run_id")
    found = rows.groupby([*TARGET, "place"]).value.mean().reset_index().rename(columns={"place": "measure"})
    if unknown := sorted(set(found.measure) - set(MEASURES)):
        raise LabError(f"The probes have a distance called {unknown[0]!r}.", f"Known: {', '.join(MEASURES)}.")
    derived = found[found.measure == DIAL][TARGET].assign(derived=True)
    found = found.merge(derived, on=TARGET, how="left")
    return found.assign(derived=found.derived.notna())


def joined(gains: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """One row a target, cell and measure: `gains` (of `transfer`) beside the distance."""
    return gains.merge(measured, on=TARGET)


def order(table: pd.DataFrame) -> pd.DataFrame:
    """How well each measure orders targets by what they gain: Spearman's rho over targets, signed so that 1 means that
    closer languages gain more in every case.

    Args:
      table: of `joined`, one size and budget.

    Returns a frame of measure, derived (`all`, `derived`, `real`), targets, rho; measures of fewer than three targets
    are left out.
    """
    rows = []
    for measure, part in table.groupby("measure"):
        sign = 1 if MEASURES[str(measure)] else -1
        for name, some in (("all", part), ("derived", part[part.derived]), ("real", part[~part.derived])):
            each = some.groupby(TARGET)[["value", "gain"]].mean()
            if len(each) >= 3 and each.value.nunique() > 1:
                rho = float(stats.spearmanr(each.value, each.gain).statistic)
                rows.append({"measure": measure, "derived": name, "targets": len(each), "rho": sign * rho})
    return pd.DataFrame(rows, columns=["measure", "derived", "targets", "rho"])
