"""The published numbers of the imbalance paper: complete, marked, and able to make the paper's own numbers again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from figures.imbalance_regenerated import LAW_AGREES, TEFF_AGREES, recomputed, refitted, regenerated, verdict
from figures.imbalance_sides import missing, published_side
from figures.published import EXACT, MEANINGS, imbalance

GOLDEN = Path(__file__).parents[1] / "../shared/reference/golden/xling.json"
PAPER = imbalance()


def changed(**frames):
    return dataclasses.replace(PAPER, **frames)


def test_teff_comes_back_from_perplexities_tokens_and_laws_alone():
    # What is recomputed must not be read from the stored column: without it, the same numbers come out.
    got = recomputed(PAPER)
    assert len(got) == 60
    assert (got.error.abs() <= got.allowed).all()
    # All but the smallest, which six decimals print with less precision than that.
    strict = got.allowed == TEFF_AGREES
    assert strict.sum() == len(got) - 1 and got.error.abs()[strict].max() < TEFF_AGREES
    blind = recomputed(changed(results=PAPER.results.assign(teff=1.0)))
    assert blind.teff.to_numpy() == pytest.approx(got.teff.to_numpy(), rel=1e-12)
    assert (blind.mlte / blind.own).to_numpy() == pytest.approx(blind.teff.to_numpy())


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_law_that_is_off_by_a_hundred_thousandth_is_seen(name):
    got = recomputed(changed(laws=PAPER.laws.assign(**{name: PAPER.laws[name] * (1 + 1e-5)})))
    assert got.error.abs().max() > TEFF_AGREES


def test_laws_fitted_to_the_digitised_points_are_the_recovered_ones():
    got = refitted(PAPER).set_index(["size", "language"])
    recovered = got[got.evidence == "R"]
    assert set(recovered.index) == {("main", "l1"), ("main", "l2")}
    assert (recovered.apart < LAW_AGREES).all()
    # Those that were themselves read off a plot agree to what reading leaves.
    assert (got.apart < 2 * LAW_AGREES).all()
    ladders = PAPER.ladders
    off = ladders.assign(ppl=ladders.ppl.where(ladders.x < 1, ladders.ppl * 1.02))
    assert refitted(changed(ladders=off)).set_index(["size", "language"]).apart[("main", "l1")] > LAW_AGREES


def test_both_are_shown_as_tables():
    text = regenerated(PAPER)
    assert "clone 10 %" in text and "2.076345" in text and "smaller" in text
    assert "60 TEff" in verdict(PAPER) and "0.18%" in verdict(PAPER)


def test_every_number_says_what_it_rests_on():
    for frame, columns in (
        (PAPER.results, ("ppl_evidence",)),
        (PAPER.ladders, ("evidence",)),
        (PAPER.probes, ("evidence",)),
        (PAPER.laws, ("evidence",)),
    ):
        assert frame["where"].str.len().gt(0).all()
        for column in columns:
            assert set(frame[column]) <= set(MEANINGS)
    results = PAPER.results
    assert results.teff_evidence[results.teff.notna()].isin(MEANINGS).all()
    # Only what was read off a plot has an error of reading.
    assert results.ppl_error[results.ppl_evidence.isin(EXACT)].isna().all()
    assert not results.duplicated(["arm", "times", "size", "language"]).any()
    probes = ["probe", "arm", "times", "size", "place", "language", "condition"]
    assert not PAPER.probes.duplicated(probes).any()
    assert (results.ppl > 1).all() and results.share.between(0, 1, inclusive="neither").all()
    assert PAPER.probes.value.between(-1, 1).all()


def test_every_artefact_has_its_numbers():
    where = " ".join([*PAPER.results["where"], *PAPER.ladders["where"], *PAPER.probes["where"]])
    for name in ("Fig 1 left", "Fig 1 right", "Fig 2", "Fig 3", "Fig 4", "Fig 5", "Fig 6", "Fig 7", "Fig 8", "Fig 9",
                 "Fig 10", "Fig 11", "Fig 12", "Fig 13", "Table 2", "Table 4"):  # fmt: skip
        assert name in where, name
    for table, rows in (("Table 1", 13), ("Table 3", 20)):
        for row in range(1, rows + 1):
            assert f"{table} row {row}" in where


def test_the_published_side_keeps_bounds_exactness_and_the_best_of_two_numbers():
    side = published_side(PAPER)
    exact = side.ladder("main", "l1").set_index("x")
    assert exact.ppl[0.1] == 48.358189 and exact.ppl_exact[0.1] and not exact.ppl_exact[0.2]
    assert exact.ppl_low[0.2] == pytest.approx(exact.ppl[0.2] - 0.08)
    pole = side.pick("clone 0 % -> 100 %").set_index("language").loc["l1"]
    assert pole.teff_kind == "at most"
    assert side.rough == {(s, lang) for s in ("smaller", "larger") for lang in ("l1", "l2")}
    assert side.law("main", "clone1", np.array([0.1, 0.5, 1.0])) == pytest.approx([46.0345, 25.3774, 22.0355], abs=1e-3)
    assert side.law("main", "l2", np.array([1.0])) == pytest.approx([16.0444], abs=1e-3)
    assert missing(side.results, side.results) == []


def test_it_agrees_with_the_reference_it_was_carried_over_from():
    if not GOLDEN.exists():
        pytest.skip("the reference folder is not beside the repository")
    golden = json.loads(GOLDEN.read_text())
    assert golden["T_tokens"] == PAPER.tokens
    stored = {(round(ppl, 6), round(teff, 6)) for ppl, teff in zip(PAPER.results.ppl, PAPER.results.teff, strict=True)}
    for run in golden["clones_exact"] + golden["enfr_exact"]:
        for pair in zip(run["ppl"], run["teff"], strict=True):
            assert tuple(round(v, 6) for v in pair) in stored
    read = PAPER.ladders[PAPER.ladders.evidence == "D"]
    assert len(read) == sum(len(points) for points in golden["mono_points_digitised"].values())
