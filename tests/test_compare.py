"""Choosing laws: folds, baselines, conformal bands, the ledger, forecasts and the report card, on simulated tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, laws, surface
from analysis.compare import (
    compare,
    conformal_halfwidth,
    distinct,
    forward_folds,
    leave_one_out,
    levels,
    scale_of,
)
from analysis.forecast import Misses, band_at, misses, predict
from analysis.ledger import examine, held_out, open_once
from analysis.report_card import report_card
from analysis.table import table as make_table
from lab.errors import LabError

CHINCHILLA = laws.get("chinchilla")
TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def simulated(noise: float, seed: int = 0) -> pd.DataFrame:
    """56 runs on a factorial of 8 sizes and 7 ratios, from Chinchilla's printed law."""
    n, r = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1.28e8, 8), np.geomspace(5, 320, 7)))
    loss = surface.loss(CHINCHILLA, TRUTH, {"N": n, "D": n * r})
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "N": n,
            "D": n * r,
            "loss": loss * np.exp(noise * rng.standard_normal(n.size)),
            "arm": np.where(n > 5e6, "a", "b"),
        }
    )


FRAME = simulated(0.004)


@pytest.fixture(scope="module")
def fitted():  # type: ignore[no-untyped-def]
    return fit(FRAME, "chinchilla")


@pytest.fixture(scope="module")
def forward():  # type: ignore[no-untyped-def]
    return compare(FRAME, ["chinchilla", "tied"])


def test_levels_keep_equal_values_together() -> None:
    values = np.repeat(np.geomspace(1, 1e4, 40), 3)
    code = levels(values)
    assert code.max() + 1 == 8 and np.all(np.diff(code) >= 0)
    assert all(len(np.unique(code[values == v])) == 1 for v in np.unique(values))
    assert distinct(np.array([5.0, 1.0, 1.005, 2.0])).tolist() == [2, 0, 0, 1]


def test_forward_folds_never_look_ahead() -> None:
    scale = np.geomspace(1e15, 1e18, 30)
    folds = forward_folds(scale, 6)
    for f in folds:
        assert scale[f.train].max() < scale[f.test].min() and f.train.sum() >= 6
        assert not np.any(f.train & f.test)
    assert np.concatenate([np.flatnonzero(f.test) for f in folds]).tolist() == sorted(
        set(range(30)) - set(np.flatnonzero(folds[0].train))
    )
    with pytest.raises(LabError, match="leave nothing"):
        forward_folds(np.ones(30), 6)


def test_leave_one_out_covers_every_row_once() -> None:
    codes = np.array([0, 0, 1, 1, 2, 2])
    folds = leave_one_out(codes, ["x", "y", "z"], 3)
    assert np.sum([f.test for f in folds], axis=0).tolist() == [1] * 6
    with pytest.raises(LabError, match="one value"):
        leave_one_out(np.zeros(5, int), ["x"], 1)
    with pytest.raises(LabError, match="fewer than 5"):
        leave_one_out(codes, ["x", "y", "z"], 5)


def test_the_true_law_beats_the_naive_baselines(forward) -> None:  # type: ignore[no-untyped-def]
    by_name = {s.law: s for s in forward.scores}
    true = by_name["chinchilla"]
    assert forward.scores[0].mape <= forward.scores[1].mape
    assert true.mape < 0.012 and abs(true.bias) < 0.01 and true.slope == pytest.approx(1, abs=0.1)
    assert true.skill["persistence"] > 0.7 and true.skill["log-linear"] > 0.5
    assert by_name["tied"].skill["tied"] == pytest.approx(0)
    assert set(forward.baselines) == {"persistence", "log-linear", "tied"}
    assert len(forward.observed) == sum(f.n_test for f in true.folds) == len(forward.predicted["tied"])


