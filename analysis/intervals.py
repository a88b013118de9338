"""Bootstraps: all resamples of a table refitted in compiled chunks, each checked against the others' optima."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from analysis.batch import Batch, describe
from analysis.coordinates import bounds, to_coordinates
from analysis.fitting import View, candidate_points, labelled
from analysis.result import Fit, Flag, group_params
from analysis.solve import solve
from analysis.starts import pick
from lab.errors import LabError

Kind = Literal["iid", "cluster", "residual"]
KINDS = ("iid", "cluster", "residual")
FEW_CLUSTERS = 8
# Resamples solved before the next are drawn; bounds memory whatever the number of resamples.
SLAB = 4096
# Resamples are drawn in blocks with their own seed, so that results do not depend on how they are chunked.
BLOCK = 64
LIBRARY = 256
CELLS = 96
# Drawn losses cost a residual for every cell and resample, drawn weights a single product for all.
RESIDUAL_CELLS = 12
REDRAWS = 50


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval for one number; an end the data do not bound is infinite and `open`.

    Attributes:
      low, high: ends, -inf or inf where open.
      estimate: the value at the optimum.
      method: `iid`, `cluster`, `residual` or `profile`.
      level: nominal coverage.
    """

    low: float
    high: float
    estimate: float
    method: str
    level: float

    @property
    def open_low(self) -> bool:
        return self.low == -np.inf

    @property
    def open_high(self) -> bool:
        return self.high == np.inf

    def __str__(self) -> str:
        low = "(unbounded" if self.open_low else f"[{self.low:.4g}"
        high = "unbounded)" if self.open_high else f"{self.high:.4g}]"
        return f"{self.estimate:.4g} {low}, {high}"


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """Refits of R resamples.

    Attributes:
      fit: the fit whose table was resampled.
      kind: how.
      params: label -> [R], natural units.
      at_low, at_high: label -> [R], whether the resample ended at a bound of the parameter.
      value: objective of each resample [R].
      converged: [R].
      moved: resamples that another resample's optimum led to a lower one (the alarm for several minima).
      redrawn: resamples drawn again because too few distinct points or clusters were in them.
      flags: what the reader must know.
      z: coordinates [R, q].
    """

    fit: Fit
    kind: str
    params: Mapping[str, np.ndarray]
    at_low: Mapping[str, np.ndarray]
    at_high: Mapping[str, np.ndarray]
    value: np.ndarray
    converged: np.ndarray
    moved: int
    redrawn: int
    flags: tuple[Flag, ...]
    seconds: float
    z: np.ndarray

    @property
    def resamples(self) -> int:
        return len(self.value)

    def params_of(self, group: str | None = None) -> dict[str, Any]:
        """All parameters of one group by plain name: [R] each, frozen ones scalar; see `Fit.params_of`."""
        return group_params(self.fit.law, self.fit.table.groups, {**self.fit.frozen, **self.params}, group)

    def interval(self, label: str, level: float = 0.95) -> Interval:
        """Percentile interval of a parameter; open at an end where more than (1 - level)/2 of the resamples ran to a
        bound that is not 0."""
        if label not in self.params:
            raise LabError(f"The fit has no free parameter {label!r}.", f"It has: {', '.join(self.params)}.")
        values, tail = self.params[label], 0.5 * (1 - level)
        low, high = np.quantile(values, [tail, 1 - tail])
        if np.mean(self.at_high[label]) > tail:
            high = np.inf
        if np.mean(self.at_low[label]) > tail and self.fit.law.parameter[label.split("[")[0]].lower != 0:
            low = -np.inf
        return Interval(float(low), float(high), self.fit.params[label], self.kind, level)

    def of(
        self, function: Callable[[dict[str, float]], float], group: str | None = None, level: float = 0.95
    ) -> Interval:
        """Percentile interval of any function of one group's parameters (a forecast, an optimum, equivalent tokens).

        Resamples where it is inf count as beyond every number: an end that falls among them is open.
        """
        named = self.params_of(group)
        values = np.array(
            [
                function({k: float(v if np.ndim(v) == 0 else v[r]) for k, v in named.items()})
                for r in range(self.resamples)
            ]
        )
        values = np.where(np.isnan(values), np.inf, values)
        tail = 0.5 * (1 - level)
        low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
        return Interval(float(low), float(high), float(function(self.fit.params_of(group))), self.kind, level)


