"""Noise-free data of a law gives its parameters back, or `not identified` with the direction that is unseen."""

from __future__ import annotations

import jax
import numpy as np
import pandas as pd
import pytest
from law_designs import BODY, DESIGNS, Design, factorial, grid, losses
from scipy.optimize import least_squares

from analysis import fit, laws
from analysis.identify import null_directions

# Each fit compiles its law anew, which takes seconds; the rest run with the slow tests.
QUICK = ("frontier", "bethune-pretraining", "kaplan")


def check_fit(design: Design) -> None:
    result = fit(design.frame(), design.law)
    assert result.status == "converged", result.flags
    for name, value in design.truth.items():
        assert result.params[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("name", QUICK)
def test_fit_recovers_the_law(name: str) -> None:
    check_fit(DESIGNS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DESIGNS if n not in QUICK])
def test_fit_recovers_every_other_law(name: str) -> None:
    check_fit(DESIGNS[name])


@pytest.mark.parametrize("name", list(DESIGNS))
def test_least_squares_returns_to_the_truth(name: str) -> None:
    """A solver that shares no code with ours finds the parameters again from 10 % away, by the law's derivatives."""
    design, law = DESIGNS[name], laws.get(name)
    names = list(design.truth)
    truth = np.array([design.truth[k] for k in names])
    # Amounts are stepped in logarithms, so that one step size suits E and Nc alike.
    logs = np.array([law.parameter[k].scale == "log" for k in names])

    with jax.enable_x64(True):
        x = {k: jax.numpy.asarray(v, float) for k, v in design.columns.items()}
        y = law.log_pred(design.truth, x)

        def residual(z: jax.Array) -> jax.Array:
            values = jax.numpy.where(logs, jax.numpy.exp(jax.numpy.where(logs, z, 0.0)), z)
            return law.log_pred(dict(zip(names, values, strict=True)), x) - y

        f, jac = jax.jit(residual), jax.jit(jax.jacfwd(residual))
        z = np.where(logs, np.log(np.where(logs, truth, 1.0)), truth)
        away = z + 0.1 * np.where(logs, 1.0, np.abs(z)) * np.random.default_rng(1).choice([-1, 1], len(z))
        found = least_squares(
            lambda v: np.asarray(f(v)), away, lambda v: np.asarray(jac(v)), x_scale="jac",
            ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=400,
        ).x  # fmt: skip
    np.testing.assert_allclose(np.where(logs, np.exp(np.where(logs, found, 0.0)), found), truth, rtol=1e-6)


@pytest.mark.parametrize("name", list(DESIGNS))
def test_every_design_identifies_its_law(name: str) -> None:
    design = DESIGNS[name]
    assert null_directions(laws.get(name), design.columns, design.truth) == ()


def unseen(name: str, x: dict[str, np.ndarray], truth: dict[str, float], frozen: tuple[str, ...] = ()) -> list[set]:
    """The parameters that move in each null direction of a design."""
    columns = Design(name, truth, x).columns
    return [set(d.weights) for d in null_directions(laws.get(name), columns, truth, frozen=frozen)]


def test_one_share_hides_gamma_of_he() -> None:
    truth = DESIGNS["he-family"].truth
    assert unseen("he-family", factorial(p=[0.3]), truth) == [{"gamma"}]
    assert unseen("he-family", factorial(p=[0.3, 0.31]), truth) == []


def test_without_monolingual_runs_tau_hides_in_b() -> None:
    truth = {**BODY, "lam": 0.1, "tau_other": 0.3}
    x = factorial()
    halves = {**x, "D_other": x["D"]}
    assert unseen("atlas", halves, truth, frozen=("lam",)) == [{"tau_other"}]
    alone = {**x, "D_other": np.zeros(len(x["D"]))}
    anchored = {k: np.concatenate([halves[k], alone[k]]) for k in x | {"D_other": 0}}
    assert unseen("atlas", anchored, truth, frozen=("lam",)) == []
    assert unseen("atlas", anchored, truth) == [{"lam"}]


def test_fit_says_that_tau_is_not_identified() -> None:
    x = factorial()
    x = {**x, "D_other": x["D"]}
    y = losses(laws.get("atlas"), {**BODY, "lam": 0.1, "tau_other": 0.3}, Design("atlas", {}, x).columns)
    result = fit(pd.DataFrame({**x, "loss": y}), "atlas", frozen={"lam": 0.1})
    assert result.status == "not identified"
    assert any("tau_other" in d.text for d in result.null)


