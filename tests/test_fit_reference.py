"""Published tables: the objective reaches the known exact optimum, or lower, at the default settings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, laws
from analysis.law import check_claims

TABLES = Path(__file__).parents[1] / ".." / "shared" / "data" / "fits"
GOLDEN = Path(__file__).parents[1] / ".." / "shared" / "reference" / "golden"
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="reference tables are not beside the repository")
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden numbers are not beside the repository")

# objective; a, b, e, alpha, beta at delta 1e-3, printed digits
GEMSTONES = {
    ("cool_end", False): (0.00196408643, 5.4211, 12.5123, 0.7299, 0.3004, 0.5802),
    ("cool_end", True): (0.00171324183, 4.9779, 13.5901, 0.7329, 0.2799, 0.6266),
    ("hot", False): (0.00198161281, 5.3617, 15.4185, 0.7623, 0.2929, 0.7130),
    ("hot_100b+", False): (0.00659253416, 4.9016, 12.8518, 0.6683, 0.2592, 0.5973),
    ("hot_100b+", True): (0.00539394913, 4.5325, 13.0993, 0.6665, 0.2424, 0.6062),
}


def gemstones(name: str, no_embeds: bool) -> pd.DataFrame:
    frame = pd.read_json(TABLES / "gemstones" / f"fitting_{name}.jsonl", lines=True)
    body = 50304 * frame["width"] if no_embeds else 0
    return frame.assign(N=frame["params_active_precise"] - body, D=frame["tokens"], loss=frame["final_loss"])


@needs_tables
@pytest.mark.parametrize(("name", "no_embeds"), list(GEMSTONES))
def test_gemstones(name: str, no_embeds: bool) -> None:
    objective, a, b, e, alpha, beta = GEMSTONES[name, no_embeds]
    result = fit(gemstones(name, no_embeds), n="N", d="D", loss="loss")
    assert result.status == "converged"
    assert result.value <= objective + 0.5e-11
    found = [math.log(result.params[k]) for k in ("A", "B", "E")] + [result.params["alpha"], result.params["beta"]]
    np.testing.assert_allclose(found, [a, b, e, alpha, beta], atol=6e-5)


@needs_tables
@pytest.mark.parametrize("delta", [1e-3, 1e-4])
@pytest.mark.parametrize("name", ["cool_end", "hot", "hot_100b+", "slim_chinchilla"])
def test_never_above_the_published_objective(name: str, delta: float) -> None:
    file = f"delta{round(math.log10(delta))}__approach_3_parameters_grid_search_0_{name}.json"
    published = json.loads((TABLES / "gemstones" / "parameters" / file).read_text())["loss"]["0"]
    frame = pd.read_json(TABLES / "gemstones" / f"fitting_{name}.jsonl", lines=True)
    result = fit(frame, n="params_active_precise", d="tokens", loss="final_loss", delta=delta)
    assert result.value <= published * (1 + 1e-9) + 0.5e-10


REPEATS = {"E": math.exp(0.6254804), "A": math.exp(6.255414), "B": math.exp(7.3049974), "alpha": 0.3526596}


@needs_tables
def test_repeated_data_lowest_of_five_basins() -> None:
    frame = pd.read_csv(TABLES / "datablations" / "runs_paperfit_182.csv")
    result = fit(frame, "data-constrained", n="params", d="tokens", columns={"U": "unique_tokens"}, loss="val_loss",
                 frozen=REPEATS)  # fmt: skip
    assert result.value <= 0.01580466 + 0.5e-8
    assert result.params["R_D"] == pytest.approx(95.4, abs=0.05)
    assert result.params["R_N"] == pytest.approx(1.706, abs=5e-4)
    assert result.status == "several minima"
    published = min(result.minima, key=lambda m: abs(m.params["R_D"] - 15.387756))
    assert published.objective == pytest.approx(0.0158259366, rel=1e-6)
    assert len(result.minima) == 4


def test_repeated_data_published_values() -> None:
    law = laws.get("data-constrained")
    p = {**REPEATS, "R_D": 15.387756, "R_N": 5.309743}
    frame = pd.DataFrame({"N": [6.34e9, 8.67e9], "D": [242e9, 178e9], "U": [25e9, 25e9]})
    import jax

    with jax.enable_x64(True):
        loss = np.exp(law.log_pred(p, {k: frame[k].to_numpy() for k in frame}))
    np.testing.assert_allclose(loss, [2.22564, 2.22696], atol=6e-6)
    best = law.optimum(p, 1e22, {"U": 25e9})
    assert best["N"] == pytest.approx(7.026e9, rel=1e-4)
    assert best["D"] == pytest.approx(2.372e11, rel=2e-4)
    capped = law.optimum(p, 1e21, {"U": 1e9})
    assert capped["D"] == pytest.approx(20e9)  # left to itself the law asks for 94 epochs
    assert 6 * capped["N"] * capped["D"] == pytest.approx(1e21)


def test_token_law_inverts_to_published_equivalents() -> None:
    law = laws.get("reciprocal-perplexity")
    english, french = (dict(p.params) for p in law.published)
    assert law.floor(english) / 1_197_015_040 == pytest.approx(0.023635, abs=5e-7)
    assert law.floor(french) / 1_197_015_040 == pytest.approx(0.021729, abs=1e-6)
    assert math.exp(law.ceiling(english)) == pytest.approx(11.8955, abs=1e-4)
    # small model, 10 % / 90 % English and French: perplexities and MLTE as published
    assert law.tokens_for(english, math.log(28.904887)) == pytest.approx(3.654042e8, rel=3e-6)
    assert law.tokens_for(french, math.log(19.334022)) == pytest.approx(4.941481e8, rel=3e-6)
    assert law.tokens_for(english, math.log(11.8)) == math.inf


@needs_golden
def test_continual_closed_forms_and_the_failed_claim() -> None:
    golden = json.loads((GOLDEN / "cpt.json").read_text())
    law = laws.get("cpt")
    for arm in ("scratch", "cpt"):
        p = {"gamma": 0.0, **golden["table2"][arm]}
        one, two = law.optimum(p, 1e18), law.optimum(p, 1e22)
        exponent = math.log(two["N"] / one["N"]) / math.log(1e4)
        assert exponent == pytest.approx(golden["exponents"][arm][0], abs=6e-4)
        rounded = golden["exponents"][arm][0]
        assert one["N"] / 1e18**exponent == pytest.approx(golden["opt"][arm]["kN"], rel=0.02), rounded
    n = np.geomspace(4e7, 5e9, 8)
    verdicts = {v.claim: v for v in check_claims(law, law.published[1].params, {"N": n, "D": 20 * n})}
    assert not verdicts["below scratch"].holds
    assert verdicts["falls with N"].holds and verdicts["falls with D"].holds
