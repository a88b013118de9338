"""Profile likelihood: how far one parameter can move, all others refitted, before the objective says no.

The drop in a Huber objective is not a log likelihood; it becomes one to first order when multiplied by
`mean psi' / mean psi^2` (robust likelihood ratio, Heritier and Ronchetti 1994), and follows F(1, n - q). Points of one
cluster share errors: the statistic is then divided by the ratio of the parameter's cluster variance (CR2) to its
independent one, and follows F(1, clusters - 1). Coverage is measured in `benchmarks/coverage.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from analysis.batch import Batch, describe, jacobian
from analysis.coordinates import bounds, make_problem, to_coordinates
from analysis.fitting import View, labelled, natural
from analysis.intervals import Interval
from analysis.objective import Objective
from analysis.result import Fit
from analysis.solve import solve
from lab.errors import LabError

FIRST_STEPS = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
WIDER_STEPS = np.array([10.0, 20.0, 50.0, 150.0, 500.0])
REFINEMENTS = 4
# A ratio of cluster to independent variance below this is the luck of few clusters.
LEAST_RATIO = 0.1


def inverse_curvature(goal: Objective, r: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
    """mean psi' [B] and mean psi^2 [B] over standardised residuals r [B, n], for fits with q parameters.

    A fit with Huber's small corner passes through about q points, whose residuals say nothing: the q smallest are left
    out, and the share within the corner is that of a smoothed density (a count of 3 or 4 would be too rough).
    """
    n = r.shape[1]
    kept = np.sort(np.abs(r), axis=1)[:, min(q, n - 2) :]
    if goal.kind == "squares":
        return np.ones(len(r)), np.sum(r * r, 1) / max(1, n - q)
    spread = np.median(kept, axis=1) / 0.6745
    spread = np.where(spread > 0, spread, np.maximum(kept.mean(1), 1e-300))
    width = (1.06 * spread * n**-0.2)[:, None]
    # A kernel of this width lowers a normal density at its centre by this factor.
    lowered = np.sqrt(1 + 1.06**2 * n**-0.4)
    corner = goal.delta if goal.kind == "huber" else 0.0
    if corner > 0:
        inside = stats.norm.cdf((corner - kept) / width) - stats.norm.cdf((-corner - kept) / width)
        return np.minimum(1.0, inside.mean(1) * lowered), np.mean(np.minimum(kept, corner) ** 2, 1)
    density = np.mean(stats.norm.pdf(kept / width) / width, 1)
    return 2 * density * lowered, np.ones(len(r))


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """The curve behind a profile interval.

    Attributes:
      label: the parameter.
      values: [M] natural units, ascending.
      statistic: the scaled rise of the objective [M]; the interval is where it is below `limit`.
      interval: the interval.
    """

    label: str
    values: np.ndarray
    statistic: np.ndarray
    limit: float
    interval: Interval


def profile(fit: Fit, labels: Sequence[str] | None = None, level: float = 0.95) -> dict[str, Profile]:
    """Profile-likelihood intervals of the free parameters `labels` (by default all that have one, see
    `has_profile`).

    An end is open where the statistic stays below its limit up to the parameter's bound or 500 standard errors.

    Raises:
      LabError: for an unknown label, or a fit that is not identified.
    """
    if not fit.identified:
        raise LabError(f"No interval for a fit that is {fit.status}: {fit.flags[0].text}.", "See `null_directions`.")
    wanted = [k for k in fit.params if has_profile(fit, k)] if labels is None else list(labels)
    for label in wanted:
        if label not in fit.params:
            raise LabError(f"The fit has no free parameter {label!r}.", f"It has: {', '.join(fit.params)}.")
    return {label: _profile_one(fit, label, level) for label in wanted}


def standard_errors(fit: Fit) -> dict[str, float]:
    """Standard error of each coordinate's parameter from the Hessian (Gauss-Newton): a diagnostic and a step size."""
    view = View.of(fit.problem, fit.table)
    influence = influences(view, fit.z, fit.residuals / view.points.noise, fit.frozen)
    return {k: float(np.sqrt(np.sum(v**2))) for k, v in influence.items()}


