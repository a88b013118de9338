"""Equivalent tokens: every published MLTE and TEff, the censoring, and identities between the measures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import laws, surface
from analysis.equivalence import (
    Bounded,
    crossings,
    equivalent,
    equivalent_flops,
    equivalent_parameters,
    equivalent_tokens,
    flops_saved,
    interval_of,
    mlpe,
    transfer,
)
from analysis.laws.tokens import REFERENCE_TOKENS
from lab.errors import LabError

GOLDEN = Path(__file__).parents[1] / "../shared/reference/golden/xling.json"
TOKENS = laws.get("reciprocal-perplexity")
SMALL_EN, SMALL_FR = (p.params for p in TOKENS.published)
CHINCHILLA = laws.get("chinchilla")
HOFFMANN = CHINCHILLA.published[0].params
CPT = laws.get("cpt")
SCRATCH, CONTINUED = (p.params for p in CPT.published)


@pytest.mark.parametrize(("ppl", "share"), [(32.805344, 0.207634), (26.125090, 0.443314)])
def test_small_english_law_inverts_to_the_published_shares(ppl: float, share: float) -> None:
    worth = equivalent_tokens(TOKENS, SMALL_EN, math.log(ppl))
    assert worth.value.kind == "exact"
    assert worth.value.value / REFERENCE_TOKENS == pytest.approx(share, abs=6e-7)


def _tokens_of(row: dict, index: int) -> float:
    """Tokens of language `index` as the paper counts them: half for scheduled runs, 1/(n - 1) of the clones' share."""
    total = row["steps"] * 128 * 512
    if "sched" in row:
        return 0.5 * total
    share = row["p"] / (row.get("n_lang", 2) - 1) if index else 1 - row["p"]
    return share * total


def test_every_published_teff_follows() -> None:
    if not GOLDEN.exists():
        pytest.skip("the published table is not on this machine")
    golden = json.loads(GOLDEN.read_text())
    worst, count = 0.0, 0
    for name, second in (("clones_exact", SMALL_EN), ("enfr_exact", SMALL_FR)):
        for row in golden[name]:
            for index, params in enumerate((SMALL_EN, second)):
                measured = transfer(TOKENS, params, math.log(row["ppl"][index]), _tokens_of(row, index)).teff.value
                assert measured.kind == "exact"
                worst = max(worst, abs(measured.value / row["teff"][index] - 1))
                count += 1
    assert count == 60
    # The parameters are printed to 8 digits and the scores to 6.
    assert worst < 5e-6


def test_token_law_is_censored_at_its_two_ends() -> None:
    below = equivalent_tokens(TOKENS, SMALL_EN, math.log(11.0))
    assert below.value.kind == "at least" and math.isfinite(below.value.value)
    floor = TOKENS.floor(SMALL_EN)  # type: ignore[attr-defined]
    above = equivalent_tokens(TOKENS, SMALL_EN, 1e6)
    assert above.value.value == pytest.approx(floor, rel=1e-3)


def test_a_loss_below_the_floor_is_a_bound_and_never_more_than_the_data_reached() -> None:
    free = equivalent_tokens(CHINCHILLA, HOFFMANN, 1.0, {"N": 1e9})
    held = equivalent_tokens(CHINCHILLA, HOFFMANN, 1.0, {"N": 1e9}, span=(1e8, 1e11))
    assert free.value.kind == held.value.kind == "at least"
    assert held.value.value == 1e11 < free.value.value
    floor = HOFFMANN["E"] + HOFFMANN["A"] / 1e9 ** HOFFMANN["alpha"]
    at_bound = float(surface.loss(CHINCHILLA, HOFFMANN, {"N": 1e9, "D": free.value.value}))
    assert floor < at_bound < floor * 1.002