def bootstrap(fit: Fit, resamples: int = 1000, kind: Kind | None = None, seed: int = 0) -> Draws:
    """Refits `resamples` resamples of the fit's table.

    Args:
      kind: `iid` draws points, `cluster` whole clusters (default where the table names any), both within groups;
        `residual` keeps the points and draws residuals, scaled by sqrt(n / (n - q)).
      seed: resample r depends on (seed, r) only.

    Raises:
      LabError: when the fit is not identified, or clusters are asked for and not named.
    """
    began = time.perf_counter()
    kind = kind or ("cluster" if fit.table.clustered else "iid")
    if kind not in KINDS:
        raise LabError(f"Unknown bootstrap {kind!r}.", f"Known: {', '.join(KINDS)}.")
    if kind == "cluster" and not fit.table.clustered:
        raise LabError("A cluster bootstrap needs clusters.", "Name the trajectory column: cluster=COLUMN.")
    if not fit.identified:
        raise LabError(f"No interval for a fit that is {fit.status}: {fit.flags[0].text}.", "See `null_directions`.")
    view = View.of(fit.problem, fit.table)
    starts, cells = starts_of(fit, view), _cells(fit, view, seed)
    parts, moved, redrawn = [], 0, 0
    for batch, again in _slabs(fit, view, kind, resamples, seed, starts):
        near = cells if batch.y.ndim == 1 else cells[:RESIDUAL_CELLS]
        batch = _with_cells(batch, near, _scores(view, batch, near))
        z, value, ok, changed = solve_checked(view, batch, seed)
        params, _ = describe(fit.problem, view.points, batch, z)
        parts.append((z, value, ok, labelled(view, params)))
        moved += changed
        redrawn += again
    z = np.concatenate([p[0] for p in parts])
    params = {k: np.concatenate([p[3][k] for p in parts]) for k in fit.params}
    low, high = at_bounds(fit, z)
    return Draws(
        fit, kind, params, low, high, np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts]),
        moved, redrawn, _flags(fit, kind), time.perf_counter() - began, z,
    )  # fmt: skip


def _flags(fit: Fit, kind: str) -> tuple[Flag, ...]:
    count = len(fit.table.clusters)
    if kind == "cluster":
        return few_clusters(count)
    if kind != "cluster" and fit.table.clustered:
        return (Flag("clusters ignored", f"points of one of {count} clusters were treated as independent"),)
    return ()


def few_clusters(count: int) -> tuple[Flag, ...]:
    if count >= FEW_CLUSTERS:
        return ()
    text = f"{count} clusters are too few for a cluster bootstrap: use the profile likelihood"
    return (Flag("few clusters", text),)


def starts_of(fit: Fit, view: View) -> np.ndarray:
    """Starts of every resample [S, q]: the optimum and the other minima of the table itself."""
    near = [m for m in fit.minima if m.objective <= 1.3 * fit.value][:3]
    others = []
    for minimum in near:
        named = {k: np.asarray(v) for k, v in _by_name(fit, minimum.params).items()}
        others.append(to_coordinates(fit.problem, {**fit.frozen, **named}, view.points.centre))
    return np.stack([fit.z, *others])


def _cells(fit: Fit, view: View, seed: int) -> np.ndarray:
    """Points [M, q] spread over the start ranges, best first, from which each resample takes its own starts."""
    if fit.problem.groups > 1:
        return np.empty((0, fit.problem.q))
    z, values = candidate_points(view, fit.frozen, seed)
    return z[pick(z, values, CELLS, distance=0.03)]


