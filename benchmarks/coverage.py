"""Coverage of nominal 95 % intervals, measured by simulation.

    python benchmarks/coverage.py                    # every cell that is not in the results yet
    python benchmarks/coverage.py --law tied --simulations 200 --out /tmp/coverage

The primary laws are simulated on every design; each other law on one design, of its own variables, that identifies it
(its recovery test's), with profile intervals and at most 200 simulations. A cell is a law, a design, and a noise; the
truth of a primary law is its published fit. Every simulation is fitted with the default objective, then each method's
interval for each parameter either holds the truth or does not. Rows are appended as cells complete, to
coverage.parquet and coverage.csv; a cell that is already there is skipped.

A profile interval holds the truth exactly when the statistic at the truth is below its limit, so it needs one
constrained fit a simulation. Bootstraps take `--resamples` refits a simulation. The two-stage fit of continual
pre-training has a design's points from scratch and again continued, the clusters spanning both, and refits both stages.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis import laws
from analysis.batch import Batch, Points, describe
from analysis.coordinates import make_problem, to_coordinates
from analysis.fitting import View, candidate_points, labelled, observed
from analysis.identify import centre_of
from analysis.intervals import resample_counts
from analysis.law import Law
from analysis.laws.chinchilla import Chinchilla, Tied
from analysis.laws.constrained import DataConstrained
from analysis.laws.cpt import JointCPT
from analysis.laws.tokens import ReciprocalPerplexity
from analysis.profile import LEAST_RATIO, cluster_ratios, inverse_curvature
from analysis.solve import solve
from analysis.starts import pick
from analysis.table import Table

SIGMA = 0.005  # noise of log loss, of which clusters share half the variance where there are clusters
LEVEL = 0.95
TAILS = (0.5 * (1 - LEVEL), 0.5 * (1 + LEVEL))
STAGED = "cpt in two stages"
SLAB = 8_192  # refits in memory at once
Ends = tuple[np.ndarray, np.ndarray]
Named = dict[str, np.ndarray]
Staged = tuple[dict[str, Ends], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Design:
    """`sizes` model sizes with `each` token counts; a clustered design's sizes share a random effect."""

    name: str
    sizes: int
    each: int
    clustered: bool


DESIGNS = (
    Design("24 points, 12 clusters", 12, 2, True),
    Design("24 points, independent", 6, 4, False),
    Design("24 points, 6 clusters", 6, 4, True),
    Design("200 points, 20 clusters", 20, 10, True),
    Design("200 points, independent", 20, 10, False),
)
OWN = Design("its own identifying design", 0, 0, False)
OWN_SIMULATIONS = 200
NOISES = ("gaussian", "student-3")


@dataclasses.dataclass(frozen=True)
class Case:
    """A law with its truth and how a design's columns are made; `own` are the columns of its own design."""

    law: Law
    truth: dict[str, float]
    frozen: dict[str, float]
    own: dict[str, np.ndarray] | None = None

    def columns(self, design: Design) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns [n] and cluster codes [n]."""
        if self.own is not None:
            return self.own, np.arange(len(next(iter(self.own.values()))))
        n = np.repeat(np.geomspace(2e7, 5e9, design.sizes), design.each)
        cluster = np.repeat(np.arange(design.sizes), design.each)
        # Tokens per parameter 2 to 640, staggered over sizes where there are few, so that no design is a line.
        offset = (cluster % 2) * 0.5 if design.each == 2 else 0.0
        place = (np.tile(np.arange(design.each), design.sizes) + offset) / max(1, design.each - 0.5)
        d = n * 2 * 320**place
        if isinstance(self.law, ReciprocalPerplexity):
            return {"D": np.geomspace(4e7, 5e9, len(n))[np.argsort(np.argsort(d))]}, cluster
        columns = {"N": n, "D": d}
        if isinstance(self.law, DataConstrained):
            epochs = np.array([1.0, 4.0, 16.0, 64.0])[(np.arange(len(n)) * 7 + cluster) % 4]
            columns["U"] = d / epochs
        return columns, cluster


def cases() -> list[Case]:
    tied, chinchilla, cpt = Tied(), Chinchilla(), JointCPT()
    data, token = DataConstrained(), ReciprocalPerplexity()
    return [
        Case(tied, dict(tied.published[0].params), {}),
        Case(chinchilla, dict(chinchilla.published[1].params), {}),
        Case(token, dict(token.published[0].params), {}),
        Case(data, dict(data.published[0].params), {}),
        Case(cpt, dict(cpt.published[1].params), {}),
    ]


def other_cases() -> list[Case]:
    """The laws that `cases` leaves out, each on the design of its recovery test."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from law_designs import DESIGNS as OWN_DESIGNS

    primary = {case.law.name for case in cases()}
    designs = [d for d in OWN_DESIGNS.values() if laws.get(d.law).name not in primary]
    return [Case(laws.get(d.law), dict(d.truth), {}, d.columns) for d in designs]


