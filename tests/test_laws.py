"""What the laws say of themselves, and the published numbers and closed forms behind them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_designs import BODY, DESIGNS, loss
from scipy.optimize import minimize

from analysis import laws
from analysis.law import Law
from analysis.laws.atlas import Atlas, AtlasCurse, iso_loss
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.constrained import repeated
from analysis.laws.families import optimal_shares
from analysis.laws.repetition import RepetitionMixture
from analysis.laws.replay import BethunePretraining
from analysis.laws.schedule import annealing
from analysis.laws.transfer import log_effective_tokens
from analysis.laws.vocabulary import TaoVocabulary, tokens_per_character
from lab.errors import LabError

GOLDEN = Path(__file__).parents[2] / "shared" / "reference" / "golden" / "cpt.json"


# Laws and their names


def test_every_law_says_what_it_is() -> None:
    assert len(laws.names()) >= 18
    for name in laws.names():
        law = laws.get(name)
        assert law.name == name and law.source and law.variables
        names = [p.name for p in law.parameters]
        assert len(set(names)) == len(names) > 1
        for p in law.parameters:
            assert p.lower <= p.start[0] < p.start[1] <= p.upper or p.role == "coefficient", p.name
        for published in law.published:
            assert set(published.params) <= set(names) and published.source


def test_every_law_has_a_design() -> None:
    assert {name.split(":")[0] for name in DESIGNS} == set(laws.names())


def test_a_law_with_options_is_found_again_by_its_name() -> None:
    law = laws.get("atlas:sources=fr,other")
    assert law.name == "atlas:sources=fr,other" and laws.get(law.name) == law == Atlas(("fr", "other"))
    assert [v.name for v in law.variables] == ["N", "D", "U", "D_fr", "D_other", "U_fr", "U_other"]
    assert [p.name for p in law.parameters][-2:] == ["tau_fr", "tau_other"]
    assert laws.get("ye-mixing:domains=web,code").parameters[-1].name == "t_code"
    assert laws.get("additive-mixture").name == "additive-mixture"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("atlas:source=fr", "no option 'source=fr'.*sources"),
        ("atlas:sources", "no option 'sources'"),
        ("atlas:sources=", "distinct plain names"),
        ("atlas:sources=fr,fr", "distinct plain names"),
        ("ye-mixing:domains=a b", "distinct plain names"),
        ("kaplan:k=1", "kaplan has no option.*none"),
        ("atlass:sources=fr", "Unknown law 'atlass'"),
    ],
)
def test_wrong_options_are_named(name: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        laws.get(name)


# Published numbers


def test_cpt_closed_forms() -> None:
    """arXiv:2407.02118, table 2 and section 4: N = .324 C^.429 from scratch, 4.79 C^.385 continued; the frontiers."""
    scratch, continued = laws.get("cpt").published
    for published, (n_factor, n_power), (d_factor, d_power) in (
        (scratch, (0.324, 0.429), (0.514, 0.571)),
        (continued, (4.79, 0.385), (0.035, 0.615)),
    ):
        p = dict(published.params)
        one, large = laws.get("cpt").optimum(p, 1.0), laws.get("cpt").optimum(p, 1e20)
        assert (one["N"], one["D"]) == (pytest.approx(n_factor, rel=0.002), pytest.approx(d_factor, rel=0.02))
        assert math.log10(large["N"] / one["N"]) / 20 == pytest.approx(n_power, abs=5e-4)
        assert math.log10(large["D"] / one["D"]) / 20 == pytest.approx(d_power, abs=5e-4)
        assert Law.optimum(laws.get("cpt"), p, 1e21)["N"] == pytest.approx(
            laws.get("cpt").optimum(p, 1e21)["N"], rel=1e-6
        )


def test_published_frontiers_save_what_the_text_says() -> None:
    """arXiv:2407.02118: 25 to 50 % of the compute at equal loss."""
    law = laws.get("frontier")
    scratch, continued = (dict(p.params) for p in law.published)
    savings = []
    for flops in (1e18, 1e19, 1e20, 1e21, 1e22):
        level = loss(law, scratch, C=flops)
        savings.append(1 - (continued["A"] / level) ** (1 / continued["gamma"]) / flops)
        assert loss(law, continued, C=(1 - savings[-1]) * flops) == pytest.approx(level)
    assert savings == pytest.approx([0.469, 0.461, 0.452, 0.443, 0.434], abs=6e-4)


def test_cpt_golden_file() -> None:
    if not GOLDEN.is_file():
        pytest.skip("needs ../shared/reference/golden/cpt.json")
    golden = json.loads(GOLDEN.read_text())
    law = laws.get("cpt")
    for published, key in zip(law.published, ("scratch", "cpt"), strict=True):
        table = golden["table2"][key]
        assert dict(published.params) == {"gamma": 0.0, **table}
        best = {c: law.optimum(table | {"gamma": table.get("gamma", 0.0)}, c) for c in (1.0, 1e20)}
        for variable, power in zip("ND", golden["exponents"][key], strict=True):
            constant = golden["opt"][key][f"k{variable}"]
            assert best[1.0][variable] == pytest.approx(constant, rel=0.02)
            assert math.log10(best[1e20][variable] / best[1.0][variable]) / 20 == pytest.approx(power, abs=5e-4)
    for published, key in zip(laws.get("frontier").published, ("scratch", "cpt"), strict=True):
        assert [published.params["A"], -published.params["gamma"]] == golden["frontier"][key]


def test_kaplan_optimum() -> None:
    """N grows as C^.575 by the published L(N, D); the closed form is where the search ends."""
    law = laws.get("kaplan")
    p = dict(law.published[0].params)
    small, large = law.optimum(p, 1e18), law.optimum(p, 1e22)
    assert math.log(large["N"] / small["N"]) / math.log(1e4) == pytest.approx(0.575, abs=1e-3)
    assert Law.optimum(law, p, 1e20)["N"] == pytest.approx(law.optimum(p, 1e20)["N"], rel=1e-6)


def test_kaplan_limits() -> None:
    """With no shortage of one kind the other's own power law remains."""
    law = laws.get("kaplan")
    p = dict(law.published[0].params)
    assert loss(law, p, N=1e9, D=1e60) == pytest.approx((6.4e13 / 1e9) ** 0.076)
    assert loss(law, p, N=1e60, D=1e10) == pytest.approx((1.8e13 / 1e10) ** 0.103)