def _with_cells(batch: Batch, cells: np.ndarray, scores: np.ndarray) -> Batch:
    """Adds to every fit's starts its two best cells that lie apart; scores [B, M]."""
    if len(cells) < 2:
        return batch
    first = np.argmin(scores, 1)
    span = np.maximum(np.ptp(cells, axis=0), 1e-300)
    near = np.max(np.abs(cells[:, None] - cells) / span, axis=2) < 0.1
    second = np.argmin(np.where(near[first], np.inf, scores), 1)
    return dataclasses.replace(
        batch, starts=np.concatenate([batch.starts, cells[first][:, None], cells[second][:, None]], 1)
    )


def _by_name(fit: Fit, labels: Mapping[str, float]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for f in fit.problem.free:
        value = labels[f.label(fit.table.groups)]
        if f.group is None:
            out[f.name] = value
        else:
            out.setdefault(f.name, np.empty(len(fit.table.groups)))[f.group] = value
    return out


def _slabs(
    fit: Fit, view: View, kind: str, resamples: int, seed: int, starts: np.ndarray
) -> Iterator[tuple[Batch, int]]:
    table, q = fit.table, fit.problem.q
    r = fit.residuals / view.points.noise
    r = (r - np.average(r, weights=table.weight)) * np.sqrt(table.n / max(1, table.n - q))
    for a in range(0, resamples, SLAB):
        rows = range(a, min(a + SLAB, resamples))
        again = 0
        if kind == "residual":
            pred = view.y + fit.residuals
            drawn = [r[i] * view.points.noise for i in _blocks(rows, table.n, seed)]
            y, w = pred - np.stack(drawn), table.weight
        else:
            counts, again = resample_counts(table.cluster if kind == "cluster" else np.arange(table.n), table.group,
                                            rows, seed, q)  # fmt: skip
            y, w = view.y, counts * table.weight
        constant = {k: np.full(len(rows), float(v)) for k, v in fit.frozen.items()}
        yield Batch(y, w, np.broadcast_to(starts, (len(rows), *starts.shape)), constant), again


def _blocks(rows: range, n: int, seed: int) -> Iterator[np.ndarray]:
    """n integers below n for each resample in rows."""
    for block in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
        drawn = np.random.default_rng([seed, block]).integers(0, n, (BLOCK, n))
        for r in range(max(rows.start, block * BLOCK), min(rows.stop, (block + 1) * BLOCK)):
            yield drawn[r - block * BLOCK]


def resample_counts(cluster: np.ndarray, group: np.ndarray, rows: range, seed: int, q: int) -> tuple[np.ndarray, int]:
    """How often each point is in each resample [R, n], drawing whole clusters within strata of equal group sets.

    A resample with fewer distinct points than q, or with a single cluster where there are several, determines
    nothing and is drawn again; the second value counts those.
    """
    units = np.unique(cluster)
    members = (
        [frozenset(group[cluster == u].tolist()) for u in units]
        if len(np.unique(group)) > 1
        else [frozenset()] * len(units)
    )
    strata = [np.flatnonzero([m == s for m in members]) for s in dict.fromkeys(members)]
    code = np.searchsorted(units, cluster)
    size = np.bincount(code, minlength=len(units))
    need = min(3, len(units))
    out = np.empty((len(rows), len(units)))
    again = 0
    for block in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
        rng = np.random.default_rng([seed, block])
        counts = _draw(rng, strata, len(units), BLOCK)
        for _ in range(REDRAWS):
            bad = ((counts > 0).sum(1) < need) | (((counts > 0) * size).sum(1) < q)
            if not bad.any():
                break
            again += int(bad.sum())
            counts[bad] = _draw(rng, strata, len(units), int(bad.sum()))
        first, last = max(rows.start, block * BLOCK), min(rows.stop, (block + 1) * BLOCK)
        out[first - rows.start : last - rows.start] = counts[first - block * BLOCK : last - block * BLOCK]
    return out[:, code], again


def _draw(rng: np.random.Generator, strata: list[np.ndarray], units: int, count: int) -> np.ndarray:
    counts = np.zeros((count, units))
    for s in strata:
        drawn = s[rng.integers(0, len(s), (count, len(s)))]
        np.add.at(counts, (np.arange(count)[:, None], drawn), 1)
    return counts


def solve_checked(view: View, batch: Batch, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Optima of a batch; any fit for which another's optimum scores lower than its own is solved again from there."""
    solution = solve(view.problem, view.points, batch)
    z, value, ok = solution.z.copy(), solution.value.copy(), solution.converged.copy()
    moved = np.zeros(len(z), bool)
    if any(np.ptp(v) > 0 for v in batch.constant.values()):
        return z, value, ok, 0  # each fit has its own frozen values: another's optimum says nothing about it
    size = LIBRARY if batch.y.ndim == 1 else LIBRARY // 16
    for attempt in range(3):
        rng = np.random.default_rng([seed, attempt])
        shelf = rng.choice(len(z), min(size, len(z)), replace=False)
        scores = _scores(view, batch, z[shelf])
        best = np.argmin(scores, 1)
        better = scores[np.arange(len(z)), best] < value * (1 - 1e-9) - 1e-18
        if not better.any():
            break
        rows = np.flatnonzero(better)
        part = dataclasses.replace(batch.take(rows), starts=z[shelf][best[rows]][:, None])
        again = solve(view.problem, view.points, part)
        win = again.value < value[rows]
        z[rows[win]], value[rows[win]], ok[rows[win]] = again.z[win], again.value[win], again.converged[win]
        moved[rows[win]] = True
    return z, value, ok, int(moved.sum())


def _scores(view: View, batch: Batch, z: np.ndarray) -> np.ndarray:
    """The objective of every fit of the batch at each of z [M, q], [B, M]; frozen values are those of the batch's
    first fit."""
    constant = {k: np.repeat(v[:1], len(z), 0) for k, v in batch.constant.items()}
    _, r = describe(view.problem, view.points, Batch(view.y, view.w, z[:, None], constant), z)  # [M, n]
    summand = view.problem.objective.summand
    if batch.y.ndim == 1:
        return np.asarray(batch.w @ summand(r).T if batch.w.ndim == 2 else summand(r) @ batch.w)
    shift = (batch.y - view.y) / view.points.noise  # r to the drawn losses is r - shift
    return np.stack([summand(one - shift) @ view.w for one in r], 1)


def at_bounds(fit: Fit, z: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    low, high = bounds(fit.problem)
    labels = [f.label(fit.table.groups) for f in fit.problem.free]
    at_low = {k: z[:, i] <= low[i] + 1e-9 for i, k in enumerate(labels)}
    at_high = {k: z[:, i] >= high[i] - 1e-9 * max(1.0, abs(high[i])) for i, k in enumerate(labels)}
    return at_low, at_high


def intervals(
    fit: Fit, level: float = 0.95, method: Kind | Literal["profile"] | None = None, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """An interval for every free parameter, label -> interval.

    Without a method: the profile likelihood, whose coverage is nearest to nominal in every design of
    `benchmarks/results/coverage.csv`, and a bootstrap for parameters that have no profile (a coefficient at 0, or one
    value a group); each interval names its method.

    Raises:
      LabError: when the fit is not identified.
    """
    from analysis.profile import has_profile, profile

    if method not in (None, "profile"):
        draws = bootstrap(fit, resamples, method, seed)  # type: ignore[arg-type]
        return {k: draws.interval(k, level) for k in fit.params}
    labels = list(fit.params) if method == "profile" else [k for k in fit.params if has_profile(fit, k)]
    out = {k: p.interval for k, p in profile(fit, labels, level).items()}
    if rest := [k for k in fit.params if k not in out]:
        draws = bootstrap(fit, resamples, seed=seed)
        out |= {k: draws.interval(k, level) for k in rest}
    return {k: out[k] for k in fit.params}
