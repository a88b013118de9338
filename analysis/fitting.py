"""Fitting a law to a table."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import laws, starts
from analysis.batch import Batch, Points, describe, evaluate, jacobian
from analysis.coordinates import Problem, bounds, make_problem, to_coordinates
from analysis.identify import centre_of, condition_of, directions, in_own_units
from analysis.law import Law
from analysis.objective import Objective
from analysis.objective import objective as objective_named
from analysis.result import STATUSES, Fit, Flag, Minimum, Status
from analysis.solve import Solution, solve
from analysis.table import Table, Unit
from analysis.table import table as make_table
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

KEPT_CELLS = 12
RANDOM_STARTS = 20
# Huber's corner in units of the noise when each point has its own (95 % efficient for Gaussian errors).
NOISE_DELTA = 1.345
# A coefficient whose term moves no prediction by more than this share of the loss is 0.
VANISHED = 1e-9


def fit(
    data: Table | pd.DataFrame | str | Path,
    law: str | Law = "chinchilla",
    *,
    n: str | None = None,
    d: str | None = None,
    loss: str = "loss",
    columns: Mapping[str, str] | None = None,
    flops: str | None = None,
    group: str | None = None,
    shared: Sequence[str] = (),
    frozen: Mapping[str, float] | None = None,
    cluster: str | None = None,
    weight: str | None = None,
    noise: str | None = None,
    unit: Unit = "nats",
    objective: str | Objective | None = None,
    delta: float | None = None,
    drop_highest: int = 0,
    mixed: Sequence[str] = (),
    seed: int = 0,
) -> Fit:
    """Fits `law` to `data` and says how far the answer can be trusted.

    The objective is the sum over points of Huber's function of the log-loss residual, corner 1e-3, unless the law or
    the caller names another. The solver starts from the best cells of a grid over the exponents, with random
    restarts as an alarm for several minima.

    Args:
      data: data frame, file (CSV, parquet, JSON lines) or checked `Table`.
      law: a name in `laws.names()`, a `Law`, or "./file.py:Class".
      n, d: columns of N and D, for `columns={"N": n, "D": d}`.
      loss, columns, flops, cluster, weight, noise, unit, drop_highest, mixed: see `analysis.table.table`.
      group: column of groups fitted at once; parameters named in `shared` have one value, others one a group.
      shared: parameters that all groups share.
      frozen: parameters held at a value.
      objective: an `Objective` or its name ("huber", "squares-linear", ...); see `analysis.objective`.
      delta: corner of Huber's function; default 1e-3, or 1.345 where points carry their own noise.
      seed: of the random restarts.

    Returns:
      The fit; look at `status` before `params`.

    Raises:
      LabError: for bad input, fewer points than parameters, or unknown names.
    """
    began = time.perf_counter()
    law = laws.get(law)
    named = {k: v for k, v in (("N", n), ("D", d)) if v is not None} | dict(columns or {})
    checked = make_table(
        data, law, loss=loss, columns=named, flops=flops, group=group, cluster=cluster, weight=weight, noise=noise,
        unit=unit, drop_highest=drop_highest, mixed=mixed,
    )  # fmt: skip
    goal = _objective(law, checked, objective, delta)
    frozen = dict(frozen or {})
    _check_names(law, checked, shared, frozen)
    problem = make_problem(law, goal, len(checked.groups), frozenset(frozen), frozenset(shared))
    if checked.n < problem.q:
        raise LabError(
            f"{checked.n} usable points cannot determine the {problem.q} parameters of {law.name}.",
            f"Add runs, freeze parameters or take a smaller law. {_dropped(checked)}".strip(),
        )
    view = View.of(problem, checked)
    solution = _solve_from_everywhere(view, frozen, seed)
    return _result(view, frozen, solution, time.perf_counter() - began)


def _objective(law: Law, table: Table, wanted: str | Objective | None, delta: float | None) -> Objective:
    if isinstance(wanted, Objective):
        return wanted if delta is None else dataclasses.replace(wanted, delta=delta)
    goal = law.objective if wanted is None else objective_named(wanted)
    if delta is None and table.noise is not None:
        delta = NOISE_DELTA
    return goal if delta is None else dataclasses.replace(goal, delta=delta)


def _check_names(law: Law, table: Table, shared: Sequence[str], frozen: Mapping[str, float]) -> None:
    known = [p.name for p in law.parameters]
    for what, given in (("shared", shared), ("frozen", frozen)):
        if unknown := sorted(set(given) - set(known)):
            raise LabError(f"{law.name} has no parameter {unknown[0]!r} ({what}).", f"It has: {', '.join(known)}.")
    if shared and len(table.groups) < 2:
        raise LabError("Shared parameters need at least two groups.", "Name the group column: group=COLUMN.")


def _dropped(table: Table) -> str:
    return " ".join(f"{d}." for d in table.dropped)


def observed(table: Table, space: str) -> np.ndarray:
    """The losses of the table in an objective's space [n]."""
    if space == "linear":
        return table.loss
    return np.log(table.loss) if space == "log" else np.exp(-table.loss)