def test_k_cancels_from_the_optimum_of_skaling() -> None:
    p = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "k": 0.4}
    law = laws.get("skaling")
    closed = law.optimum(p, 1e21)
    assert closed == Chinchilla().optimum(p, 1e21)
    assert Law.optimum(law, p, 1e21)["N"] == pytest.approx(closed["N"], rel=1e-6)
    assert loss(law, {**p, "k": 1.0}, N=1e8, D=1e10) == pytest.approx(loss(Chinchilla(), p, N=1e8, D=1e10))


def test_atlas_price_of_languages() -> None:
    """arXiv:2510.22037: K -> 4K asks for 1.40 times N and 2.74 times all tokens; C grows as r^.97."""
    p = dict(laws.get("atlas-curse").published[0].params)
    four = iso_loss(p, 4.0)
    assert (four.n, four.d_total) == (pytest.approx(1.40, abs=0.01), pytest.approx(2.74, abs=0.01))
    assert math.log(four.flops, 4) == pytest.approx(0.97, abs=0.005)
    full = {**p, "E": 1.5, "A": 400.0, "B": 20.0}
    before = loss(AtlasCurse(), full, N=1e9, D=1e10, K=5)
    assert loss(AtlasCurse(), full, N=four.n * 1e9, D=four.d_language * 1e10, K=20) == pytest.approx(before)


@pytest.mark.parametrize("tau", [-0.2, 0.0, 0.4, 1.0])
def test_atlas_transfer_is_worth_in_target_tokens(tau: float) -> None:
    """TEff of a 50/50 run is 1 + tau, so the bilingual transfer score 2 (1 - 1/TEff) is 0 at tau 0 and 1 at tau 1."""
    p = {**BODY, "lam": 0.1, "tau_other": tau}
    halves = loss(Atlas(), p, N=1e9, D=1e10, D_other=1e10)
    assert loss(Atlas(), p, N=1e9, D=(1 + tau) * 1e10, D_other=0) == pytest.approx(halves, rel=1e-12)


def test_saturation_is_muennighoffs_and_atlas_alike() -> None:
    with jax.enable_x64(True):
        worth = np.asarray(repeated(jnp.array([0.0, 1e9, 2e9, 9e9, 1e15]), 2e9, 15.387756))
    assert worth[1:3] == pytest.approx([1e9, 2e9])
    lam, u = 1 / 15.387756, 2e9
    assert worth[3] == pytest.approx(u * (1 + (1 - math.exp(-lam * 3.5)) / lam))
    assert worth[4] == pytest.approx(u * (1 + 15.387756))
    assert worth[0] == 0


def test_hernandez_multiplier() -> None:
    """The data multiplier is 1 + k N^b / D^(1 - a); from scratch it is 1."""
    p = {"k": 1.9e4, "a": 0.18, "b": 0.38}
    x = {"N": 4e7, "D": 3e5}
    with jax.enable_x64(True):
        continued, scratch = (float(log_effective_tokens(p, {**x, "pretrained": jnp.array(v)})) for v in (1.0, 0.0))
    assert continued - math.log(3e5) == pytest.approx(math.log(1 + 1.9e4 * 4e7**0.38 / 3e5**0.82), rel=1e-12)
    assert scratch == pytest.approx(math.log(3e5))