def test_predictions_are_those_of_a_fit_to_the_training_rows_alone(forward) -> None:  # type: ignore[no-untyped-def]
    """Rows of weight 0 must not leak into the fit."""
    table = make_table(FRAME, CHINCHILLA)
    fold = forward_folds(scale_of(table), max(6, table.n // 5))[-1]
    alone = fit(FRAME.iloc[np.flatnonzero(fold.train)], "chinchilla")
    expected = alone.predict({k: v[fold.test] for k, v in table.columns.items()})
    got = forward.predicted["chinchilla"][forward.fold == forward.fold.max()]
    assert got == pytest.approx(expected, rel=1e-6)


def test_leave_one_out_by_variable_and_by_column() -> None:
    by_size = compare(FRAME, ["tied"], by="N")
    assert len(by_size.folds) == 8 and by_size.scores[0].coverage is not None
    by_arm = compare(FRAME, ["tied"], by="arm")
    assert by_arm.folds == ("without arm a", "without arm b")
    with pytest.raises(LabError, match="neither a variable nor a column"):
        compare(FRAME, ["tied"], by="colour")
    with pytest.raises(LabError, match="whose parameters are its own"):
        compare(FRAME, ["tied"], by="arm", group="arm")


def test_information_criteria_follow_their_definition(forward, fitted) -> None:  # type: ignore[no-untyped-def]
    score = next(s for s in forward.scores if s.law == "chinchilla")
    rss = np.sum(np.log(fitted.fitted / FRAME.loss) ** 2)
    assert score.aic == pytest.approx(56 * np.log(rss / 56) + 2 * 6, rel=1e-6)
    assert score.bic - score.aic == pytest.approx((np.log(56) - 2) * 6)


def test_conformal_halfwidth_is_the_right_order_statistic() -> None:
    residuals = np.arange(1, 40) / 100 * np.where(np.arange(39) % 2, -1, 1)
    assert conformal_halfwidth(residuals, 0.95) == pytest.approx(0.38)
    assert conformal_halfwidth(residuals[:5], 0.95) == pytest.approx(0.05)


def test_conformal_bands_cover_exchangeable_misses() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1500):
        sample = rng.standard_t(3, 40)
        hits += abs(sample[-1]) <= conformal_halfwidth(sample[:-1], 0.95)
    assert 0.935 < hits / 1500 < 0.97


def test_bands_far_out_use_misses_far_out() -> None:
    past = Misses(np.concatenate([np.full(30, 0.01), np.full(30, 0.05)]), np.repeat([0.1, 1.0], 30), 5)
    assert band_at(past, 1.0).half == pytest.approx(0.05) and not band_at(past, 1.0).note
    assert "decades out" in band_at(past, 5.0).note
    assert "allow" in band_at(Misses(np.full(9, 0.02), np.full(9, 0.5), 2), 0.1).note


def test_forecast_carries_both_bands(fitted) -> None:  # type: ignore[no-untyped-def]
    past = misses(fitted)
    rng = np.random.default_rng(0)
    draws = {k: v * (1 + 0.002 * rng.standard_normal(300)) for k, v in fitted.params_of().items()}
    near, far = predict(fitted, {"N": [1e8, 1e9], "D": [1e9, 2e10]}, draws=draws, past=past)
    truth = float(surface.loss(CHINCHILLA, TRUTH, {"N": 1e9, "D": 2e10}))
    assert far.conformal is not None and far.bootstrap is not None and near.distance < far.distance
    assert far.conformal[0] < truth < far.conformal[1]
    assert far.bootstrap[0] < far.loss < far.bootstrap[1]
    with pytest.raises(LabError, match="N must be above 0"):
        predict(fitted, {"N": -1.0, "D": 1e9})


def test_the_test_scale_opens_once(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    table = make_table(FRAME, CHINCHILLA)
    seen = examine(ledger, table, CHINCHILLA, 1e18)
    assert seen.rows == int(held_out(table, 1e18).sum()) and seen.mape < 0.02
    shuffled = make_table(FRAME.sample(frac=1, random_state=1), CHINCHILLA)
    with pytest.raises(LabError, match="were opened on"):
        examine(ledger, shuffled, laws.get("tied"), 1e18)
    assert len(ledger.read_text().splitlines()) == 1
    open_once(ledger, table, held_out(table, 3e18), {"law": "tied"})
    assert len(ledger.read_text().splitlines()) == 2
    ledger.write_text("not json\n")
    with pytest.raises(LabError, match="damaged"):
        open_once(ledger, table, held_out(table, 1e18), {})
    with pytest.raises(LabError, match="0 of 56 rows"):
        held_out(table, 1e30)


def test_report_card_shows_what_is_missing(fitted) -> None:  # type: ignore[no-untyped-def]
    bare = report_card(fitted)
    answers = {i.question: i.answer for i in bare.items}
    assert answers["tokenizer"] is None and answers["seeds"] is None and "**missing**" in bare.markdown()
    assert answers["range of N"] is not None and answers["objective"] is not None
    rich = report_card(fitted, FRAME.assign(seed_init=3, tokenizer_hash="abc", schedule="wsd", run_id=range(56)))
    assert len(rich.missing) == len(bare.missing) - 4
    assert {i.question: i.answer for i in rich.items}["models trained"] == "56 runs in 56 rows"