def influences(view: View, z: np.ndarray, r: np.ndarray, frozen: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Each point's first-order pull on each parameter, label -> [n]; the sum of squares is the variance."""
    goal, w = view.problem.objective, view.w
    jac = jacobian(view.problem, view.points, z, {k: np.asarray(v, float) for k, v in frozen.items()})
    slope, square = (float(v[0]) for v in inverse_curvature(goal, r[None], view.problem.q))
    inverse = np.linalg.pinv((jac * w[:, None]).T @ jac, rcond=1e-12)
    pull = (jac * w[:, None]) @ inverse * np.sqrt(square) / max(slope, 1e-12)  # [n, q], for psi of unit size
    return {k: pull @ d for k, d in _gradients(view, z, frozen).items()}


def _gradients(view: View, z: np.ndarray, frozen: Mapping[str, float]) -> dict[str, np.ndarray]:
    """d parameter / d coordinate, label -> [q], by central differences."""
    q = len(z)
    step = 1e-5 * np.maximum(np.abs(z), 1e-3)
    both = np.concatenate([z + np.diag(step), z - np.diag(step)])
    named, _ = describe(view.problem, view.points, view.batch(both, frozen), both)
    return {k: (v[:q] - v[q:]) / (2 * step) for k, v in labelled(view, named).items()}


def cluster_ratios(view: View, z: np.ndarray, r: np.ndarray, frozen: Mapping[str, float]) -> dict[str, float]:
    """Variance of each parameter with whole clusters as units (CR2) over its variance with independent points.

    CR2 (Bell and McCaffrey 2002) scales a cluster's residuals by (I - H)^(-1/2), H its block of the hat matrix, which
    removes the bias of few clusters under independent errors. Below 1 where points of one cluster share an error that
    the parameter does not see.
    """
    goal, q = view.problem.objective, view.problem.q
    root = np.sqrt(view.w)
    jac = jacobian(view.problem, view.points, z, {k: np.asarray(v, float) for k, v in frozen.items()}) * root[:, None]
    _, square = (float(v[0]) for v in inverse_curvature(goal, r[None], q))
    score = {"squares": r, "absolute": np.sign(r)}.get(goal.kind, np.clip(r, -goal.delta, goal.delta)) * root
    inverse = np.linalg.pinv(jac.T @ jac, rcond=1e-12)
    pulls = []
    for c in range(len(view.table.clusters)):
        at = view.table.cluster == c
        own, vectors = np.linalg.eigh(np.eye(int(at.sum())) - jac[at] @ inverse @ jac[at].T)
        scale = np.where(own > 1e-6, 1 / np.sqrt(np.maximum(own, 1e-6)), 0.0)
        pulls.append(jac[at].T @ (vectors * scale) @ (vectors.T @ score[at]))
    out = {}
    for label, gradient in _gradients(view, z, frozen).items():
        towards = inverse @ gradient
        independent = square * float(gradient @ towards)
        out[label] = float(np.sum((np.stack(pulls) @ towards) ** 2)) / max(independent, 1e-300)
    return out


def calibration(fit: Fit, view: View, label: str, level: float) -> tuple[float, float]:
    """Factor that turns a rise of the objective into the statistic, and the statistic's limit."""
    r = fit.residuals / view.points.noise
    slope, square = (float(v[0]) for v in inverse_curvature(fit.objective, r[None], fit.problem.q))
    factor = 2 * slope / max(square, 1e-300)
    if not fit.table.clustered:
        return factor, float(stats.f.ppf(level, 1, max(1, fit.n - fit.problem.q)))
    ratio = cluster_ratios(view, fit.z, r, fit.frozen)[label]
    return factor / max(ratio, LEAST_RATIO), float(stats.f.ppf(level, 1, max(1, len(fit.table.clusters) - 1)))


def _profile_one(fit: Fit, label: str, level: float) -> Profile:
    view = View.of(fit.problem, fit.table)
    factor, limit = calibration(fit, view, label, level)
    path = _Path(fit, view, label)
    step = max(path.error, 1e-8 * max(1.0, abs(path.best)))
    ends: dict[int, float] = {}
    values, rises = [path.best], [0.0]
    for side in (-1, 1):
        ends[side] = side * np.inf
        at, rise = np.array([path.best]), np.array([0.0])
        for steps in (FIRST_STEPS, WIDER_STEPS):
            new = np.clip(path.best + side * steps * step, path.low, path.high)
            new = np.unique(new[np.abs(new - path.best) > np.abs(at - path.best).max()])
            if len(new) == 0:
                break
            at, rise = np.concatenate([at, new]), np.concatenate([rise, factor * (path.objective(new) - fit.value)])
            if np.any(rise >= limit):
                break
        order = np.argsort(side * at)
        at, rise = at[order], rise[order]
        if np.any(rise >= limit):
            at, rise, ends[side] = _refine(path, at, rise, limit, factor, fit.value)
        elif path.natural(path.low if side < 0 else path.high) == 0:
            ends[side] = path.low if side < 0 else path.high
        values.extend(at)
        rises.extend(rise)
    order = np.unique(np.array(values), return_index=True)[1]
    natural_values = np.array([path.natural(values[i]) for i in order])
    low, high = (path.natural(ends[s]) if np.isfinite(ends[s]) else ends[s] for s in (-1, 1))
    interval = Interval(float(low), float(high), fit.params[label], "profile", level)
    return Profile(label, natural_values, np.array(rises)[order], limit, interval)


def _refine(
    path: _Path, at: np.ndarray, rise: np.ndarray, limit: float, factor: float, value: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The first crossing of the limit, by interpolating the root of the statistic (near linear in the parameter)."""
    for _ in range(REFINEMENTS):
        k = int(np.argmax(rise >= limit))
        a, b = at[k - 1], at[k]
        ra, rb = np.sqrt(max(rise[k - 1], 0.0)), np.sqrt(rise[k]) if np.isfinite(rise[k]) else np.inf
        if abs(b - a) <= 1e-7 * max(1.0, abs(b)):
            break
        t = (np.sqrt(limit) - ra) / (rb - ra) if np.isfinite(rb) else 0.5
        t = float(np.clip(t, 0.02, 0.98))
        new = a + np.unique(np.clip([0.5 * t, t - 0.02, t + 0.02, 0.5 * (1 + t)], 0.01, 0.99)) * (b - a)
        rises = factor * (path.objective(new) - value)
        at, rise = np.insert(at, k, new), np.insert(rise, k, rises)
    k = int(np.argmax(rise >= limit))
    ra, rb = np.sqrt(max(rise[k - 1], 0.0)), np.sqrt(rise[k])
    t = (np.sqrt(limit) - ra) / (rb - ra) if np.isfinite(rb) and rb > ra else 0.5
    return at, rise, float(at[k - 1] + t * (at[k] - at[k - 1]))


def has_profile(fit: Fit, label: str) -> bool:
    """Whether `profile` can move the parameter: not a coefficient at 0 or, where it is a term's factor, of a group."""
    free = next(f for f in fit.problem.free if f.label(fit.table.groups) == label)
    if fit.law.parameter[free.name].role == "shape" or _constant_term(fit, free.name):
        return True
    return free.group is None and fit.params[label] > 0


def _constant_term(fit: Fit, name: str) -> bool:
    """Whether the coefficient is its coordinate: a law without a basis, or a term that is the same everywhere."""
    import jax

    with jax.enable_x64(True):
        basis = fit.law.log_basis(_ones(fit), View.of(fit.problem, fit.table).points.centre)
    return basis is None or name not in basis or bool(np.all(np.asarray(basis[name]) == 0))


class _Path:
    """The constrained fits along one parameter, in a coordinate u: the parameter, or its log where it is positive and
    of unknown size. `low`, `high`, `best`, `error` are in u."""

    def __init__(self, fit: Fit, view: View, label: str):
        self.fit, self.view = fit, view
        labels = [f.label(fit.table.groups) for f in fit.problem.free]
        self.k = labels.index(label)
        free, p = fit.problem.free[self.k], fit.problem.parameter(self.k)
        error = standard_errors(fit)[label]
        value = fit.params[label]
        self.direct = p.role == "shape" or _constant_term(fit, p.name)
        self.logs = (p.role == "shape" and p.scale == "log") or not self.direct
        if not has_profile(fit, label):
            raise LabError(f"{label} is 0 or one of several groups' factors.", "Take a bootstrap interval.")
        self.best = float(np.log(value)) if self.logs else value
        self.error = error / value if self.logs else error
        low, high = bounds(fit.problem)
        self.low = float(low[self.k]) if self.direct else -690.0
        self.high = float(high[self.k]) if self.direct else 690.0
        if not self.direct:
            rest = frozenset(fit.frozen) | {free.name}
            shared = frozenset(f.name for f in fit.problem.free if f.group is None)
            self.inner = make_problem(fit.law, fit.objective, fit.problem.groups, rest, shared)
            self.name = free.name
            named = natural(view, fit.z, fit.frozen) | dict(fit.frozen)
            self.inner_z = to_coordinates(self.inner, named, view.points.centre)

    def natural(self, u: float) -> float:
        return float(np.exp(u)) if self.logs else float(u)

    def objective(self, u: np.ndarray) -> np.ndarray:
        """The least objective [M] with the parameter at each of u [M]."""
        count = len(u)
        constant = {k: np.full(count, float(v)) for k, v in self.fit.frozen.items()}
        if self.direct:
            held = np.full((count, self.fit.problem.q), np.nan)
            held[:, self.k] = u
            starts = np.tile(self.fit.z, (count, 1))
            starts[:, self.k] = u
            batch = Batch(self.view.y, self.view.w, starts[:, None], constant, held)
            return solve(self.fit.problem, self.view.points, batch).value
        constant[self.name] = np.exp(u)
        starts = np.tile(self.inner_z, (count, 1, 1))
        return solve(self.inner, self.view.points, Batch(self.view.y, self.view.w, starts, constant)).value


def _ones(fit: Fit) -> dict[str, float]:
    return {p.name: 0.7 for p in fit.law.parameters}
