"""Two-stage fits: parameters of runs from scratch are carried, frozen, into the fit of runs that continue them.

arXiv:2407.02118 fits E, A, alpha, B, beta to runs from scratch and then B, beta, gamma to continued runs with E, A,
alpha frozen. Intervals of the second stage that take the first as known are too narrow: here both stages are refitted
for every resample, and a resample draws whole clusters (a size and everything trained from it).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import laws
from analysis.batch import Batch, describe
from analysis.fitting import View, fit, labelled
from analysis.intervals import SLAB, Draws, at_bounds, few_clusters, resample_counts, solve_checked, starts_of
from analysis.law import Law
from analysis.objective import Objective
from analysis.result import Fit
from analysis.table import Table, Unit, table
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False)
class StagedFit:
    """Both stages of a fit, and the table that holds the points of both.

    Attributes:
      first, second: the fits; `second.frozen` holds what was carried.
      carry: parameters taken from the first stage.
      together: the table of both, its clusters spanning the stages.
      stage: 0 or 1 for each point of `together` [n].
    """

    first: Fit
    second: Fit
    carry: tuple[str, ...]
    together: Table
    stage: np.ndarray


def fit_stages(
    data: pd.DataFrame | str | Path,
    law: str | Law = "cpt",
    *,
    stage: str,
    first: str,
    second: str,
    carry: Sequence[str] = ("E", "A", "alpha"),
    first_frozen: Mapping[str, float] | None = None,
    n: str | None = None,
    d: str | None = None,
    loss: str = "loss",
    columns: Mapping[str, str] | None = None,
    flops: str | None = None,
    cluster: str | None = None,
    weight: str | None = None,
    unit: Unit = "nats",
    objective: str | Objective | None = None,
    delta: float | None = None,
    seed: int = 0,
) -> StagedFit:
    """Fits `law` to the rows whose column `stage` is `first`, then to those where it is `second` with the parameters
    `carry` frozen.

    Args:
      law: of both stages; the first holds `first_frozen` (default {"gamma": 0} for a law with gamma).
      cluster: column of the unit a resample draws (a size with all that was trained from it); default: equal N.
      Others as in `analysis.fit`.

    Raises:
      LabError: for bad input, or a stage without rows.
    """
    law = laws.get(law)
    named = {k: v for k, v in (("N", n), ("D", d)) if v is not None} | dict(columns or {})
    together = table(
        data, law, loss=loss, columns=named, flops=flops, group=stage, cluster=cluster, weight=weight, unit=unit
    )  # fmt: skip
    for name in (first, second):
        if name not in together.groups:
            raise LabError(f"No row has {stage} {name!r}.", f"It has: {', '.join(together.groups)}.")
    wanted = [together.groups.index(first), together.groups.index(second)]
    together = together.select(np.isin(together.group, wanted))
    which = (together.group == together.groups.index(second)).astype(int)
    if cluster is None and "N" in together.columns:
        sizes, codes = np.unique(together.columns["N"], return_inverse=True)
        together = dataclasses.replace(together, cluster=codes, clusters=tuple(f"{s:g}" for s in sizes), clustered=True)
    held = dict(first_frozen if first_frozen is not None else {"gamma": 0.0} if "gamma" in law.parameter else {})
    parts = [_only(together, which == s) for s in (0, 1)]
    one = fit(parts[0], law, frozen=held, objective=objective, delta=delta, seed=seed)
    known = {**one.frozen, **one.params}
    if unknown := sorted(set(carry) - set(known)):
        raise LabError(f"{law.name} has no parameter {unknown[0]!r} to carry.", f"It has: {', '.join(known)}.")
    two = fit(parts[1], law, frozen={k: known[k] for k in carry}, objective=objective, delta=delta, seed=seed)
    return StagedFit(one, two, tuple(carry), together, which)


def _only(together: Table, keep: np.ndarray) -> Table:
    part = together.select(keep)
    return dataclasses.replace(part, group=np.zeros(part.n, int), groups=("",))


def bootstrap_stages(staged: StagedFit, resamples: int = 1000, seed: int = 0) -> tuple[Draws, Draws]:
    """Refits both stages of each resample of whole clusters; the draws of the first and of the second stage.

    Raises:
      LabError: when a stage is not identified.
    """
    began = time.perf_counter()
    for each in (staged.first, staged.second):
        if not each.identified:
            raise LabError(f"No interval for a fit that is {each.status}: {each.flags[0].text}.")
    one, two = (View.of(f.problem, f.table) for f in (staged.first, staged.second))
    q = staged.first.problem.q
    found: list[list[tuple[np.ndarray, ...]]] = [[], []]
    named: list[list[dict[str, np.ndarray]]] = [[], []]
    moved, again_total = [0, 0], 0
    for a in range(0, resamples, SLAB):
        rows = range(a, min(a + SLAB, resamples))
        same = np.zeros(staged.together.n, int)
        counts, again = resample_counts(staged.together.cluster, same, rows, seed, q + staged.second.problem.q)
        again_total += again
        constant = {k: np.full(len(rows), float(v)) for k, v in staged.first.frozen.items()}
        for s, (view, result) in enumerate(((one, staged.first), (two, staged.second))):
            starts = starts_of(result, view)
            w = counts[:, staged.stage == s] * view.w
            batch = Batch(view.y, w, np.broadcast_to(starts, (len(rows), *starts.shape)), constant)
            z, value, ok, changed = solve_checked(view, batch, seed)
            params, _ = describe(view.problem, view.points, batch, z)
            found[s].append((z, value, ok))
            named[s].append(labelled(view, params))
            moved[s] += changed
            constant = {k: params[k] if k in params else constant[k] for k in staged.carry}
    out = []
    for s, result in enumerate((staged.first, staged.second)):
        z, value, ok = (np.concatenate(v) for v in zip(*found[s], strict=True))
        params = {k: np.concatenate([d[k] for d in named[s]]) for k in result.params}
        low, high = at_bounds(result, z)
        out.append(
            Draws(
                result,
                "cluster",
                params,
                low,
                high,
                value,
                ok,
                moved[s],
                again_total,
                few_clusters(len(staged.together.clusters)),
                time.perf_counter() - began,
                z,
            )
        )
    return out[0], out[1]
