"""The solver against brute force, on tables made here."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from analysis import fit, laws
from analysis.identify import null_directions
from analysis.objective import Objective
from lab.errors import LabError

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def points(
    sizes: int = 8, each: int = 6, sigma: float = 0.0, seed: int = 0, truth: dict[str, float] = TRUTH
) -> pd.DataFrame:
    n = np.repeat(np.geomspace(2e7, 5e9, sizes), each)
    d = n * np.tile(np.geomspace(2, 500, each), sizes)
    loss = truth["E"] + truth["A"] / n ** truth["alpha"] + truth["B"] / d ** truth["beta"]
    errors = np.random.default_rng(seed).standard_t(3, len(n)) * sigma
    return pd.DataFrame({"N": n, "D": d, "loss": loss * np.exp(errors)})


def brute_force(frame: pd.DataFrame, delta: float, starts: int, seed: int) -> float:
    """Least Huber objective over many scipy runs from random starts, in log coefficients at the pivot."""
    x, v, y = np.log(frame.N.to_numpy()), np.log(frame.D.to_numpy()), np.log(frame.loss.to_numpy())
    x, v = x - x.mean(), v - v.mean()

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        parts = np.stack([np.full_like(y, p[0]), p[1] - p[3] * x, p[2] - p[4] * v])
        top = parts.max(0)
        share = np.exp(parts - top)
        r = top + np.log(share.sum(0)) - y
        share /= share.sum(0)
        psi = np.clip(r, -delta, delta)
        grad = np.array([psi @ share[0], psi @ share[1], psi @ share[2], -psi @ (share[1] * x), -psi @ (share[2] * v)])
        size = np.abs(r)
        return 1e6 * np.sum(np.where(size < delta, 0.5 * r * r, delta * (size - delta / 2))), 1e6 * grad

    rng = np.random.default_rng(seed)
    best = np.inf
    for _ in range(starts):
        p0 = np.array(
            [rng.uniform(-2, 1), rng.uniform(-3, 1), rng.uniform(-3, 1), rng.uniform(0, 1.5), rng.uniform(0, 1.5)]
        )
        found = minimize(value, p0, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
        if found.x[3] >= 0 and found.x[4] >= 0:
            best = min(best, float(found.fun) / 1e6)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_never_above_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = {
        "E": rng.uniform(0.3, 2.5), "alpha": (al := rng.uniform(0.1, 0.8)), "beta": (be := rng.uniform(0.1, 0.8)),
        "A": rng.uniform(0.1, 1.5) * 3e8**al, "B": rng.uniform(0.1, 1.5) * 5e9**be,
    }  # fmt: skip
    sigma = float(10 ** rng.uniform(-3.3, -1.3))
    frame = points(8, 6, sigma, seed, truth).sample(40, random_state=seed)  # a hole here and there
    result = fit(frame)
    oracle = brute_force(frame, 1e-3, 25, seed)
    assert result.value <= oracle * (1 + 1e-8)


@pytest.mark.parametrize("name", ["tied", "chinchilla"])
def test_noise_free_data_gives_the_law_back(name: str) -> None:
    truth = {**TRUTH, "beta": 0.35} if name == "tied" else TRUTH
    result = fit(points(truth=truth), name)
    assert result.status == "converged"
    for k, v in result.params.items():
        assert v == pytest.approx(truth[k], rel=1e-6)
    assert result.reached == 1.0


@pytest.mark.parametrize("objective", ["squares-log", "squares-linear", "huber-linear", "absolute-log"])
def test_objectives_against_a_simplex_polish(objective: str) -> None:
    """No step of Nelder-Mead from our optimum finds a lower value of the objective as defined."""
    frame = points(6, 4, 0.01, 3)
    result = fit(frame, "tied", objective=objective)
    x = {"N": frame.N.to_numpy(), "D": frame.D.to_numpy()}
    names = list(result.params)

    def value(logs: np.ndarray) -> float:
        p = dict(zip(names, np.exp(logs), strict=True))
        pred = p["E"] + p["A"] / x["N"] ** p["alpha"] + p["B"] / x["D"] ** p["alpha"]
        r = np.log(pred / frame.loss.to_numpy()) if objective.endswith("log") else pred - frame.loss.to_numpy()
        size = np.abs(r)
        if objective.startswith("squares"):
            return float(np.sum(0.5 * r * r))
        if objective.startswith("absolute"):
            return float(np.sum(size))
        return float(np.sum(np.where(size < 1e-3, 0.5 * r * r, 1e-3 * (size - 0.5e-3))))

    at = np.log([result.params[k] for k in names])
    assert value(at) == pytest.approx(result.value, rel=1e-9)
    polished = minimize(value, at, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-18, "maxiter": 4000})
    assert result.value <= polished.fun * (1 + 1e-8)


def test_objective_is_a_sum_not_a_mean() -> None:
    frame = points(6, 4, 0.01, 1)
    twice = fit(pd.concat([frame, frame.assign(loss=frame.loss * (1 + 1e-12))]), "tied")
    assert twice.value == pytest.approx(2 * fit(frame, "tied").value, rel=1e-6)


def test_weights_count_rows() -> None:
    frame = points(6, 4, 0.01, 1)
    heavy = np.where(np.arange(len(frame)) % 5 == 0, 3.0, 1.0)
    repeated = pd.concat(
        [frame] + [frame[heavy > 1].assign(loss=lambda f, k=k: f.loss * (1 + k * 1e-13)) for k in (1, 2)]
    )
    weighted = fit(frame.assign(w=heavy), "tied", weight="w")
    assert weighted.value == pytest.approx(fit(repeated, "tied").value, rel=1e-8)


def test_noise_from_replicate_seeds() -> None:
    frame = pd.concat([points(6, 4, 0.004, s) for s in range(3)])
    result = fit(frame, "tied", noise="replicates")
    assert result.objective.delta == pytest.approx(1.345)
    # Student-3 errors of scale .004 have standard deviation .0069
    assert 0.003 < float(np.median(result.table.noise)) < 0.014


def test_frozen_parameters_stay() -> None:
    frame = points(6, 4, 0.005, 2)
    result = fit(frame, frozen={"E": 1.8, "beta": 0.37})
    assert set(result.params) == {"A", "B", "alpha"}
    assert result.params_of()["E"] == 1.8
    assert result.value >= fit(frame).value


def test_groups_share_what_is_named() -> None:
    other = {**TRUTH, "E": 2.2, "B": 3000.0}
    frame = pd.concat([points().assign(lang="fr"), points(truth=other).assign(lang="de")]).sample(
        frac=1, random_state=0
    )
    result = fit(frame, group="lang", shared=("A", "alpha", "beta"))
    assert result.status == "converged"
    assert result.params["A"] == pytest.approx(480.0, rel=1e-6)
    assert result.params["E[fr]"] == pytest.approx(1.8, rel=1e-6)
    assert result.params["B[de]"] == pytest.approx(3000.0, rel=1e-6)
    assert result.params_of("de")["E"] == pytest.approx(2.2, rel=1e-6)
    np.testing.assert_allclose(result.fitted, result.table.loss, rtol=1e-9)
    with pytest.raises(LabError, match="Name one: de, fr"):
        result.params_of()


def test_no_irreducible_loss_is_a_bound_hit() -> None:
    n = points()
    frame = n.assign(loss=40 / n.N**0.1 + 30 / n.D**0.12 - 0.3)
    result = fit(frame)
    assert result.status in ("bound hit", "degenerate")
    assert any("E is at its lower bound 0" in f.text for f in result.flags)


def test_steep_exponent_is_degenerate_not_hidden() -> None:
    frame = points()
    frame["loss"] = 2.0 + 100 / frame.D**0.3
    frame.loc[frame.N.min() == frame.N, "loss"] += 0.5  # only the smallest size is worse: alpha wants to be huge
    result = fit(frame)
    assert result.status in ("degenerate", "bound hit")
    assert any("alpha" in f.text for f in result.flags)


def test_line_design_names_the_null_direction() -> None:
    n = np.geomspace(4e7, 5e9, 12)
    p = {"E": 1.55, "A": 420.0, "alpha": 0.4, "B": 433.3, "beta": 0.2, "gamma": 0.08}
    law = laws.get("cpt")
    (direction,) = null_directions(law, {"N": n, "D": 20 * n}, p, frozen=("E", "A", "alpha"))
    assert set(direction.weights) == {"beta", "gamma"}
    assert direction.weights["beta"] == pytest.approx(-direction.weights["gamma"], rel=1e-6)
    assert "beta and gamma cannot be told apart" in direction.text or "gamma and beta cannot" in direction.text
    full = {"N": np.tile(n, 4), "D": np.repeat([5, 20, 80, 320], 12) * np.tile(n, 4)}
    assert null_directions(law, full, p) == ()
    frame = pd.DataFrame({"N": n, "D": 20 * n, "loss": 1.55 + 420 * n**-0.4 + 433.3 * (20 * n) ** -0.2 * n**-0.08})
    result = fit(frame, law, frozen={k: p[k] for k in ("E", "A", "alpha")})
    assert result.status == "not identified"
    assert not result.identified


def test_one_size_is_not_identified() -> None:
    frame = points()
    result = fit(frame[frame.N.max() == frame.N].assign(k=1))
    assert result.status == "not identified"


def test_user_law_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mylaw.py").write_text(
        "import jax.numpy as jnp\n"
        "from analysis import Law\n"
        "from analysis.law import D, coefficient, exponent\n"
        "class MyLaw(Law):\n"
        "    name, source, variables = 'mine', 'me', (D,)\n"
        "    parameters = (coefficient('E'), coefficient('B'), exponent('beta'))\n"
        "    def log_basis(self, p, x):\n"
        "        return {'E': 0.0, 'B': -p['beta'] * jnp.log(x['D'])}\n"
    )
    d = np.geomspace(1e8, 1e11, 12)
    result = fit(pd.DataFrame({"D": d, "loss": 2 + 900 / d**0.3}), f"{tmp_path}/mylaw.py:MyLaw")
    assert result.params["beta"] == pytest.approx(0.3, rel=1e-6)
    with pytest.raises(LabError, match="defines no law"):
        laws.load(f"{tmp_path}/mylaw.py:Other")


def test_precision_of_the_caller_is_untouched() -> None:
    fit(points(6, 4), "tied")
    assert jax.numpy.ones(1).dtype == jax.numpy.float32
    assert not jax.config.jax_enable_x64


def test_objective_instance_and_name_agree() -> None:
    frame = points(6, 4, 0.01, 4)
    by_name = fit(frame, "tied", objective="huber-linear", delta=2e-3)
    assert by_name.value == fit(frame, "tied", objective=Objective("huber", "linear", 2e-3)).value