def noise_in(table: Table, space: str) -> np.ndarray:
    """Noise of each point in an objective's space [n]; 1 where the table gives none."""
    if table.noise is None:
        return np.ones(table.n)
    slope = {"log": 1.0, "linear": table.loss, "reciprocal": table.loss * np.exp(-table.loss)}[space]
    return np.asarray(table.noise * slope)


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A table as the solver sees it: points, observations y and weights w, each [n]."""

    problem: Problem
    table: Table
    points: Points
    y: np.ndarray
    w: np.ndarray

    @staticmethod
    def of(problem: Problem, table: Table) -> View:
        space = problem.objective.space
        points = Points(dict(table.columns), table.group, noise_in(table, space), centre_of(table.columns))
        return View(problem, table, points, observed(table, space), table.weight)

    def batch(self, z: np.ndarray, frozen: Mapping[str, Any]) -> Batch:
        """One fit per row of z [B, q], all to the table's own losses."""
        constant = {k: np.full(len(z), float(v)) for k, v in frozen.items()}
        return Batch(self.y, self.w, z[:, None], constant)


def candidate_points(view: View, frozen: Mapping[str, float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grid or spread of coordinates [M, q] over the start ranges with their objectives [M] (one group)."""
    constant = {k: np.asarray(v, float) for k, v in frozen.items()}
    z = starts.candidates(view.problem, view.points, view.y, view.w, constant, seed)
    return z, evaluate(view.problem, view.points, view.batch(z, frozen), z)


def _solve_from_everywhere(view: View, frozen: Mapping[str, float], seed: int) -> Solution:
    if view.problem.groups > 1:
        z0 = _group_starts(view, frozen, seed)
    else:
        z, values = candidate_points(view, frozen, seed)
        rng = np.random.default_rng(seed)
        usable = np.flatnonzero(np.isfinite(values))
        if len(usable) == 0:
            raise LabError(f"The law {view.problem.law.name} has no finite prediction anywhere in its start ranges.")
        drawn = rng.choice(usable, RANDOM_STARTS, replace=len(usable) < RANDOM_STARTS)
        z0 = np.concatenate([z[starts.pick(z, values, KEPT_CELLS)], z[drawn]])
    return solve(view.problem, view.points, view.batch(z0, frozen))


def _group_starts(view: View, frozen: Mapping[str, float], seed: int) -> np.ndarray:
    """Starts for a joint fit: each group alone, their mean where shared, and all groups as one."""
    law, goal, table = view.problem.law, view.problem.objective, view.table
    alone = make_problem(law, goal, 1, frozenset(frozen), frozenset())
    found: list[dict[str, float]] = []
    subsets = [table.group == g for g in range(len(table.groups))] + [np.ones(table.n, bool)]
    for keep in subsets:
        part = dataclasses.replace(table.select(keep), group=np.zeros(int(keep.sum()), int), groups=("",))
        if part.n < alone.q and keep is not subsets[-1]:
            found.append({})
            continue
        sub = View.of(alone, part)
        solution = _solve_from_everywhere(sub, frozen, seed)
        found.append(natural(sub, solution.z[int(np.nanargmin(solution.value))], frozen) | dict(frozen))
    pooled = found.pop()
    found = [f or pooled for f in found]
    mean = {k: np.array([f[k] for f in found]) for k in pooled}
    out = [to_coordinates(view.problem, mean, view.points.centre)]
    out.append(to_coordinates(view.problem, {k: np.full(len(found), v) for k, v in pooled.items()}, view.points.centre))
    shared = [f.name for f in view.problem.free if f.group is None]
    for one in found:
        mixed = {k: np.full(len(found), one[k]) if k in shared else v for k, v in mean.items()}
        out.append(to_coordinates(view.problem, mixed, view.points.centre))
    rng = np.random.default_rng(seed)
    low, high = bounds(view.problem)
    jitter = out[0] * np.exp(0.3 * rng.standard_normal((RANDOM_STARTS, view.problem.q)))
    return np.clip(np.concatenate([np.array(out), jitter]), low, high)


def natural(view: View, z: np.ndarray, frozen: Mapping[str, float]) -> dict[str, Any]:
    """Free parameters by name, scalar or [G], from coordinates [q]."""
    params, _ = describe(view.problem, view.points, view.batch(z[None], frozen), z[None])
    return {k: v[0] if v.ndim > 1 else float(v[0]) for k, v in params.items()}


def labelled(view: View, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Label -> [B], in the law's order, from name -> [B] or [B, G]."""
    order = [p.name for p in view.problem.law.parameters]
    free = sorted(view.problem.free, key=lambda f: order.index(f.name))
    return {
        f.label(view.table.groups): params[f.name] if params[f.name].ndim == 1 else params[f.name][:, f.group or 0]
        for f in free
    }


def _result(view: View, frozen: Mapping[str, float], solution: Solution, seconds: float) -> Fit:
    problem, table = view.problem, view.table
    best = int(np.nanargmin(solution.value))
    z, value = solution.z[best], float(solution.value[best])
    labels = tuple(f.label(table.groups) for f in problem.free)
    constant = {k: np.asarray(v, float) for k, v in frozen.items()}
    jac = jacobian(problem, view.points, z, constant) * np.sqrt(view.w)[:, None]
    effects = in_own_units(problem, jac, z)
    null = directions(effects, labels)
    named, r = describe(problem, view.points, view.batch(solution.z, frozen), solution.z)
    every = labelled(view, named)
    params = {k: float(v[best]) for k, v in every.items()}
    flags = [*_edge_flags(problem, z, labels, params, effects), *_null_flags(problem, effects, null, labels)]
    if not solution.converged[best] and not any(f.kind in ("degenerate", "bound hit") for f in flags):
        flags.append(Flag("not converged", f"the solver stopped after {int(solution.steps[best])} steps"))
    minima, reached = _minima(view, every, r, solution, best)
    near = [m for m in minima if m.objective - value <= max(0.01, 4 / table.n) * abs(value)]
    if near:
        flags.append(
            Flag(
                "several minima", f"{len(near)} other minima lie close; the next has objective {near[0].objective:.9g}"
            )
        )
    kinds = {f.kind for f in flags}
    status: Status = next((s for s in STATUSES if s in kinds), "converged")
    left = r[best] * view.points.noise
    return Fit(
        problem.law, table, problem.objective, params, dict(frozen), status, tuple(flags), value, left,
        condition_of(jac), null, minima, reached, seconds, problem, z,
    )  # fmt: skip


def _edge_flags(
    problem: Problem, z: np.ndarray, labels: tuple[str, ...], params: Mapping[str, float], effects: np.ndarray
) -> list[Flag]:
    """`effects` is the Jacobian in own units: a coefficient without effect on any point is 0."""
    low, high = bounds(problem)
    flags = []
    for k, label in enumerate(labels):
        p, value = problem.parameter(k), params[label]
        span = max(abs(high[k] - low[k]), 1.0) if np.isfinite(high[k] - low[k]) and p.role == "shape" else 1.0
        gone = p.role == "coefficient" and low[k] == 0 and np.max(np.abs(effects[:, k])) <= VANISHED
        if gone or (p.role == "shape" and z[k] <= low[k] + 1e-9 * span):
            flags.append(Flag("bound hit", f"{label} is at its lower bound {p.lower:g}"))
        elif z[k] >= high[k] - 1e-9 * span:
            flags.append(Flag("bound hit", f"{label} runs to its upper bound {p.upper:g}: it is unbounded above"))
        elif not p.plausible[0] <= value <= p.plausible[1]:
            flags.append(
                Flag("degenerate", f"{label} = {value:.4g} is outside {p.plausible[0]:g} to {p.plausible[1]:g}")
            )
    return flags


def _null_flags(problem: Problem, effects: np.ndarray, null: Sequence[Any], labels: tuple[str, ...]) -> list[Flag]:
    vanished = [
        labels[k]
        for k in range(problem.q)
        if problem.parameter(k).role == "coefficient" and np.max(np.abs(effects[:, k])) <= VANISHED
    ]
    flags = []
    for direction in null:
        if len(direction.weights) == 1 and vanished:
            name = next(iter(direction.weights))
            flags.append(Flag("degenerate", f"{name} has no meaning, as {' and '.join(vanished)} is 0"))
        else:
            flags.append(Flag("not identified", direction.text))
    return flags


def _minima(
    view: View, params: Mapping[str, np.ndarray], r: np.ndarray, solution: Solution, best: int
) -> tuple[tuple[Minimum, ...], float]:
    """Other local minima, best first, and the share of starts that reached the optimum."""
    scale = max(float(np.std(view.y)), 1e-12)
    owner = np.full(len(solution.z), -1)
    heads: list[int] = []
    for i in np.argsort(solution.value, kind="stable"):
        for h in heads:
            close = abs(solution.value[i] - solution.value[h]) <= 1e-7 * abs(solution.value[h]) + 1e-20
            if close or np.max(np.abs(r[i] - r[h]) * view.points.noise) <= 1e-5 * scale:
                owner[i] = h
                break
        else:
            if solution.converged[i] or i == best:
                heads.append(int(i))
                owner[i] = i
    shares = {h: float(np.mean(owner == h)) for h in heads}
    others = [h for h in heads if h != heads[0]][:5]
    found = tuple(
        Minimum(float(solution.value[h]), {k: float(v[h]) for k, v in params.items()}, shares[h]) for h in others
    )
    return found, shares[heads[0]]