@given(n=st.floats(1e6, 1e11), d=st.floats(1e7, 1e13))
def test_inverse_of_the_prediction_is_the_identity(n: float, d: float) -> None:
    loss = float(surface.loss(CHINCHILLA, HOFFMANN, {"N": n, "D": d}))
    assert equivalent_tokens(CHINCHILLA, HOFFMANN, loss, {"N": n}).value.value == pytest.approx(d, rel=1e-7)
    assert equivalent_parameters(CHINCHILLA, HOFFMANN, loss, {"D": d}).value.value == pytest.approx(n, rel=1e-7)


def test_equivalent_compute_is_the_optimum_s() -> None:
    best = CHINCHILLA.optimum(HOFFMANN, 1e21)
    loss = float(surface.loss(CHINCHILLA, HOFFMANN, best))
    assert equivalent_flops(CHINCHILLA, HOFFMANN, loss).value.value == pytest.approx(1e21, rel=1e-6)


def test_measures_agree_with_their_definitions() -> None:
    result = transfer(TOKENS, SMALL_EN, math.log(26.0), 4e8)
    worth = result.mlte.value.value
    assert result.teff.value.value == pytest.approx(worth / 4e8)
    assert result.transferred.value.value == pytest.approx(worth - 4e8)
    assert result.bts.value.value == pytest.approx(2 * (1 - 1 / result.teff.value.value))
    assert result.flops_saved.value.value == pytest.approx(1 - 4e8 / worth)
    assert math.log(mlpe(TOKENS, SMALL_EN, worth)) == pytest.approx(math.log(26.0))


def test_published_crossing_of_continued_and_scratch_laws() -> None:
    for n in (4e7, 5e9):
        (found,) = crossings(CPT, CONTINUED, CPT, SCRATCH, "D", {"N": n}, span=(1e6, 1e14))
        assert found.value == pytest.approx((719.5 / 433.3 * n**0.08) ** 10, rel=1e-6)
        assert found.value / n**0.8 == pytest.approx(159.4, rel=1e-3)


def test_flops_saved_at_each_law_s_own_optimum() -> None:
    cheaper = {**SCRATCH, "B": SCRATCH["B"] / 2}
    saved = flops_saved(CPT, cheaper, CPT, SCRATCH, 3.0)
    assert saved.kind == "exact" and 0.3 < saved.value < 0.99
    with pytest.raises(LabError, match="never reaches"):
        flops_saved(CPT, cheaper, CPT, SCRATCH, 1.0)


def test_interval_is_open_where_draws_are_bounds() -> None:
    values = np.concatenate([np.linspace(1, 2, 90), np.full(10, 50.0)])
    kinds = ["exact"] * 90 + ["at least"] * 10
    interval = interval_of(values, kinds)  # type: ignore[arg-type]
    assert interval.open and interval.high == Bounded(50.0, "at least")
    assert interval.low.kind == "exact" and "open above" in str(interval)


def test_draws_give_an_interval_around_the_value() -> None:
    rng = np.random.default_rng(0)
    draws = {k: v * np.exp(0.001 * rng.normal(size=400)) for k, v in SMALL_EN.items()}
    worth = equivalent_tokens(TOKENS, SMALL_EN, math.log(26.0), draws=draws, span=(1e8, 4e8))
    assert worth.interval is not None and worth.extrapolated
    assert worth.interval.low.value < worth.value.value < worth.interval.high.value


def test_bad_questions_are_named() -> None:
    with pytest.raises(LabError, match="above 0"):
        equivalent_tokens(TOKENS, SMALL_EN, -1.0)
    with pytest.raises(LabError, match="no variable 'N'"):
        equivalent(TOKENS, SMALL_EN, 3.0, "N")
    with pytest.raises(LabError, match="needs N"):
        equivalent_tokens(CHINCHILLA, HOFFMANN, 3.0)
    with pytest.raises(LabError, match="needs alpha"):
        equivalent_tokens(CHINCHILLA, {k: v for k, v in HOFFMANN.items() if k != "alpha"}, 3.0, {"N": 1e9})
    with pytest.raises(LabError, match="finite"):
        Bounded(math.inf)
