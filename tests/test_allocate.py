"""Allocation: closed forms, published optima, serving cost, data limits, deadweight loss, and Approaches 1 and 2."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import laws, surface
from analysis.allocate import allocate, exponent
from analysis.audit import flops_per_token, local_exponent
from analysis.frontier import envelope, isoflop, power_law, with_bias
from analysis.optimum import Budget, budget_for, falling_root, minimise, search
from lab.errors import LabError

CHINCHILLA, CPT = laws.get("chinchilla"), laws.get("cpt")
HOFFMANN, BESIROGLU = (p.params for p in CHINCHILLA.published)
CONSTRAINED = laws.get("data-constrained")
MUENNIGHOFF = CONSTRAINED.published[0].params


@pytest.mark.parametrize("params", [HOFFMANN, BESIROGLU])
def test_search_equals_the_closed_form(params: dict) -> None:
    for flops in (1e18, 5.76e23):
        closed, found = CHINCHILLA.optimum(params, flops), search(CHINCHILLA, params, flops, {})
        assert found["N"] == pytest.approx(closed["N"], rel=1e-9)
        assert found["D"] == pytest.approx(closed["D"], rel=1e-9)


@pytest.mark.parametrize(
    ("row", "k_n", "a", "k_d", "b"), [(0, 0.324, 0.429, 0.514, 0.571), (1, 4.79, 0.385, 0.035, 0.615)]
)
def test_published_continual_optima(row: int, k_n: float, a: float, k_d: float, b: float) -> None:
    params = CPT.published[row].params
    low, high = search(CPT, params, 1e18, {}), search(CPT, params, 1e22, {})
    measured_a = math.log(high["N"] / low["N"]) / math.log(1e4)
    assert measured_a == pytest.approx(a, abs=5e-4)
    assert low["N"] / 1e18**measured_a == pytest.approx(k_n, rel=2e-3)
    assert math.log(high["D"] / low["D"]) / math.log(1e4) == pytest.approx(b, abs=5e-4)
    assert low["D"] / 1e18 ** (1 - measured_a) == pytest.approx(k_d, rel=8e-3)


@settings(max_examples=25)
@given(alpha=st.floats(0.2, 1.0), beta=st.floats(0.2, 1.0), a=st.floats(10, 1e3), b=st.floats(10, 1e3))
def test_no_neighbour_on_the_budget_is_better(alpha: float, beta: float, a: float, b: float) -> None:
    params = {"E": 1.5, "A": a, "B": b, "alpha": alpha, "beta": beta}
    n, d, loss, found = minimise(CHINCHILLA, params, Budget(1e20))
    assert found[0] and 6 * n[0] * d[0] == pytest.approx(1e20)
    for factor in (0.9, 1.1):
        assert surface.loss(CHINCHILLA, params, {"N": n[0] * factor, "D": d[0] / factor}) >= loss[0]


def test_repeated_data_has_the_published_optimum_and_a_cap() -> None:
    best = allocate(CONSTRAINED, MUENNIGHOFF, 1e22, unique_tokens=25e9)
    assert best.n == pytest.approx(7.026e9, rel=1e-3)
    assert best.d == pytest.approx(2.372e11, rel=1e-3)
    assert best.epochs == pytest.approx(9.49, abs=0.01) and not best.capped
    capped = allocate(CONSTRAINED, MUENNIGHOFF, 1e21, unique_tokens=1e9, max_epochs=16)
    assert capped.capped and capped.epochs == pytest.approx(16)


def test_serving_moves_to_smaller_models_and_costs_what_it_says() -> None:
    plain = allocate(CHINCHILLA, HOFFMANN, 1e22)
    served = allocate(CHINCHILLA, HOFFMANN, 1e22, inference_tokens=1e12)
    assert served.n < plain.n and served.d > plain.d and served.loss > plain.loss
    assert 6 * served.n * served.d + 2 * served.n * 1e12 == pytest.approx(1e22)


def test_deadweight_loss_is_zero_for_the_truth_and_grows_with_doubt() -> None:
    rng = np.random.default_rng(0)

    def spread(size: float) -> dict[str, np.ndarray]:
        return {k: v * np.exp(size * rng.standard_normal(200)) for k, v in HOFFMANN.items()}

    exact = allocate(CHINCHILLA, HOFFMANN, 1e21, draws={k: np.full(3, v) for k, v in HOFFMANN.items()})
    assert exact.deadweight == pytest.approx(0, abs=1e-6)
    little = allocate(CHINCHILLA, HOFFMANN, 1e21, draws=spread(0.005))
    much = allocate(CHINCHILLA, HOFFMANN, 1e21, draws=spread(0.03))
    assert little.deadweight_high is not None and much.deadweight_high is not None
    assert 0 < little.deadweight_high < much.deadweight_high < 1
    assert little.intervals["n"].low < little.n < little.intervals["n"].high


def test_budget_for_inverts_the_optimal_loss() -> None:
    for flops in (1e19, 1e23):
        loss = minimise(CHINCHILLA, HOFFMANN, Budget(flops))[2]
        assert budget_for(CHINCHILLA, HOFFMANN, loss)[0] == pytest.approx(flops, rel=1e-7)
    assert np.isinf(budget_for(CHINCHILLA, HOFFMANN, 1.5))[0]


def test_a_law_without_an_optimum_is_refused() -> None:
    with pytest.raises(LabError, match="no best size"):
        allocate(CPT, {**CPT.published[1].params, "gamma": 0.3}, 1e20)
    with pytest.raises(LabError, match="no variable U"):
        allocate(CHINCHILLA, HOFFMANN, 1e20, unique_tokens=1e9)
    with pytest.raises(LabError, match="above 0"):
        allocate(CHINCHILLA, HOFFMANN, 0)
    with pytest.raises(LabError, match="has no N"):
        allocate(laws.get("reciprocal-perplexity"), {"a": 1, "b": 1, "c": 1}, 1e20)


def test_falling_root_finds_every_root_and_names_the_missing() -> None:
    targets = np.array([-3.0, 0.0, 2.5, 50.0, -50.0])
    root = falling_root(lambda u: targets - u**3, np.full(5, -3.0), np.full(5, 3.0))
    assert root[:3] == pytest.approx(np.cbrt(targets[:3]), abs=1e-11)
    assert root[3] == np.inf and root[4] == -np.inf


def _grid(params: dict, reach: float, drift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    c = np.repeat(np.geomspace(1e18, 1e22, 5), 9)
    centre = np.array([CHINCHILLA.optimum(params, v)["N"] for v in c]) * (c / 1e20) ** drift
    n = centre * np.tile(np.geomspace(1 / reach, reach, 9), 5)
    return c, n, surface.loss(CHINCHILLA, params, {"N": n, "D": c / (6 * n)})


def test_parabolas_are_biased_in_the_intercept_and_with_drift_in_the_exponent() -> None:
    centred = with_bias(isoflop, *_grid(HOFFMANN, 10, 0), CHINCHILLA, HOFFMANN)
    assert centred.size.exponent == pytest.approx(28 / 62, abs=1e-9)
    assert centred.bias is not None and abs(centred.bias[0]) > 0.02 and abs(centred.bias[2]) < 1e-9
    drifting = with_bias(isoflop, *_grid(HOFFMANN, 10, 0.1), CHINCHILLA, HOFFMANN)
    assert drifting.bias is not None and abs(drifting.bias[2]) > 1e-3
    # Noise-free runs of the law itself: what the replay reports is the error made.
    error = drifting.size(np.array([1e18]))[0] / CHINCHILLA.optimum(HOFFMANN, 1e18)["N"] - 1
    assert drifting.bias[0] == pytest.approx(error)


def test_envelope_of_many_sizes_is_near_the_law() -> None:
    n = np.repeat(np.geomspace(1e7, 1e10, 40), 60)
    c = np.tile(np.geomspace(1e18, 1e22, 60), 40)
    loss = surface.loss(CHINCHILLA, HOFFMANN, {"N": n, "D": c / (6 * n)})
    found = envelope(c, n, loss)
    assert found.size.exponent == pytest.approx(28 / 62, abs=0.02)


def test_frontier_tables_are_checked() -> None:
    with pytest.raises(LabError, match="two budgets"):
        power_law(np.ones(3), np.ones(3))
    with pytest.raises(LabError, match="parabola per budget"):
        isoflop(np.geomspace(1e18, 1e20, 9), np.geomspace(1e6, 1e8, 9), np.linspace(4, 3, 9))


def test_pearce_song_exponents_of_non_embedding_counts() -> None:
    """arXiv:2406.12907: from a Chinchilla law in total N, the exponents a non-embedding count would show."""

    class NonEmbedding(type(CHINCHILLA)):  # type: ignore[misc]
        name = "chinchilla-in-non-embedding"

        def log_basis(self, p, x):  # type: ignore[no-untyped-def]
            total = x["N"] + 47491 * x["N"] ** (1 / 3)
            return super().log_basis(p, {**x, "N": total})

    law = NonEmbedding()
    sizes = np.geomspace(768, 1e14, 400)
    per_token = flops_per_token(sizes, 6 * sizes)

    def slope(low: float, high: float) -> float:
        """Exponent between the budgets whose best sizes are `low` and `high`."""
        grid = np.geomspace(1e6, 1e30, 60)
        best = minimise(law, BESIROGLU, Budget(grid))[0]
        ends = np.interp(np.log([low, high]), np.log(best), np.log(grid))
        return local_exponent(law, BESIROGLU, per_token, *np.exp(ends))

    assert slope(1e5, 1e7) == pytest.approx(0.92, abs=0.01)
    assert slope(1e7, 1e9) == pytest.approx(0.63, abs=0.01)
    assert slope(1e11, 1e13) == pytest.approx(0.513, abs=0.002)
    assert exponent(CHINCHILLA, BESIROGLU, 1e18, 1e22) == pytest.approx(0.3658 / (0.3658 + 0.3478))


def test_published_frontier_exponents() -> None:
    """arXiv:2406.19146: all 15 exponents, by least squares and weighted by 1/variance, to rounding."""
    folder = Path(__file__).parents[1] / "../shared/data/fits/porian"
    if not folder.exists():
        pytest.skip("the released optimal pairs are not on this machine")
    pairs = pd.read_csv(folder / "optimal_pairs.csv")
    published = json.loads((folder / "published_fits.json").read_text())
    keys = ("dataset", "hparams", "warmup", "decay", "param_count", "val", "file")
    assert len(published) == 15
    for row in published:
        rows = pairs[np.logical_and.reduce([pairs[k] == row[k] for k in keys])].dropna(subset=["n"])
        c, n, weight = rows.flops.to_numpy(), rows.n.to_numpy(), 1 / rows.n_star_std.to_numpy() ** 2
        assert power_law(c, n).exponent == pytest.approx(row["basic"]["n_exponent"], abs=2e-15)
        assert power_law(c, n, weight).exponent == pytest.approx(row["weighted"]["n_exponent"], abs=2e-15)
