"""TEff from result tables: the published numbers, ladders that are there and that are not, law and local curve."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_imbalance import SCALE, World, arms

from analysis import laws
from analysis.laws.tokens import REFERENCE_TOKENS
from analysis.noise import moderated, moderated_within
from analysis.reference import LocalCurve, TokenLaw
from analysis.teff import ladders, measure, readable, variants
from lab.errors import LabError

GOLDEN = Path(__file__).parents[1] / "../shared/reference/golden/xling.json"
SMALL_EN, SMALL_FR = (TokenLaw.of(p.params, 3 * REFERENCE_TOKENS) for p in laws.get("reciprocal-perplexity").published)
MAIN = "nano-4"


def shares(law: TokenLaw, ppl: float) -> float:
    return float(law.worth(math.log(ppl)).tokens) / REFERENCE_TOKENS


@pytest.mark.parametrize(
    ("law", "share", "ppl"),
    [(SMALL_EN, 0.1, 46.0345), (SMALL_EN, 0.5, 25.3774), (SMALL_EN, 1.0, 22.0355), (SMALL_FR, 1.0, 16.0444)],
)
def test_the_recovered_laws_give_the_published_perplexities(law: TokenLaw, share: float, ppl: float) -> None:
    assert math.exp(law.log_ppl(share * REFERENCE_TOKENS)) == pytest.approx(ppl, abs=6e-5)


@pytest.mark.parametrize(
    ("law", "ppl", "share"),
    [(SMALL_EN, 32.805344, 0.207634), (SMALL_EN, 26.125090, 0.443314), (SMALL_EN, 1e6, 0.023636),
     (SMALL_FR, 31.892938, 0.105431)],
)  # fmt: skip
def test_the_recovered_laws_invert(law: TokenLaw, ppl: float, share: float) -> None:
    assert shares(law, ppl) == pytest.approx(share, abs=6e-7)


def test_every_published_teff_follows_from_a_b_and_c() -> None:
    """To 3e-6, or to the last digit that the paper's notebook gives."""
    if not GOLDEN.exists():
        pytest.skip("the published table is not on this machine")
    golden = json.loads(GOLDEN.read_text())
    count = 0
    for name, second in (("clones_exact", SMALL_EN), ("enfr_exact", SMALL_FR)):
        for row in golden[name]:
            total = row["steps"] * 128 * 512
            for index, law in enumerate((SMALL_EN, second)):
                share = 0.5 if "sched" in row else row["p"] / (row.get("n_lang", 2) - 1) if index else 1 - row["p"]
                teff = shares(law, row["ppl"][index]) * REFERENCE_TOKENS / (share * total)
                assert teff == pytest.approx(row["teff"][index], rel=3e-6, abs=1e-6)
                count += 1
    assert count == 60


def test_the_law_says_where_it_only_bounds() -> None:
    pole = SMALL_EN.worth(math.log(9.15e10))
    assert pole.bound == -1 and pole.tokens / REFERENCE_TOKENS == pytest.approx(0.023635, abs=1e-6)
    assert SMALL_EN.pole / REFERENCE_TOKENS == pytest.approx(0.023635, abs=1e-6)
    best = SMALL_EN.worth(math.log(11.8))
    assert best.bound == 1 and best.tokens == 3 * REFERENCE_TOKENS
    assert SMALL_EN.best_ppl == pytest.approx(11.8955, abs=1e-4)
    assert SMALL_EN.worth(math.log(12.5)).bound == 0
    assert str(best.bounded()).startswith("at least")


@given(st.floats(0.03, 50))
def test_the_law_and_its_inverse_agree(share: float) -> None:
    assert shares(SMALL_EN, math.exp(SMALL_EN.log_ppl(share * REFERENCE_TOKENS))) == pytest.approx(share, rel=1e-6)


@given(st.lists(st.floats(0.02, 0.5), min_size=4, max_size=9), st.floats(0.001, 0.999))
def test_the_local_curve_and_its_inverse_agree(steps: list[float], where: float) -> None:
    tokens = np.geomspace(1e5, 3e6, len(steps) + 1)
    curve = LocalCurve.through(tokens, 5 - np.cumsum([0, *steps])[:, None], np.ones(len(tokens)))
    x = math.exp(np.interp(where, [0, 1], np.log(tokens[[0, -1]])))
    worth = curve.worth(curve.log_ppl(x))
    assert worth.bound[0] == 0 and worth.tokens[0] == pytest.approx(x, rel=1e-6)


def test_the_local_curve_knows_nothing_beyond_its_ends_and_stays_falling_under_noise() -> None:
    tokens = np.array([1e5, 3e5, 1e6, 2e6])
    curve = LocalCurve.through(tokens, np.array([[5.0], [4.0], [4.2], [3.5]]), np.array([3.0, 3, 1, 3]))
    assert curve.levels[1] == curve.levels[2] == pytest.approx(4.05)
    assert np.isnan(curve.log_ppl(9e4)[0]) and np.isnan(curve.log_ppl(2.1e6)[0])
    assert curve.log_ppl(2e6)[0] == pytest.approx(3.5)
    more, less = curve.worth(np.array([3.0])), curve.worth(np.array([6.0]))
    assert (more.bound[0], more.tokens[0]) == (1, pytest.approx(2e6))
    assert (less.bound[0], less.tokens[0]) == (-1, pytest.approx(1e5))


@pytest.fixture(scope="module")
def runs():
    return arms(dataclasses.replace(SCALE, orders=(1, 2, 4, 7)))


TENTH, HALF = f"clone 10 %, 1 T, {MAIN}", f"clone 50 %, 1 T, {MAIN}"


