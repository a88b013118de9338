"""A grid of runs for a budget: the choice among candidates that makes the forecast, or all parameters, most precise.

Greedy construction and exchange (Fedorov 1972) under a limit on the summed cost: swaps are taken while they lower the
variance. The result is a local optimum of the exact design problem, not a proof of the best.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import design
from analysis.law import Law
from analysis.table import read
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

SIZES = 8
RATIOS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
# The dearest run may take this share of the budget: a sweep of one run says nothing about its noise.
LARGEST_SHARE = 0.25
SWEEPS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Runs to train.

    Attributes:
      columns: variable name -> array [n].
      group: group of each run.
      report: what they identify.
      candidates: how many runs were chosen from.
    """

    columns: Mapping[str, np.ndarray]
    group: tuple[str, ...]
    report: design.DesignReport
    candidates: int


def make(
    law: Law,
    budget: float,
    params: Mapping[str, Any] | None = None,
    *,
    target: Mapping[str, float] | None = None,
    noise: float = design.DEFAULT_NOISE,
    runs: int = 24,
    sizes: tuple[float, float] | None = None,
    ratios: Sequence[float] = RATIOS,
    values: Mapping[str, Sequence[float]] | None = None,
    groups: Sequence[str] = (),
    target_group: str | None = None,
    frozen: Sequence[str] = (),
    shared: Sequence[str] = (),
) -> Plan:
    """At most `runs` runs of summed cost at most `budget` FLOPs (6 N D each) for a law.

    Args:
      target: the point to forecast (c-optimal); without it all parameters count alike (D-optimal).
      sizes: smallest and largest N; by default the largest is what D = 20 N buys with a quarter of the budget, and
        the smallest a sixty-fourth of it.
      ratios: D / N of the candidates.
      values: the levels of the law's other variables.
      groups: arms in which every candidate can be run.
      params, noise, target_group, frozen, shared: as in `design.check`.

    Raises:
      LabError: when a variable has no levels, or the budget does not pay for a design that identifies the law.
    """
    if not budget > 0:
        raise LabError("The budget must be above 0 FLOPs.")
    params = design.published_params(law) if params is None else params
    largest = math.sqrt(LARGEST_SHARE * budget / 120)
    low, high = sizes or (largest / 64, largest)
    columns, codes = _candidates(law, np.geomspace(low, high, SIZES), ratios, values or {}, len(groups) or 1)
    cost = 6 * columns["N"] * columns["D"]
    afford = cost <= LARGEST_SHARE * budget
    columns, codes, cost = {k: v[afford] for k, v in columns.items()}, codes[afford], cost[afford]
    names = tuple(sorted(groups)) or ("",)
    model = design.linearise(law, columns, names, params, frozen, shared)
    rows = model.rows(columns, codes) / noise
    # Unit columns over all candidates: the criteria do not depend on the parameters' units.
    unit = rows / np.linalg.norm(rows, axis=0).clip(1e-300)
    aim = None
    if target is not None:
        aim = design.target_row(law, model, target, target_group) / np.linalg.norm(rows, axis=0).clip(1e-300)
    chosen = _exchange(unit, cost, aim, budget, runs)
    picked = {k: v[chosen] for k, v in columns.items()}
    labels = tuple(names[c] for c in codes[chosen])
    report = design.check(
        law, picked, params, noise, target=target, group=labels if groups else None, target_group=target_group,
        frozen=frozen, shared=shared, suggest=False,
    )  # fmt: skip
    if report.null:
        raise LabError(
            f"No choice of {runs} runs for {budget:.3g} FLOPs identifies {law.name}: {'; '.join(report.reasons)}.",
            "Give more runs or budget, wider sizes or ratios, or more levels of its other variables.",
        )
    order = np.lexsort([picked["D"], picked["N"], codes[chosen]])
    return Plan({k: v[order] for k, v in picked.items()}, tuple(labels[i] for i in order), report, len(cost))


