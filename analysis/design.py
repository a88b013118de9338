"""What a planned sweep can know before it is paid for: rank, null directions, standard errors, cost, next best run.

Everything follows from the Fisher information of the planned points under Gaussian noise of log loss,
F = sum_i j_i j_i^T / sigma_i^2 with j_i = d log L(x_i) / d parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from analysis import surface
from analysis.batch import Points, jacobian
from analysis.coordinates import Problem, make_problem, to_coordinates, to_params
from analysis.identify import NullDirection, centre_of, directions, in_own_units
from analysis.law import Law
from analysis.objective import Objective
from lab.errors import LabError

Verdict = Literal["identified", "weak", "not identified"]
DEFAULT_NOISE = 0.01
# A shape known less well than this cannot be told from 0, however small its value.
LOOSE_SHAPE = 0.1
SUGGESTED_RUNS = 3


@dataclasses.dataclass(frozen=True)
class ParameterError:
    """Standard error of one parameter.

    Attributes:
      label: name, with `[group]` where groups differ.
      value: assumed.
      se: standard error in natural units; inf when not identified.
      relative: of coefficients and log-scaled shapes: standard error of the logarithm; else se / |value|.
      weak: the runs do not determine it (see `check`).
    """

    label: str
    value: float
    se: float
    relative: float
    weak: bool


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A run worth adding: its variables, its cost, and what it does to the forecast (or to the whole ellipsoid).

    Attributes:
      x: the law's variables.
      flops: 6 N D.
      gain: relative fall of the forecast's variance; without a target, of the geometric mean variance.
    """

    x: Mapping[str, float]
    group: str
    flops: float
    gain: float


@dataclasses.dataclass(frozen=True)
class DesignReport:
    """What a plan can tell.

    Attributes:
      law, runs, noise: what was asked.
      rank, parameters: of the information matrix, and the number of free parameters.
      null: directions nothing in the plan can see.
      confounded: what about the plan causes them, in words.
      errors: standard error of each free parameter.
      forecast_se: standard error of log loss at the target (a relative error), None without a target, inf if the
        target is not identified.
      flops: sum of 6 N D.  branched_flops: the same when runs of one size share a trunk to 80 % of their tokens.
      next_runs: the best runs to add, per FLOP.
    """

    law: str
    runs: int
    noise: float
    rank: int
    parameters: int
    null: tuple[NullDirection, ...]
    confounded: tuple[str, ...]
    errors: tuple[ParameterError, ...]
    target: Mapping[str, float] | None
    forecast_se: float | None
    flops: float
    branched_flops: float
    next_runs: tuple[Candidate, ...]

    @property
    def verdict(self) -> Verdict:
        if self.null:
            return "not identified"
        return "weak" if any(e.weak for e in self.errors) else "identified"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the plan is refused, one sentence each; empty for an identified plan."""
        because = f"with {' and '.join(self.confounded)}, " if self.confounded else ""
        out = [because + d.text for d in self.null]
        if not self.null:
            out += [
                f"{because}{e.label} = {e.value:.3g} would be known only to +- {e.se:.2g} (noise {self.noise:.2g})"
                for e in self.errors
                if e.weak
            ]
        return tuple(out)

    def require(self) -> DesignReport:
        """Returns itself.

        Raises:
          LabError: when the plan does not identify the law, with the null direction.
        """
        if self.verdict != "identified":
            mend = ""
            if self.next_runs:
                run = ", ".join(f"{k} = {v:.3g}" for k, v in self.next_runs[0].x.items())
                mend = f"Add runs off that line, first {run}."
            raise LabError(f"{self.runs} runs do not identify {self.law}: {'; '.join(self.reasons)}.", mend)
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class Linearised:
    """A law linearised at assumed parameters, in the solver's centred coordinates."""

    problem: Problem
    z: np.ndarray
    constant: dict[str, np.ndarray]
    centre: dict[str, np.ndarray]
    groups: tuple[str, ...]

    def rows(self, x: Mapping[str, np.ndarray], group: np.ndarray) -> np.ndarray:
        """d log loss / d coordinate [n, q]."""
        points = Points(dict(x), group, np.ones(len(group)), self.centre)
        rows = jacobian(self.problem, points, self.z, self.constant)
        return np.where(np.isfinite(rows), rows, 0.0)

    def log_natural(self) -> np.ndarray:
        """d natural / d coordinate [q, q]: of the logarithm for coefficients and log-scaled shapes."""
        problem = self.problem

        def natural(z: Any) -> Any:
            p = to_params(problem, z, self.constant, self.centre)
            out = []
            for k, f in enumerate(problem.free):
                value = p[f.name] if jnp.ndim(p[f.name]) == 0 else p[f.name][f.group or 0]
                out.append(jnp.log(value) if _in_logs(problem, k) else value)
            return jnp.stack(out)

        with jax.enable_x64(True):
            return np.asarray(jax.jacfwd(natural)(jnp.asarray(self.z)))


