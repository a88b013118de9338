"""Designs: refused and accepted plans, published standard errors, against simulated refits, and made grids."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis import laws, surface
from analysis.design import check, published_params
from analysis.plan import make, read_plan
from lab.errors import LabError

CHINCHILLA, CPT, TIED = laws.get("chinchilla"), laws.get("cpt"), laws.get("tied")
HOFFMANN, BESIROGLU = (p.params for p in CHINCHILLA.published)
CONTINUED = CPT.published[1].params
SIZES = np.geomspace(1e6, 5e7, 6)
TARGET = {"N": 3e8, "D": 6e9}


def factorial(sizes: np.ndarray, ratios: tuple[float, ...] = (5, 20, 80, 320)) -> dict[str, np.ndarray]:
    n, r = np.meshgrid(sizes, ratios)
    return {"N": n.ravel(), "D": (n * r).ravel()}


LINE = {"N": SIZES, "D": 20 * SIZES}
FACTORIAL = factorial(SIZES)


def test_continual_law_on_d_20n_is_refused_with_beta_against_gamma() -> None:
    report = check(CPT, LINE, CONTINUED, frozen=("E", "A", "alpha"))
    assert (report.rank, report.parameters, report.verdict) == (2, 3, "not identified")
    (null,) = report.null
    assert set(null.weights) == {"beta", "gamma"}
    assert null.weights["beta"] == pytest.approx(-null.weights["gamma"])
    assert "D = 20 N only" in report.reasons[0] and "cannot be told apart" in report.reasons[0]
    assert {e.label for e in report.errors if math.isinf(e.se)} == {"beta", "gamma"}
    with pytest.raises(LabError, match=r"beta.*gamma|gamma.*beta"):
        report.require()


def test_continual_law_on_a_factorial_is_accepted() -> None:
    report = check(CPT, FACTORIAL, CONTINUED, 0.005, frozen=("E", "A", "alpha"))
    assert report.verdict == "identified" and report.require() is report
    errors = {e.label: e.se for e in report.errors}
    assert 0.001 < errors["beta"] < 0.003 and 0.001 < errors["gamma"] < 0.003


def test_joint_scratch_and_continued_line_lacks_one_of_eight() -> None:
    runs = {k: np.concatenate([v, v]) for k, v in LINE.items()}
    arms = ["continued"] * 6 + ["scratch"] * 6
    values = {"E": 1.55, "A": 420.0, "alpha": 0.4, "B[continued]": 433.3, "B[scratch]": 719.5}
    values |= {"beta[continued]": 0.2, "beta[scratch]": 0.3, "gamma[continued]": 0.08, "gamma[scratch]": 0.0}
    report = check(CPT, runs, values, group=arms, shared=("E", "A", "alpha"), suggest=False)
    # The scratch arm carries a gamma of its own here: it adds a parameter and a null direction of its own.
    assert (report.rank, report.parameters) == (7, 9)
    both = {k: np.concatenate([v, v]) for k, v in FACTORIAL.items()}
    accepted = check(CPT, both, values, 0.005, group=["continued"] * 24 + ["scratch"] * 24, shared=("E", "A", "alpha"))
    assert accepted.rank == accepted.parameters == 9 and accepted.verdict == "identified"


def test_published_errors_of_the_factorial_design() -> None:
    report = check(CHINCHILLA, FACTORIAL, BESIROGLU, 0.005, target=TARGET, suggest=False)
    errors = {e.label: e.se for e in report.errors}
    assert report.flops == pytest.approx(8.06e18, rel=1e-3)
    assert report.branched_flops == pytest.approx(6.47e18, rel=2e-3)
    assert errors["E"] == pytest.approx(0.062, abs=5e-4)
    assert report.forecast_se == pytest.approx(0.0076, abs=1e-4)


def test_errors_scale_with_noise_and_seeds() -> None:
    one = check(CHINCHILLA, FACTORIAL, HOFFMANN, 0.01, suggest=False)
    twice = {k: np.concatenate([v] * 4) for k, v in FACTORIAL.items()}
    four = check(CHINCHILLA, twice, HOFFMANN, 0.01, suggest=False)
    half = check(CHINCHILLA, FACTORIAL, HOFFMANN, 0.005, suggest=False)
    for a, b, c in zip(one.errors, four.errors, half.errors, strict=True):
        assert b.se == pytest.approx(a.se / 2) and c.se == pytest.approx(a.se / 2)


def test_errors_agree_with_simulated_least_squares() -> None:
    """The predicted standard error of the forecast is the spread of forecasts of linearised refits to noisy data."""
    noise = 0.002
    report = check(CHINCHILLA, FACTORIAL, HOFFMANN, noise, target=TARGET, suggest=False)
    rng = np.random.default_rng(3)
    jac = surface.jacobian(CHINCHILLA, HOFFMANN, FACTORIAL)
    aim = surface.jacobian(CHINCHILLA, HOFFMANN, TARGET)[0]
    scale = np.linalg.norm(jac, axis=0)
    draws = noise * rng.standard_normal((4000, len(jac)))
    steps = np.linalg.lstsq(jac / scale, draws.T, rcond=None)[0].T / scale
    assert report.forecast_se == pytest.approx(float(np.std(steps @ aim)), rel=0.04)
    simulated = dict(zip([p.name for p in CHINCHILLA.parameters], steps.std(0), strict=True))
    for e in report.errors:
        assert e.se == pytest.approx(simulated[e.label], rel=0.05)


def test_next_runs_leave_the_line_and_help() -> None:
    report = check(CPT, LINE, CONTINUED, frozen=("E", "A", "alpha"), target=TARGET)
    best = report.next_runs[0].x
    assert abs(math.log(best["D"] / best["N"] / 20)) > 0.2
    more = {k: np.append(v, best[k]) for k, v in LINE.items()}
    assert check(CPT, more, CONTINUED, frozen=("E", "A", "alpha"), suggest=False).rank == 3
    fine = check(CHINCHILLA, FACTORIAL, HOFFMANN, target=TARGET)
    added = {k: np.append(v, fine.next_runs[0].x[k]) for k, v in FACTORIAL.items()}
    after = check(CHINCHILLA, added, HOFFMANN, target=TARGET, suggest=False)
    assert fine.forecast_se is not None and after.forecast_se is not None
    gain = 1 - (after.forecast_se / fine.forecast_se) ** 2
    assert gain == pytest.approx(fine.next_runs[0].gain, rel=1e-3)


def test_single_epochs_say_nothing_of_repetition() -> None:
    law = laws.get("data-constrained")
    runs = {**FACTORIAL, "U": FACTORIAL["D"] * 2}
    report = check(law, runs, published_params(law), suggest=False)
    assert any(set(d.weights) == {"R_D"} for d in report.null)
    assert "a single epoch in every run" in report.confounded


def test_chinchilla_on_a_line_is_not_usable() -> None:
    report = check(CHINCHILLA, LINE, HOFFMANN, 0.005, target={"N": 3e8, "D": 1e10}, suggest=False)
    assert report.verdict != "identified"


def test_made_plan_keeps_the_budget_and_beats_a_factorial_of_its_cost() -> None:
    plan = make(TIED, 2e18, published_params(TIED), target=TARGET, noise=0.005, runs=16, sizes=(1e6, 3e7))
    assert plan.report.flops <= 2e18 and plan.report.verdict == "identified" and plan.report.runs <= 16
    sizes = np.geomspace(1e6, 3e7, 4)
    rival = factorial(sizes)
    rival = {k: v * math.sqrt(2e18 / np.sum(6 * rival["N"] * rival["D"])) for k, v in rival.items()}
    theirs = check(TIED, rival, published_params(TIED), 0.005, target=TARGET, suggest=False)
    assert theirs.flops == pytest.approx(2e18)
    assert plan.report.forecast_se is not None and theirs.forecast_se is not None
    assert plan.report.forecast_se < theirs.forecast_se


def test_plan_tables_are_checked() -> None:
    import pandas as pd

    frame = pd.DataFrame({"size": [1e6, 2e6], "tokens": [2e7, "many"]})
    with pytest.raises(LabError, match="no column 'N'"):
        read_plan(frame, CHINCHILLA)
    with pytest.raises(LabError, match="'tokens' of the plan is not a number in row 1"):
        read_plan(frame, CHINCHILLA, {"N": "size"})
    columns, group = read_plan(frame.iloc[:1], CHINCHILLA, {"N": "size"})
    assert group is None and columns["D"].tolist() == [2e7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": {"N": [], "D": []}}, "no runs"),
        ({"runs": {"N": [1e6, -1], "D": [1e7, 1e7]}}, "row 1"),
        ({"noise": 0.0}, "above 0"),
        ({"params": {"E": 1.0}}, "a value for A"),
        ({"params": {**HOFFMANN, "A": 0.0}}, "A = 0"),
        ({"group": ["a"]}, "1 group labels"),
    ],
)
def test_bad_plans_are_named(change: dict, message: str) -> None:
    arguments = {"runs": FACTORIAL, "params": HOFFMANN, "noise": 0.01, "group": None} | change
    with pytest.raises(LabError, match=message):
        check(CHINCHILLA, arguments["runs"], arguments["params"], arguments["noise"], group=arguments["group"])


def test_budgets_that_buy_nothing_are_named() -> None:
    with pytest.raises(LabError, match="cannot identify"):
        make(CHINCHILLA, 1e18, runs=3)
    with pytest.raises(LabError, match="also reads U"):
        make(laws.get("data-constrained"), 1e18)