@pytest.fixture(scope="module")
def table(runs):
    return World(teff={(TENTH, "clone1"): 2.2, (HALF, "l1"): 0.8, (HALF, "clone1"): 0.8}, noise=5e-4).table(runs)


def test_what_the_world_says_is_measured_by_law_and_by_curve(table: pd.DataFrame) -> None:
    plain, _ = variants(table, ", paper's rate")
    found = measure(plain)
    frame = found.frame.set_index(["arm", "language"])
    for column in ("teff", "teff_local"):
        assert frame.loc[(TENTH, "clone1"), column].mean() == pytest.approx(2.2, rel=0.03)
        assert frame.loc[(HALF, "clone1"), column].mean() == pytest.approx(0.8, rel=0.03)
        alone = found.frame[found.frame.alone]
        assert alone[column].between(0.93, 1.07).all()
    assert set(frame.loc[(TENTH, "clone1"), "reference"]) == {"l1"}
    assert (frame.loc[(TENTH, "clone1"), "tokens_language"] == 300_032).all()
    assert set(frame.loc[(TENTH, "clone1"), "bound"]) == {"exact"}
    ladder = found.ladder("clone1", int(frame.loc[(TENTH, "clone1"), "n_nonembedding"].iloc[0]))
    assert ladder.language == "l1" and len(ladder.points) == 9 and ladder.worst_residual < 0.005
    assert len(found.frame) == len(plain)


def test_two_rules_of_learning_rates_are_no_ladder(table: pd.DataFrame) -> None:
    with pytest.raises(LabError, match="twice"):
        measure(table)
    _, second = variants(table, ", paper's rate")
    assert TENTH in set(second.arm) and set(measure(second).frame.n_nonembedding) == {
        int(table.n_nonembedding[table.arm == TENTH].iloc[0])
    }


def test_a_missing_ladder_is_refused_and_named(table: pd.DataFrame) -> None:
    plain, _ = variants(table, ", paper's rate")
    lost = plain[~(plain.arm.str.startswith("l1,") & plain.arm.str.endswith("nano-2"))]
    with pytest.raises(LabError, match=r"l1 alone are missing .* 0 of at least 4 .*clone 10 %, 1 T, nano-2"):
        measure(lost)
    kept = readable(lost)
    assert not kept.arm.str.endswith("nano-2").any() and TENTH in set(kept.arm)
    assert len(measure(kept).frame) == len(kept)
    without = plain[~plain.arm.str.startswith("l1,")]
    with pytest.raises(LabError, match="No monolingual runs say what tokens of"):
        measure(without)
    assert readable(without).empty


def test_a_bent_ladder_is_known_as_a_misfit_and_the_curve_follows_it(runs) -> None:
    world = World(teff={(TENTH, "clone1"): 2.0}, noise=1e-3, bend=0.05)
    plain, _ = variants(world.table(runs), ", paper's rate")
    found = measure(plain)
    row = found.frame[(found.frame.arm == TENTH) & (found.frame.language == "clone1")]
    assert row.misfit.all()
    assert row.teff_local.mean() == pytest.approx(2.0, rel=0.04)
    assert abs(row.teff.mean() / 2 - 1) > abs(row.teff_local.mean() / 2 - 1)
    straight, _ = variants(World(noise=1e-3, draw=3).table(runs), ", paper's rate")
    main = ladders(straight)["l1", int(row.n_nonembedding.iloc[0])]
    assert not main.misfit


def test_rows_that_are_excluded_or_not_over_are_not_read(table: pd.DataFrame) -> None:
    plain, _ = variants(table, ", paper's rate")
    spoilt = plain.copy()
    seed = spoilt.seed_init == 2
    spoilt.loc[seed & (spoilt.arm == TENTH), ["status", "ppl"]] = ["incomplete", np.nan]
    spoilt.loc[seed & (spoilt.arm == HALF), ["exclusion", "ppl"]] = ["diverged: step 7", 900.0]
    frame = measure(spoilt).frame
    assert (frame[frame.arm.isin([TENTH, HALF])].groupby("arm").seed.nunique() == 2).all()


def test_variances_are_drawn_together_as_far_as_they_agree() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.chisquare(2, 4000) / 2
    alike = moderated(drawn, np.full(4000, 2))
    assert np.std(alike.variance) < 0.1 * np.std(drawn) and (alike.freedom > 15).all() and alike.total == 8000
    spread = np.exp(rng.normal(0, 2, 60))
    apart = moderated(spread * rng.chisquare(2, 60) / 2, np.full(60, 2))
    assert apart.freedom.max() < 5 and np.corrcoef(np.log(apart.variance), np.log(spread))[0, 1] > 0.6
    single = moderated(np.array([1.0, 1.2, 0.8, np.nan]), np.array([2, 2, 2, 0]))
    assert single.variance[3] == pytest.approx(1.0, rel=0.2) and single.freedom[3] > 0
    nothing = moderated(np.array([np.nan]), np.array([0]))
    assert np.isnan(nothing.variance[0]) and nothing.total == 0


def test_a_noisy_language_does_not_lend_its_noise() -> None:
    rng = np.random.default_rng(0)
    language = np.array(["quiet"] * 20 + ["loud"] * 20 + ["rare"])
    variance = np.where(language == "loud", 100.0, 1.0) * rng.chisquare(1, 41)
    freedom = np.where(language == "rare", 0.0, 1.0)
    within, whole = moderated_within(variance, freedom, language), moderated(variance, freedom)
    means = {name: within.variance[language == name].mean() for name in ("quiet", "loud")}
    assert means["quiet"] < 5 < 20 < means["loud"] and within.total == whole.total == 40
    assert within.variance[-1] == whole.variance[-1] and within.freedom[-1] == whole.freedom[-1]