def _in_logs(problem: Problem, k: int) -> bool:
    p = problem.parameter(k)
    return p.role == "coefficient" or p.scale == "log"


def linearise(
    law: Law,
    x: Mapping[str, np.ndarray],
    groups: tuple[str, ...],
    params: Mapping[str, Any],
    frozen: Sequence[str],
    shared: Sequence[str],
) -> Linearised:
    named: dict[str, Any] = {}
    for p in law.parameters:
        if p.name in params:
            named[p.name] = np.asarray(params[p.name], float)
        elif all(f"{p.name}[{g}]" in params for g in groups):
            named[p.name] = np.array([float(params[f"{p.name}[{g}]"]) for g in groups])
        else:
            raise LabError(f"The design of {law.name} needs a value for {p.name}.", "Give it with --params.")
        if p.role == "coefficient" and np.any(named[p.name] == 0) and p.name not in frozen:
            raise LabError(f"{p.name} = 0 makes parts of {law.name} meaningless.", "Assume a value above 0.")
    problem = make_problem(law, Objective(), len(groups), frozenset(frozen), frozenset(shared))
    centre = centre_of(x)
    z = to_coordinates(problem, named, centre)
    return Linearised(problem, z, {k: named[k] for k in frozen}, centre, groups)


def _inverse(rows: np.ndarray) -> np.ndarray:
    """Covariance [q, q] of least squares with whitened rows [n, q]; the pseudo-inverse, by scaled SVD."""
    size = np.linalg.norm(rows, axis=0)
    size = np.where(size > 0, size, 1.0)
    _, s, vt = np.linalg.svd(rows / size, full_matrices=False)
    keep = s > 1e-12 * s[0]
    half = (vt[keep] / s[keep, None]) / size
    return half.T @ half


def published_params(law: Law) -> Mapping[str, float]:
    """The first printed parameter values of a law.

    Raises:
      LabError: when there are none.
    """
    if not law.published:
        raise LabError(f"{law.name} has no published parameters.", "Give --params NAME=VALUE,...")
    return law.published[0].params