def test_bethune_share_inverts_the_law() -> None:
    """B from 829 to 1e4 makes 1 % of replay act as a model 9.3 to 101 times larger; `share_for` undoes the law."""
    law = BethunePretraining()
    for b, times in ((829.0, 9.29), (1e4, 101.0)):
        p = {"A": 4.0, "alpha": 0.6, "beta": 0.4, "B": b}
        replayed = loss(law, p, N=1e8, D=1e7, p=0.01, L0=2.5)
        assert replayed == pytest.approx(loss(law, p, N=times * 1e8, D=1e7, p=0, L0=2.5), rel=1e-12)
        rise = 0.3 * (loss(law, p, N=1e8, D=1e7, p=0, L0=2.5) - 2.5)
        share = law.share_for(p, rise, 1e8, 1e7)
        assert 0 < share < 0.05
        assert loss(law, p, N=1e8, D=1e7, p=share, L0=2.5) - 2.5 == pytest.approx(rise, rel=1e-9)
        assert law.share_for(p, 10.0, 1e8, 1e7) == 0
    with pytest.raises(LabError, match="above 0"):
        law.share_for(p, 0.0, 1e8, 1e7)
    with pytest.raises(LabError, match="No injected share"):
        law.share_for(p, 1e-9, 1e8, 1e7)


@given(
    c=st.lists(st.floats(0.5, 8), min_size=1, max_size=8),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_he_shares_satisfy_the_optimality_conditions(c: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    gamma, w = rng.uniform(0.005, 0.6, len(c)), rng.uniform(0.1, 3, len(c))
    p = optimal_shares(c, gamma, w)
    assert abs(p.sum() - 1) < 1e-12 and np.all(p > 0)
    slope = w * np.array(c) * gamma * p ** -(1 + gamma)
    assert np.ptp(slope) / slope.mean() < 1e-8


def test_he_shares_beat_a_general_optimiser() -> None:
    c, g, w = np.array([2.1, 2.9, 3.4]), np.array([0.05, 0.11, 0.2]), np.array([1.0, 2.0, 0.5])

    def total(p: np.ndarray) -> float:
        return float(np.sum(w * c * p**-g))

    found = minimize(
        total, np.full(3, 1 / 3), method="SLSQP", bounds=[(1e-3, 1)] * 3, tol=1e-14,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
    )  # fmt: skip
    best = optimal_shares(c, g, w)
    assert total(best) <= found.fun + 1e-12
    np.testing.assert_allclose(best, found.x, atol=1e-5)
    for bad in (([1.0], [0.1, 0.2]), ([1.0, 0.0], [0.1, 0.1]), ([], [])):
        with pytest.raises(LabError):
            optimal_shares(*bad)


def test_annealing_columns() -> None:
    """A single drop Delta at step s gives S2 = Delta (1 - lam^n) / (1 - lam) after n steps, and S1 the area."""
    eta = np.r_[np.full(10, 3e-3), np.full(20, 1e-3)]
    s1, s2 = annealing(eta, decay=0.99)
    assert s1[-1] == pytest.approx(0.05)
    steps = np.arange(1, 21)
    np.testing.assert_allclose(s2[:10], 0, atol=1e-18)
    sums = [sum((1 - 0.99**j) / 0.01 - (1 - 0.99 ** (j - 1)) / 0.01 for j in range(1, n + 1)) for n in steps]
    np.testing.assert_allclose(s2[10:], 2e-3 * np.array(sums))
    warm = np.r_[np.linspace(1e-4, 1e-3, 10), np.full(10, 1e-3)]
    assert annealing(warm)[1][-1] < 0 and np.all(annealing(warm, warmup=9)[1] == 0)
    for bad in ([], [[1.0]], [-1.0]):
        with pytest.raises(LabError):
            annealing(bad)


def test_vocabulary_curve_and_optimum() -> None:
    curve = [tokens_per_character(v) for v in (4096, 32_000, 100_000)]
    assert curve == pytest.approx([0.332, 0.252, 0.232], abs=1e-3)
    law, p = TaoVocabulary(), DESIGNS["tao-vocabulary"].truth
    sizes = [law.best_vocabulary(p, n, 64 * (n / 1e6) ** 0.4, 120 * n**2) for n in (1e8, 1e9, 1e10)]
    assert sizes == sorted(sizes)
    best, width = sizes[1], 64 * 1e3**0.4
    around = [
        loss(law, p, N_nv=1e9, N_v=v * width, D=20e18 / (1e9 + v * width)) for v in (0.98 * best, best, 1.02 * best)
    ]
    assert around[1] == min(around)


def test_repetition_gives_an_interior_share() -> None:
    """A scarce target has a best share below 1, repeated several times; more unique text raises it."""
    law, p = RepetitionMixture(), DESIGNS["repetition-mixture"].truth
    shares = [law.best_share(p, 4e8, 1e10, u) for u in (1e7, 1e8, 1e9)]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    assert 2 < shares[1] * 1e10 / 1e8 < 100
    here = loss(law, p, N=4e8, D=1e10, h=shares[1], U=1e8)
    assert here <= min(loss(law, p, N=4e8, D=1e10, h=f * shares[1], U=1e8) for f in (0.9, 1.1))


def test_d_cpt_smallest_share() -> None:
    law, p = laws.get("d-cpt"), DESIGNS["d-cpt"].truth
    level = loss(law, p, N=1e9, D=1e9, r=0.25)
    assert law.smallest_share(p, level, 1e9, 1e9) == pytest.approx(0.25, abs=1e-4)
    with pytest.raises(LabError, match="No share"):
        law.smallest_share(p, 1.0, 1e9, 1e9)