def noise(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Unit-variance errors."""
    if kind == "gaussian":
        return rng.standard_normal(shape)
    return rng.standard_t(3, shape) / np.sqrt(3)


def simulate(
    case: Case, design: Design, kind: str, simulations: int, seed: int, shared: np.ndarray | None = None
) -> tuple[View, np.ndarray, np.ndarray]:
    """The design as a view, the observations [S, n] in the objective's space, and the true coordinates [q].

    `shared` gives the clusters' own effects [S, sizes], of unit variance; they are drawn otherwise.
    """
    x, cluster = case.columns(design)
    n = len(cluster)
    goal = case.law.objective
    problem = make_problem(case.law, goal, 1, frozenset(case.frozen), frozenset())
    blank = Table(x, np.ones(n), np.ones(n), None, np.zeros(n, int), ("",), cluster,
                  tuple(map(str, range(design.sizes))), design.clustered, np.arange(n))  # fmt: skip
    points = Points(x, blank.group, np.ones(n), centre_of(x))
    z = to_coordinates(problem, case.truth, points.centre)
    flat = View(problem, blank, points, np.zeros(n), np.ones(n))
    _, pred = describe(problem, points, flat.batch(z[None], case.frozen), z[None])
    rng = np.random.default_rng([seed, len(case.law.name), n, design.sizes, int(design.clustered), NOISES.index(kind)])
    errors = noise(rng, kind, (simulations, n))
    if design.clustered:
        shared = noise(rng, kind, (simulations, design.sizes)) if shared is None else shared
        errors = np.sqrt(0.5) * (errors + shared[:, cluster])
    to_log = {"log": np.asarray, "linear": np.log, "reciprocal": lambda v: np.log(-np.log(v))}
    log_loss = to_log[goal.space](pred[0])
    loss = np.exp(log_loss + SIGMA * errors)
    table = dataclasses.replace(blank, loss=loss[0])
    view = View(problem, table, points, observed(table, goal.space), np.ones(n))
    y = np.stack([observed(dataclasses.replace(table, loss=one), goal.space) for one in loss])
    return view, y, z


def optima(
    view: View, y: np.ndarray, frozen: dict[str, float], truth: np.ndarray, carried: Named | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Optimum [S, q] and objective [S] of every simulation, from the truth and from spread cells.

    `carried`, name -> [S], replaces the frozen values by each simulation's own.
    """
    cells, values = candidate_points(view, frozen, 0)
    starts = np.concatenate([truth[None], cells[pick(cells, values, 6)]])
    constant = carried or {k: np.full(len(y), v) for k, v in frozen.items()}
    found = solve(view.problem, view.points, Batch(y, view.w, np.tile(starts, (len(y), 1, 1)), constant))
    return found.z, found.value


def residuals_of(view: View, y: np.ndarray, z: np.ndarray, frozen: dict[str, float]) -> np.ndarray:
    constant = {k: np.full(len(y), v) for k, v in frozen.items()}
    return describe(view.problem, view.points, Batch(y, view.w, z[:, None], constant), z)[1]


def profile_covers(case: Case, view: View, y: np.ndarray, z: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """Whether each simulation's profile interval holds the truth, label -> [S] bool."""
    r = residuals_of(view, y, z, case.frozen)
    slope, square = inverse_curvature(view.problem.objective, r, view.problem.q)
    factor = 2 * slope / square
    labels = [f.name for f in view.problem.free]
    df = len(view.table.clusters) - 1 if view.table.clustered else view.table.n - view.problem.q
    limit = stats.f.ppf(LEVEL, 1, df)
    out = {}
    ratios = []
    if view.table.clustered:
        ratios = [cluster_ratios(view, z[s], r[s], case.frozen) for s in range(len(y))]
    for label in labels:
        frozen = {**case.frozen, label: case.truth[label]}
        inner = make_problem(case.law, case.law.objective, 1, frozenset(frozen), frozenset())
        start = to_coordinates(inner, case.truth, view.points.centre)
        constant = {k: np.full(len(y), v) for k, v in frozen.items()}
        own = np.delete(z, labels.index(label), axis=1)
        starts = np.stack([np.tile(start, (len(y), 1)), own], 1)
        held = solve(inner, view.points, Batch(y, view.w, starts, constant))
        statistic = factor * np.maximum(held.value - value, 0)
        if view.table.clustered:
            statistic = statistic / np.maximum([one[label] for one in ratios], LEAST_RATIO)
        out[label] = statistic <= limit
    return out


def bootstrap_ends(case: Case, view: View, y: np.ndarray, z: np.ndarray, kind: str, resamples: int) -> dict[str, Ends]:
    """Percentile ends of each parameter, label -> (low [S], high [S])."""
    n, q = view.table.n, view.problem.q
    per = max(1, SLAB // resamples)
    if kind == "residual":
        r = residuals_of(view, y, z, case.frozen)
        pred = y + r
        r = (r - r.mean(1, keepdims=True)) * np.sqrt(n / (n - q))
        drawn = np.random.default_rng(1).integers(0, n, (resamples, n))
    else:
        unit = view.table.cluster if kind == "cluster" else np.arange(n)
        counts, _ = resample_counts(unit, view.table.group, range(resamples), 1, q)
    ends: dict[str, list[np.ndarray]] = {}
    for a in range(0, len(y), per):
        part = slice(a, a + per)
        sims = len(y[part])
        starts = np.repeat(z[part], resamples, 0)[:, None]
        constant = {k: np.full(sims * resamples, v) for k, v in case.frozen.items()}
        if kind == "residual":
            new = pred[part][:, None, :] - np.stack([one[drawn] for one in r[part]])
            batch = Batch(new.reshape(-1, n), view.w, starts, constant)
        else:
            batch = Batch(np.repeat(y[part], resamples, 0), np.tile(counts, (sims, 1)), starts, constant)
        found = solve(view.problem, view.points, batch)
        named, _ = describe(view.problem, view.points, batch, found.z)
        for label, values in labelled(view, named).items():
            ends.setdefault(label, []).append(np.quantile(values.reshape(sims, resamples), TAILS, axis=1))
    return {k: (joined[0], joined[1]) for k, v in ends.items() for joined in [np.concatenate(v, 1)]}


def staged_ends(design: Design, kind: str, simulations: int, resamples: int) -> Staged:
    """Percentile ends of each parameter of both stages of the continual pre-training law, and the true values.

    As `analysis.twostage`: a resample draws clusters of both stages together, and its first stage's E, A and alpha are
    what its second holds.
    """
    law = JointCPT()
    scratch, continued = (dict(p.params) for p in law.published)
    carry = ("E", "A", "alpha")
    stages = (Case(law, scratch, {"gamma": 0.0}), Case(law, continued, {k: continued[k] for k in carry}))
    shared = noise(np.random.default_rng([0, 2, design.sizes, NOISES.index(kind)]), kind, (simulations, design.sizes))
    made = [simulate(c, design, kind, simulations, s, shared) for s, c in enumerate(stages)]
    (one, y1, truth1), (two, y2, truth2) = made
    n = one.table.n
    clusters = np.concatenate([one.table.cluster, two.table.cluster])
    counts, _ = resample_counts(clusters, np.zeros(2 * n, int), range(resamples), 1, one.problem.q + two.problem.q)
    z1, _ = optima(one, y1, stages[0].frozen, truth1)
    gamma = {"gamma": np.zeros(simulations)}
    found, _ = describe(one.problem, one.points, Batch(y1, one.w, z1[:, None], gamma), z1)
    z2, _ = optima(two, y2, stages[1].frozen, truth2, {k: found[k] for k in carry})
    per, parts = max(1, SLAB // resamples), []
    for a in range(0, simulations, per):
        part = slice(a, a + per)
        sims = len(y1[part])
        constant = {"gamma": np.zeros(sims * resamples)}
        drawn: dict[str, np.ndarray] = {}
        for s, (view, y, z) in enumerate(((one, y1, z1), (two, y2, z2))):
            w = np.tile(counts[:, s * n : (s + 1) * n], (sims, 1))
            starts = np.repeat(z[part], resamples, 0)[:, None]
            batch = Batch(np.repeat(y[part], resamples, 0), w, starts, constant)
            optimum = solve(view.problem, view.points, batch).z
            named, _ = describe(view.problem, view.points, batch, optimum)
            drawn |= {k if s or k in carry else f"{k} from scratch": v for k, v in named.items()}
            constant = {k: drawn[k] for k in carry}
        parts.append({k: np.quantile(v.reshape(sims, resamples), TAILS, axis=1) for k, v in drawn.items()})
    ends = {k: np.concatenate([p[k] for p in parts], 1) for k in parts[0]}
    truth = continued | {f"{k} from scratch": v for k, v in scratch.items()}
    return {k: (v[0], v[1]) for k, v in ends.items()}, {k: truth[k] for k in ends}


def _most(case: Case) -> int:
    return OWN_SIMULATIONS if case.own is not None else 10**6


def methods(design: Design) -> tuple[str, ...]:
    return ("profile", "cluster") if design.clustered else ("profile", "iid", "residual")


def measure(
    case: Case | None, design: Design, kind: str, method: str, simulations: int, resamples: int
) -> Iterator[dict[str, Any]]:
    """Rows of one cell, one per parameter; no case stands for the two-stage fit."""
    began = time.perf_counter()
    ends: dict[str, Ends] = {}
    if case is None:
        ends, real_values = staged_ends(design, kind, simulations, resamples)
    else:
        real_values = case.truth
        view, y, truth = simulate(case, design, kind, min(simulations, _most(case)), seed=0)
        z, value = optima(view, y, case.frozen, truth)
        if method != "profile":
            ends = bootstrap_ends(case, view, y, z, method, resamples)
    if case is not None and method == "profile":
        held = profile_covers(case, view, y, z, value)
    else:
        held = {k: (low <= real_values[k]) & (real_values[k] <= high) for k, (low, high) in ends.items()}
    seconds = time.perf_counter() - began
    for label, covers in held.items():
        share, real = float(np.mean(covers)), real_values[label]
        low, high = ends.get(label, (np.full(1, np.nan), np.full(1, np.nan)))
        yield {
            "law": STAGED if case is None else case.law.name,
            "design": design.name,
            "noise": kind,
            "method": method,
            "parameter": label,
            "coverage": share,
            "se": float(np.sqrt(share * (1 - share) / len(covers))),
            "truth_below": float(np.mean(real < low)) if label in ends else np.nan,
            "truth_above": float(np.mean(real > high)) if label in ends else np.nan,
            "simulations": len(covers),
            "resamples": 0 if method == "profile" else resamples,
            "seconds": seconds,
        }


def cells(law: str | None) -> Iterator[tuple[Case | None, Design, str, str]]:
    """Every cell: the two-stage fit (no case), then the cheap profiles of all laws, then their bootstraps."""
    for design in DESIGNS:
        if design.clustered and law in (None, STAGED):
            yield from ((None, design, kind, "cluster") for kind in NOISES)
    for cheap in (True, False):
        if cheap:
            yield from ((c, OWN, "gaussian", "profile") for c in other_cases() if law in (None, c.law.name))
        for design in DESIGNS:
            for kind in NOISES:
                for case in cases():
                    for method in methods(design):
                        if (method == "profile") == cheap and law in (None, case.law.name):
                            yield case, design, kind, method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--law", help="only this law")
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "coverage.parquet"
    done = pd.read_parquet(file) if file.exists() else pd.DataFrame(columns=["law", "design", "noise", "method"])
    for case, design, kind, method in cells(args.law):
        name = (STAGED if case is None else case.law.name, design.name, kind, method)
        if (done[["law", "design", "noise", "method"]] == list(name)).all(axis=1).any():
            continue
        rows = pd.DataFrame(list(measure(case, design, kind, method, args.simulations, args.resamples)))
        done = pd.concat([done, rows], ignore_index=True) if len(done) else rows
        part = file.with_suffix(".part")
        done.to_parquet(part, index=False)
        part.replace(file)
        done.to_csv(file.with_suffix(".csv"), index=False, float_format="%.4g")
        shown = "  ".join(f"{k} {v:.3f}" for k, v in zip(rows.parameter, rows.coverage, strict=True))
        print(f"{', '.join(name)}: {shown}  ({rows.seconds.iloc[0]:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