def test_twenty_tokens_a_parameter_hide_beta_in_gamma() -> None:
    """The published design of continual pre-training, D = 20 N, sees beta + gamma only, at any number of points."""
    n = np.geomspace(4e7, 5e9, 40)
    truth, frozen = DESIGNS["cpt"].truth, ("E", "A", "alpha")
    (direction,) = null_directions(laws.get("cpt"), {"N": n, "D": 20 * n}, truth, frozen=frozen)
    assert set(direction.weights) == {"beta", "gamma"}
    assert direction.weights["beta"] == pytest.approx(-direction.weights["gamma"], rel=1e-3)
    y = losses(laws.get("cpt"), truth, {"N": n, "D": 20 * n})
    result = fit(pd.DataFrame({"N": n, "D": 20 * n, "loss": y}), "cpt", frozen={k: truth[k] for k in frozen})
    assert result.status == "not identified"
    assert "beta" in result.null[0].text and "gamma" in result.null[0].text
    assert null_directions(laws.get("cpt"), factorial(), truth, frozen=frozen) == ()


@pytest.mark.parametrize("k", [1.9e4, 1e6])
def test_twenty_tokens_a_parameter_hide_the_transfer_exponents(k: float) -> None:
    """At D = 20 N, k D^a N^b depends on a + b and on k alone: one direction among k, a and b is unseen."""
    n = np.repeat(np.geomspace(4e7, 5e9, 12), 2)
    x = {"N": n, "D": 20 * n, "pretrained": np.tile([0.0, 1.0], 12)}
    truth = {**BODY, "k": k, "a": 0.18, "b": 0.38}
    scratch = ("E", "A", "B", "alpha", "beta")
    (direction,) = unseen("cpt-bounded", x, truth, frozen=scratch)
    assert direction >= {"a", "b"}
    assert unseen("cpt-bounded", factorial(pretrained=[0, 1]), truth, frozen=scratch) == []


def test_one_size_hides_the_size_term_of_d_cpt() -> None:
    truth = DESIGNS["d-cpt"].truth
    x = grid(N=[1e9], D=np.geomspace(1e8, 2e10, 5), r=[0, 0.05, 0.1, 0.3, 0.6, 1])
    assert {"alpha"} in unseen("d-cpt", x, truth)
    moving = set().union(*unseen("d-cpt", x, truth))
    assert moving == {"alpha", "E", "A"}


def test_no_repetition_hides_the_half_life() -> None:
    x = grid(N=np.geomspace(1e8, 8e8, 4), D=np.geomspace(1e9, 3e10, 4), h=[0.02, 0.1, 0.3, 0.7], U=[1e12])
    assert unseen("repetition-mixture", x, DESIGNS["repetition-mixture"].truth) == [{"r1"}]


def test_no_replay_hides_its_effect() -> None:
    x = {**grid(N=[4e7, 1e8, 1e9], D=[3e5, 3e6, 3e7], p=[0.0]), "L0": np.full(9, 2.0)}
    assert unseen("bethune-pretraining", x, DESIGNS["bethune-pretraining"].truth) == [{"B"}]


def test_one_number_of_languages_hides_the_curse() -> None:
    directions = unseen("atlas-curse", factorial(K=[4.0]), DESIGNS["atlas-curse"].truth)
    assert len(directions) == 2 and set().union(*directions) == {"phi", "psi"}


def test_all_domains_of_a_mixture_hide_k_in_the_slopes() -> None:
    shares = np.random.default_rng(3).dirichlet(np.ones(3), 20).T
    x = {f"r_{d}": s for d, s in zip("abc", shares, strict=True)}
    (direction,) = unseen("ye-mixing:domains=a,b,c", x, {"c": 2.0, "k": 1.0, "t_a": 1.0, "t_b": -1.0, "t_c": 0.3})
    assert direction >= {"t_a", "t_b", "t_c"}


def test_constant_learning_rate_hides_annealing() -> None:
    x = {"S1": np.geomspace(0.03, 1.2, 20), "S2": np.zeros(20)}
    assert unseen("tissue", x, DESIGNS["tissue"].truth) == [{"C"}]
