"""What a study's runs will say about the laws it wants to fit, and what half of them would."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis import design, laws, surface
from analysis.plan import read_plan
from sweeps.noise import Noise
from sweeps.plan import select
from sweeps.study import LawFit

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class LawPlan:
    """One law of a study.

    Attributes:
      fit: what is to be fitted.
      assumed: the parameters at which the design is judged.
      report: what all its runs identify.
      half: the same with half the FLOPs; None where nothing can be left out.
      left_out: runs by arm that the half does without.
      flops, half_flops: training FLOPs of its runs (exact, a branch from where it leaves its trunk).
    """

    fit: LawFit
    assumed: Mapping[str, float]
    report: design.DesignReport
    half: design.DesignReport | None
    left_out: Mapping[str, int]
    flops: float
    half_flops: float


def judge(fit: LawFit, rows: pd.DataFrame, noise: Noise) -> LawPlan:
    """What the planned rows identify of a law, and what the half of them that tells most for its FLOPs would.

    Args:
      rows: of `planned_rows`.

    Raises:
      LabError: for an unknown law, a query that keeps nothing, or a variable no column gives.
    """
    law = laws.get(fit.law)
    kept = select(rows, fit.where)
    assumed = dict(fit.params if fit.params is not None else design.published_params(law))

    def points(part: pd.DataFrame) -> tuple[dict[str, np.ndarray], list[str] | None, np.ndarray]:
        columns, group = read_plan(part, law, dict(fit.columns), fit.group)
        sigma = noise.at(part.n_nonembedding.to_numpy(float), part.tokens_seen.to_numpy(float))
        return surface.as_columns(law, columns), group, sigma

    def report(part: pd.DataFrame, suggest: bool) -> design.DesignReport:
        columns, group, sigma = points(part)
        return design.check(law, columns, assumed, sigma, group=group, shared=fit.shared, suggest=suggest)

    full = report(kept, suggest=True)
    cost = kept.drop_duplicates("run_id").set_index("run_id").flops_spent
    dropped: set[str] = set()
    if full.verdict == "identified":
        columns, group, sigma = points(kept)
        names = ("",) if group is None else tuple(sorted(set(group)))
        codes = np.zeros(len(kept), int) if group is None else np.array([names.index(g) for g in group])
        model = design.linearise(law, columns, names, assumed, (), fit.shared)
        dropped = least_missed(model.rows(columns, codes) / sigma[:, None], kept, float(cost.sum()) / 2)
    gone = kept.run_id.isin(dropped)
    half = report(kept[~gone].reset_index(drop=True), suggest=False) if dropped else None
    left_out = Counter(kept[gone].drop_duplicates("run_id").arm)
    half_flops = float(cost.drop(list(dropped)).sum())
    return LawPlan(fit, assumed, full, half, dict(left_out), float(cost.sum()), half_flops)


def least_missed(jacobian: np.ndarray, rows: pd.DataFrame, budget: float) -> set[str]:
    """Runs to leave out, one after another, until the others cost at most `budget`.

    Each time the run goes whose loss costs least information for its FLOPs: least fall of log det of the Fisher
    information, divided by what the run costs. A run from which another starts stays, and so does one without which
    nothing is identified.

    Args:
      jacobian: [rows, parameters] whitened: d log loss / d parameter over sigma.
      rows: of `planned_rows`, one for each row of the jacobian; all rows of a run go together.
    """
    unit = jacobian / np.linalg.norm(jacobian, axis=0).clip(1e-300)
    information = unit.T @ unit
    runs = rows.drop_duplicates("run_id").set_index("run_id")
    members = {str(run_id): np.flatnonzero(rows.run_id == run_id) for run_id in runs.index}
    cost = {str(k): float(v) for k, v in runs.flops_spent.items()}
    parents = {str(k): v for k, v in runs.parent.items()}
    dropped: set[str] = set()
    total = sum(cost.values())
    while total > budget * (1 + 1e-9):
        needed = {p for run_id, p in parents.items() if run_id not in dropped}
        inverse = np.linalg.inv(information)
        best, best_price = None, np.inf
        for run_id in sorted(cost.keys() - dropped - needed):
            part = unit[members[run_id]]
            sign, fall = np.linalg.slogdet(np.eye(len(part)) - part @ inverse @ part.T)
            if sign <= 0 or fall < np.log(1e-6):
                continue
            price = -fall / cost[run_id]
            if price < best_price:
                best, best_price = run_id, price
        if best is None:
            break
        part = unit[members[best]]
        information = information - part.T @ part
        total -= cost[best]
        dropped.add(best)
    return dropped