def check(
    law: Law,
    runs: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    noise: float | np.ndarray = DEFAULT_NOISE,
    *,
    target: Mapping[str, float] | None = None,
    group: Sequence[str] | None = None,
    target_group: str | None = None,
    frozen: Sequence[str] = (),
    shared: Sequence[str] = (),
    suggest: bool = True,
) -> DesignReport:
    """What the planned runs can identify.

    A plan is refused (`verdict`) when a direction of parameter space changes no prediction, or when the noise leaves
    a term of the loss unknown by more than its own size, a log-scaled shape by more than a factor e, or an exponent
    by more than its value (at least .1), at one standard error.

    Args:
      law: what will be fitted.
      runs: variable name -> array [n]; repeat a row for seeds.
      params: assumed parameters (labels `B[cpt]` where groups differ); the law's printed ones by default.
      noise: standard deviation of log loss, one number or [n].
      target: variables at which the loss will be forecast.
      group: group of each run, for joint fits; `target_group` is the target's.
      frozen: parameters held at their assumed value.  shared: parameters common to all groups.
      suggest: look for the next best runs.

    Raises:
      LabError: for an empty plan, missing variables or parameters, or values out of range.
    """
    params = published_params(law) if params is None else params
    x = surface.as_columns(law, runs)
    n = next(iter(x.values())).size
    if n == 0:
        raise LabError("The plan has no runs.")
    x = {k: np.atleast_1d(v) for k, v in x.items()}
    for variable in law.variables:
        bad = ~np.isfinite(x[variable.name])
        if variable.lower is not None:
            bad |= x[variable.name] <= variable.lower
        if bad.any():
            raise LabError(f"The plan's {variable.name} is not above {variable.lower} in row {int(np.argmax(bad))}.")
    sigma = np.broadcast_to(np.asarray(noise, float), (n,))
    if np.any(sigma <= 0):
        raise LabError("The noise of log loss must be above 0.", "1 % is 0.01.")
    groups, codes = _groups(group, n)
    model = linearise(law, x, groups, params, frozen, shared)
    labels = tuple(f.label(groups) for f in model.problem.free)
    rows = model.rows(x, codes) / sigma[:, None]
    null = directions(in_own_units(model.problem, rows, model.z), labels)
    covariance = _inverse(rows)
    errors = _errors(model, labels, covariance, null)
    aim = None if target is None else target_row(law, model, target, target_group)
    forecast = None if aim is None else _forecast(rows, covariance, aim)
    cost, branched = _cost(x)
    extra: tuple[Candidate, ...] = ()
    if suggest and {"N", "D"} <= x.keys():
        # What reveals a null direction comes before what sharpens a forecast.
        extra = _next_runs(model, x, codes, rows, None if null else aim, float(np.median(sigma)))
    confounded = _confounded(x) if null or any(e.weak for e in errors) else ()
    return DesignReport(
        law.name, n, float(np.median(sigma)), len(labels) - len(null), len(labels), null, confounded, errors, target,
        forecast, cost, branched, extra,
    )  # fmt: skip


def _groups(group: Sequence[str] | None, n: int) -> tuple[tuple[str, ...], np.ndarray]:
    if group is None:
        return ("",), np.zeros(n, int)
    if len(group) != n:
        raise LabError(f"{len(group)} group labels for {n} runs.")
    names, codes = np.unique(np.asarray(group, str), return_inverse=True)
    return tuple(str(v) for v in names), codes


def _errors(
    model: Linearised, labels: tuple[str, ...], covariance: np.ndarray, null: tuple[NullDirection, ...]
) -> tuple[ParameterError, ...]:
    unseen = {label for d in null for label in d.weights}
    turn = model.log_natural()
    natural = np.sqrt(np.maximum(np.diag(turn @ covariance @ turn.T), 0))
    centred = np.sqrt(np.maximum(np.diag(covariance), 0))
    with jax.enable_x64(True):
        values = to_params(model.problem, jnp.asarray(model.z), model.constant, model.centre)
    out = []
    for k, (label, f) in enumerate(zip(labels, model.problem.free, strict=True)):
        v = np.asarray(values[f.name])
        value = float(v if v.ndim == 0 else v[f.group or 0])
        role = model.problem.parameter(k).role
        if label in unseen:
            out.append(ParameterError(label, value, math.inf, math.inf, True))
            continue
        if role == "coefficient":
            se, relative, weak = natural[k] * abs(value), natural[k], centred[k] > abs(model.z[k])
        elif _in_logs(model.problem, k):
            se, relative, weak = natural[k] * abs(value), natural[k], natural[k] > 1
        else:
            se, weak = natural[k], natural[k] > max(abs(value), LOOSE_SHAPE)
            relative = se / abs(value) if value else math.inf
        out.append(ParameterError(label, value, float(se), float(relative), bool(weak)))
    order = [p.name for p in model.problem.law.parameters]
    return tuple(sorted(out, key=lambda e: order.index(e.label.partition("[")[0])))


def target_row(law: Law, model: Linearised, target: Mapping[str, float], group: str | None) -> np.ndarray:
    x = {k: np.atleast_1d(v) for k, v in surface.as_columns(law, target).items()}
    if group is None and len(model.groups) > 1:
        raise LabError(f"The design has {len(model.groups)} groups.", f"Say which the target is of: {model.groups}.")
    code = 0 if group is None else model.groups.index(group)
    return model.rows(x, np.array([code]))[0]