def _candidates(
    law: Law, sizes: np.ndarray, ratios: Sequence[float], values: Mapping[str, Sequence[float]], groups: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    names = [v.name for v in law.variables]
    if not {"N", "D"} <= set(names):
        raise LabError(f"{law.name} has no N and D: there is no grid of sizes and tokens to make.")
    levels: list[Sequence[float]] = [list(sizes), list(ratios)]
    others = [v for v in law.variables if v.name not in ("N", "D")]
    for variable in others:
        if variable.name in values:
            levels.append(list(values[variable.name]))
        elif variable.default is not None:
            levels.append([variable.default])
        else:
            raise LabError(f"{law.name} also reads {variable.name} ({variable.unit}).", "Give its levels (--values).")
    levels.append(list(range(groups)))
    grid = np.array(np.meshgrid(*levels, indexing="ij")).reshape(len(levels), -1)
    columns = {"N": grid[0], "D": grid[0] * grid[1], **{v.name: grid[2 + i] for i, v in enumerate(others)}}
    return columns, grid[-1].astype(int)


def _exchange(rows: np.ndarray, cost: np.ndarray, aim: np.ndarray | None, budget: float, runs: int) -> np.ndarray:
    """Indices of the chosen candidates; each is taken at most once."""
    q = rows.shape[1]
    if runs < q:
        raise LabError(f"{runs} runs cannot identify {q} parameters.", f"Allow at least {q}, better {3 * q}.")
    if len(cost) < q:
        raise LabError(f"Only {len(cost)} candidate runs fit the budget.", "Give smaller sizes or more budget.")
    # The ridge only breaks ties while fewer runs than parameters are chosen.
    ridge = 1e-9 * np.eye(q)
    inside = np.zeros(len(cost), bool)
    info = ridge.copy()

    def scores(inverse: np.ndarray) -> np.ndarray:
        """Criterion after adding each candidate to the design with that inverse; lower is better."""
        pushed = rows @ inverse
        spread = 1 + np.einsum("ij,ij->i", pushed, rows)
        if aim is None:
            return -np.log(spread)
        # A share of the D-criterion keeps every parameter identified, not only the combination that the aim sees.
        variance = aim @ inverse @ aim - (pushed @ aim) ** 2 / spread
        return np.log(np.maximum(variance, 1e-300)) - 0.05 * np.log(spread)

    while inside.sum() < runs:
        room = budget - cost[inside].sum()
        fits = ~inside & (cost <= room / max(1, min(q - int(inside.sum()), 4)))
        if not fits.any():
            break
        value = np.where(fits, scores(np.linalg.inv(info)), np.inf)
        pick = int(np.argmin(value))
        inside[pick] = True
        info += np.outer(rows[pick], rows[pick])
    for _ in range(SWEEPS):
        changed = False
        for out in np.flatnonzero(inside):
            without = info - np.outer(rows[out], rows[out])
            allowed = ~inside & (cost <= budget - cost[inside].sum() + cost[out])
            allowed[out] = True
            value = np.where(allowed, scores(np.linalg.inv(without)), np.inf)
            best = int(np.argmin(value))
            if value[best] < value[out] - 1e-9:
                inside[out], inside[best] = False, True
                info = without + np.outer(rows[best], rows[best])
                changed = True
        if not changed:
            break
    return np.flatnonzero(inside)


def read_plan(
    data: pd.DataFrame | str | Path, law: Law, columns: Mapping[str, str] | None = None, group: str | None = None
) -> tuple[dict[str, np.ndarray], list[str] | None]:
    """The law's variables and the groups of planned runs, from a table without losses.

    Args:
      columns: variable name -> column, where they differ from the law's names and aliases.

    Raises:
      LabError: for a missing column or values that are not numbers.
    """
    import pandas as pd

    frame = read(data) if isinstance(data, (str, Path)) else data
    present = [str(c) for c in frame.columns]
    wanted = dict(columns or {})
    out = {}
    for variable in law.variables:
        names = [wanted[variable.name]] if variable.name in wanted else [variable.name, *variable.aliases]
        found = [c for c in names if c in present]
        if not found and variable.default is not None:
            continue
        if not found or (len(found) > 1 and found[0] != variable.name):
            what = f"several columns for {variable.name}: {', '.join(found)}" if found else f"no column {names[0]!r}"
            raise LabError(f"The plan has {what} ({variable.unit}).", f"Name it. It has: {', '.join(present)}.")
        values = pd.to_numeric(frame[found[0]], errors="coerce").to_numpy(float)
        if np.isnan(values).any():
            raise LabError(f"Column {found[0]!r} of the plan is not a number in row {int(np.isnan(values).argmax())}.")
        out[variable.name] = values
    if group is not None and group not in present:
        raise LabError(f"The plan has no column {group!r} (the group).", f"It has: {', '.join(present)}.")
    return out, None if group is None else [str(v) for v in frame[group]]
