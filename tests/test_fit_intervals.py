"""Resamples at their optimum, intervals that open where the data do not bound, both stages resampled together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from test_fit_solver import TRUTH, points

from analysis import bootstrap, fit, fit_stages
from analysis.batch import Batch
from analysis.fitting import View, candidate_points
from analysis.intervals import resample_counts
from analysis.profile import profile
from analysis.solve import solve
from analysis.twostage import bootstrap_stages
from lab.errors import LabError


def clustered(seed: int = 0, sizes: int = 10) -> pd.DataFrame:
    frame = points(sizes, 4, 0.003, seed)
    shared = np.random.default_rng(seed).normal(0, 0.003, sizes)
    codes = np.repeat(np.arange(sizes), 4)
    return frame.assign(loss=frame.loss * np.exp(shared[codes]), trajectory=codes)


@pytest.mark.parametrize("kind", ["iid", "cluster", "residual"])
def test_resamples_are_at_their_optimum(kind: str) -> None:
    result = fit(clustered(), "tied")
    draws = bootstrap(result, 300, kind)  # type: ignore[arg-type]
    view = View.of(result.problem, result.table)
    if kind == "residual":
        r = result.residuals
        r = (r - r.mean()) * np.sqrt(result.n / (result.n - result.problem.q))
        drawn = np.random.default_rng([0, 0]).integers(0, result.n, (64, result.n))[:25]
        batch = Batch(view.y + result.residuals - r[drawn], view.w, np.empty((25, 0, 4)), {})
    else:
        unit = view.table.cluster if kind == "cluster" else np.arange(result.n)
        counts, _ = resample_counts(unit, view.table.group, range(25), 0, result.problem.q)
        batch = Batch(view.y, counts, np.empty((25, 0, 4)), {})
    cells, _ = candidate_points(view, {}, 3)
    starts = cells[np.random.default_rng(1).integers(0, len(cells), 25 * 30)]
    many = dataclasses.replace(batch, starts=np.empty((25, 1, 4))).take(np.repeat(np.arange(25), 30))
    found = solve(result.problem, view.points, dataclasses.replace(many, starts=starts[:, None]))
    best = np.nanmin(found.value.reshape(25, 30), axis=1)
    assert np.all(draws.value[:25] <= best * (1 + 1e-8))
    assert draws.converged.mean() > 0.99


def test_resample_depends_on_seed_and_number_only() -> None:
    cluster, group = np.repeat(np.arange(10), 4), np.zeros(40, int)
    whole, _ = resample_counts(cluster, group, range(200), 7, 4)
    part, _ = resample_counts(cluster, group, range(70, 133), 7, 4)
    np.testing.assert_array_equal(whole[70:133], part)
    assert np.all(whole.sum(1) == 40)
    assert np.all(whole.reshape(200, 10, 4).std(2) == 0)  # points of one cluster move together
    assert np.all((whole.reshape(200, 10, 4)[:, :, 0] > 0).sum(1) >= 3)


def test_strata_keep_every_group() -> None:
    cluster, group = np.arange(12), np.repeat([0, 1], 6)
    counts, _ = resample_counts(cluster, group, range(100), 0, 3)
    assert np.all(counts[:, :6].sum(1) == 6)


def test_single_epoch_leaves_the_half_life_open() -> None:
    """R_D is not identified without repetition; with little, its interval has no upper end."""
    truth = {"E": 1.87, "A": 520.0, "B": 1488.0, "alpha": 0.3527}
    n = np.repeat(np.geomspace(2e7, 5e9, 6), 4)
    d = n * np.tile([5.0, 20.0, 80.0, 320.0], 6)
    epochs = np.where(np.arange(24) % 4 == 3, 2.0, 1.0)
    loss = truth["E"] + truth["A"] / n ** truth["alpha"] + truth["B"] / d ** truth["alpha"]
    frame = pd.DataFrame({"N": n, "D": d, "U": d / epochs, "loss": loss})
    frame["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.003, 24))
    held = {**truth, "R_N": 1e5}
    once = fit(frame.assign(U=frame.D), "data-constrained", frozen=held)
    assert once.status == "not identified"
    assert "R_D changes no prediction" in once.flags[0].text
    with pytest.raises(LabError, match="No interval"):
        bootstrap(once)
    twice = fit(frame, "data-constrained", frozen=held)
    draws = bootstrap(twice, 200)
    assert draws.interval("R_D").open_high
    assert profile(twice)["R_D"].interval.open_high


def test_profile_of_least_squares_is_the_exact_interval() -> None:
    """For a law linear in its coefficients, with Gaussian least squares, the profile is the t interval."""
    frame = points(6, 4, 0.01, 1)
    result = fit(frame, objective="squares-linear", frozen={"alpha": 0.35, "beta": 0.37})
    design = np.column_stack([np.ones(24), frame.N**-0.35, frame.D**-0.37])
    solution, residual, *_ = np.linalg.lstsq(design, frame.loss, rcond=None)
    error = np.sqrt(residual[0] / 21 * np.linalg.inv(design.T @ design).diagonal())
    ours = profile(result)
    for k, name in enumerate(("E", "A", "B")):
        t = 2.0796138447276644  # Student's 97.5 % point with 21 degrees of freedom
        assert ours[name].interval.low == pytest.approx(solution[k] - t * error[k], rel=2e-4)
        assert ours[name].interval.high == pytest.approx(solution[k] + t * error[k], rel=2e-4)


def test_profile_agrees_with_the_cluster_bootstrap() -> None:
    result = fit(clustered(3, 20), "tied")
    draws = bootstrap(result, 1000)
    assert draws.kind == "cluster"
    for name, curve in profile(result, ["alpha", "E"]).items():
        boot = draws.interval(name)
        assert curve.interval.low < result.params[name] < curve.interval.high
        assert 0.5 < (curve.interval.high - curve.interval.low) / (boot.high - boot.low) < 2
        assert np.all(np.diff(curve.values) > 0)


def test_few_clusters_are_flagged_and_default_is_profile() -> None:
    result = fit(clustered(sizes=6), "tied")
    assert any(f.kind == "few clusters" for f in bootstrap(result, 64).flags)
    assert {v.method for v in result.intervals().values()} == {"profile"}


def test_functions_of_the_parameters_have_intervals() -> None:
    result = fit(clustered(), "tied")
    draws = bootstrap(result, 200)
    share = draws.of(lambda p: p["A"] / (p["A"] + p["B"]))
    assert share.low < share.estimate < share.high
    open_ended = draws.of(lambda p: np.inf if p["alpha"] > result.params["alpha"] else 1.0)
    assert open_ended.open_high and not open_ended.open_low


def staged_frame(sigma: float) -> pd.DataFrame:
    n = np.repeat(np.geomspace(4e7, 5e9, 10), 4)
    d = n * np.tile([5.0, 20.0, 80.0, 320.0], 10)
    scratch = 1.55 + 420 * n**-0.4 + 719.5 * d**-0.3
    continued = 1.55 + 420 * n**-0.4 + 433.3 * d**-0.2 * n**-0.08
    frame = pd.DataFrame({"N": [*n, *n], "D": [*d, *d], "loss": [*scratch, *continued]})
    frame["arm"] = ["scratch"] * 40 + ["cpt"] * 40
    frame["loss"] *= np.exp(np.random.default_rng(0).normal(0, sigma, 80))
    return frame


def test_stages_recover_and_second_feels_the_first() -> None:
    exact = fit_stages(staged_frame(0.0), stage="arm", first="scratch", second="cpt")
    for name, value in {"B": 433.3, "beta": 0.2, "gamma": 0.08}.items():
        assert exact.second.params[name] == pytest.approx(value, rel=1e-6)
    staged = fit_stages(staged_frame(0.003), stage="arm", first="scratch", second="cpt")
    one, two = bootstrap_stages(staged, 400)
    assert np.ptp(one.params["alpha"]) > 0
    known = bootstrap(staged.second, 400, "cluster")
    both, alone = (np.subtract(*np.quantile(d.params["beta"], [0.975, 0.025])) for d in (two, known))
    assert both > alone  # freezing E, A, alpha as if they were known is too narrow
    for name, value in {"beta": 0.2, "gamma": 0.08}.items():
        assert two.interval(name).low < value < two.interval(name).high


@pytest.mark.slow
def test_growth_in_points_and_resamples() -> None:
    """A hundred times the points or the resamples costs at most a few hundred times the seconds."""
    small = fit(points(10, 10, 0.005), "tied")
    bootstrap(small, 100)
    few, many = bootstrap(small, 1000).seconds, bootstrap(small, 20_000).seconds
    assert many < 40 * few
    big = fit(points(100, 100, 0.005), "tied")
    assert big.status == "converged"
    again = fit(points(100, 100, 0.005, seed=1), "tied")
    assert again.seconds < 60


def test_truth_of_points_is_used() -> None:
    assert points().loss.iloc[0] == pytest.approx(
        TRUTH["E"] + TRUTH["A"] / 2e7 ** TRUTH["alpha"] + TRUTH["B"] / 4e7 ** TRUTH["beta"]
    )