def _forecast(rows: np.ndarray, covariance: np.ndarray, aim: np.ndarray) -> float:
    """Standard error of log loss at the target; inf when the target has a part that no run sees."""
    scale = np.linalg.norm(rows, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    _, s, vt = np.linalg.svd(rows / scale, full_matrices=True)
    full = np.zeros(len(vt))
    full[: len(s)] = s
    unseen = vt[full < 1e-6 * s[0]]
    if len(unseen) and np.linalg.norm(unseen @ (aim / scale)) > 1e-6 * np.linalg.norm(aim / scale):
        return math.inf
    return float(np.sqrt(aim @ covariance @ aim))


def _cost(x: Mapping[str, np.ndarray]) -> tuple[float, float]:
    if not {"N", "D"} <= x.keys():
        return math.nan, math.nan
    n, d = x["N"], x["D"]
    branched = sum(6 * size * (0.8 * d[n == size].max() + 0.2 * d[n == size].sum()) for size in np.unique(n))
    return float(np.sum(6 * n * d)), float(branched)


def _confounded(x: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """What a plan holds constant, in words."""
    out = []
    for name, v in x.items():
        if np.ptp(v) <= 1e-9 * np.abs(v).max():
            out.append(f"{name} = {v[0]:.4g} in every run")
    if {"N", "D"} <= x.keys() and len(x["N"]) > 1:
        ratio = x["D"] / x["N"]
        if np.ptp(x["N"]) > 0 and np.ptp(ratio) <= 0.02 * ratio.mean():
            out.append(f"D = {ratio.mean():.3g} N only")
    if {"D", "U"} <= x.keys() and np.all(x["D"] <= x["U"] * (1 + 1e-9)):
        out.append("a single epoch in every run")
    return tuple(out)


def _next_runs(
    model: Linearised,
    x: Mapping[str, np.ndarray],
    codes: np.ndarray,
    rows: np.ndarray,
    aim: np.ndarray | None,
    sigma: float,
) -> tuple[Candidate, ...]:
    """The runs that add most per FLOP, among sizes and tokens in (and up to a factor 4 in D around) the plan's range.

    No candidate costs more than the plan's dearest run.
    """
    sizes = np.geomspace(x["N"].min(), x["N"].max(), 9) if np.ptp(x["N"]) > 0 else x["N"][0] * 2.0 ** np.arange(-3, 4)
    tokens = np.geomspace(x["D"].min() / 4, x["D"].max() * 4, 15)
    others = [k for k in x if k not in ("N", "D")]
    settings = np.unique(np.column_stack([*(x[k] for k in others), codes]), axis=0)
    grid = np.array([(n, d, *s) for n in sizes for d in tokens for s in settings])
    cost = 6 * grid[:, 0] * grid[:, 1]
    grid, cost = grid[cost <= (6 * x["N"] * x["D"]).max()], cost[cost <= (6 * x["N"] * x["D"]).max()]
    columns = {"N": grid[:, 0], "D": grid[:, 1], **{k: grid[:, 2 + i] for i, k in enumerate(others)}}
    group = grid[:, -1].astype(int)
    new = model.rows(columns, group) / sigma
    # A ridge makes unseen directions merely expensive, so that runs which reveal them win.
    ridge = 1e-6 * np.linalg.norm(rows, axis=0).clip(1e-12)
    covariance = np.linalg.inv(rows.T @ rows + np.diag(ridge**2))
    spread = np.einsum("ij,jk,ik->i", new, covariance, new)
    if aim is None:
        gain = 1 - (1 + spread) ** (-1 / new.shape[1])
    else:
        before = aim @ covariance @ aim
        gain = (new @ covariance @ aim) ** 2 / (1 + spread) / before
    best: list[Candidate] = []
    for i in np.argsort(-gain / cost, kind="stable"):
        if len(best) == SUGGESTED_RUNS:
            break
        point = {k: float(v[i]) for k, v in columns.items()}
        if all(abs(math.log(point["N"] / c.x["N"])) + abs(math.log(point["D"] / c.x["D"])) > 0.7 for c in best):
            best.append(Candidate(point, model.groups[group[i]], float(cost[i]), float(gain[i])))
    return tuple(best)
