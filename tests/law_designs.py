"""One design per law that identifies it, with parameters of a sensible size: the data that recovery tests fit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd

from analysis import laws
from analysis.law import Law
from analysis.laws.schedule import annealing

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Design:
    """A law by name, true parameters, and columns x of equal length."""

    law: str
    truth: dict[str, float]
    x: Columns

    @property
    def columns(self) -> Columns:
        """x, with the defaults of the variables it leaves out."""
        n = len(next(iter(self.x.values())))
        defaults = {v.name: np.full(n, v.default) for v in laws.get(self.law).variables if v.default is not None}
        return {**defaults, **self.x}

    def frame(self) -> pd.DataFrame:
        """The columns with the noise-free loss."""
        return pd.DataFrame({**self.x, "loss": losses(laws.get(self.law), self.truth, self.columns)})


def losses(law: Law, params: dict[str, float], x: Columns) -> np.ndarray:
    with jax.enable_x64(True):
        return np.exp(np.asarray(law.log_pred(params, {k: np.asarray(v, float) for k, v in x.items()})))


def grid(**axes: Sequence[float] | np.ndarray) -> Columns:
    rows = np.array(list(itertools.product(*axes.values())), float)
    return dict(zip(axes, rows.T, strict=True))


SIZES = np.geomspace(1e7, 3e9, 5)
TOKENS = np.geomspace(2e8, 3e11, 6)
BODY = {"E": 1.6, "A": 420.0, "B": 720.0, "alpha": 0.38, "beta": 0.3}


def factorial(**more: Sequence[float]) -> Columns:
    return grid(N=SIZES, D=TOKENS, **more)


def _forgetting() -> Columns:
    x = grid(N=[4e7, 1e8, 3e8, 1.2e9], D=[3e5, 3e6, 3e7], p=[0, 0.001, 0.01, 0.05])
    return {**x, "L0": 1.2 + 1e3 / x["N"] ** 0.4}


def _languages() -> Columns:
    """Monolingual runs, half of them repeated, and mixtures with two source languages."""
    mono = grid(N=SIZES, D=TOKENS, D_fr=[0], D_de=[0])
    mixed = grid(N=SIZES[::2], D=TOKENS[::2], D_fr=[0, 1e9, 2e10], D_de=[0, 1e9, 2e10])
    x = {k: np.concatenate([mono[k], mixed[k]]) for k in mono}
    return {**x, "U": np.where(np.arange(len(x["N"])) % 2, 5e9, 1e30)}


def _shares() -> Columns:
    web, code, books, _ = np.random.default_rng(0).dirichlet(np.ones(4), 24).T
    return {"r_web": web, "r_code": code, "r_books": books}


def _domains() -> Columns:
    x = factorial(h_1=[0, 0.1, 0.3, 0.6, 0.9, 1])
    return {**x, "h_2": 1 - x["h_1"]}


def _curves() -> Columns:
    """Checkpoints under a constant, a cosine and a warm-up, stable, decay schedule."""
    step = np.arange(4000)
    constant = np.full(4000, 3e-4)
    cosine = 3e-5 + 2.7e-4 * 0.5 * (1 + np.cos(np.pi * step / 4000))
    stable = np.where(step < 3000, 3e-4, 3e-4 * (1 - np.sqrt(np.maximum(step - 3000, 0) / 1000)))
    at = np.arange(200, 4000, 200)
    s1, s2 = np.concatenate([np.array(annealing(eta))[:, at] for eta in (constant, cosine, stable)], 1)
    return {"S1": s1, "S2": s2}


DESIGNS = {
    d.law: d
    for d in (
        Design("chinchilla", BODY, factorial()),
        Design("tied", {"E": 1.87, "A": 520.0, "B": 1490.0, "alpha": 0.35}, factorial()),
        Design("cpt", {"E": 1.6, "A": 420.0, "B": 430.0, "alpha": 0.38, "beta": 0.2, "gamma": 0.08}, factorial()),
        Design(
            "data-constrained",
            {"E": 1.87, "A": 520.0, "B": 1490.0, "alpha": 0.35, "R_D": 15.0, "R_N": 5.0},
            factorial(U=[1e8, 1e9, 1e10]),
        ),
        Design("reciprocal-perplexity", {"a": 0.039, "b": 0.21, "c": 0.084}, {"D": np.geomspace(1e8, 4e9, 9)}),
        Design("skaling", {"E": 1.7, "A": 900.0, "B": 1500.0, "alpha": 0.42, "beta": 0.37, "k": 0.8}, factorial()),
        Design("kaplan", {"aN": 0.076, "aD": 0.103, "Nc": 6.4e13, "Dc": 1.8e13}, factorial()),
        Design("cpt-bounded", {**BODY, "k": 1.9e4, "a": 0.18, "b": 0.38}, factorial(pretrained=[0, 1])),
        Design(
            "transfer",
            {"aN": 0.076, "aD": 0.103, "Nc": 6.4e13, "Dc": 1.8e13, "k": 1.9e4, "a": 0.18, "b": 0.38},
            factorial(pretrained=[0, 1]),
        ),
        Design(
            "repetition-mixture",
            {"E": 1.8, "C": 300.0, "B": 90.0, "gamma": 0.2, "beta": 0.35, "alpha": 0.3, "delta": 0.06, "r1": 12.0},
            grid(N=SIZES[2:], D=np.geomspace(1e9, 3e10, 4), h=[0.02, 0.1, 0.3, 0.7], U=[5e7, 5e8, 1e10]),
        ),
        Design(
            "d-cpt",
            {
                "E": 1.3, "A": 200.0, "B": 60.0, "C": 0.4, "alpha": 0.33, "beta": 0.3, "eta": 0.2, "gamma": 0.35,
                "eps": 0.08,
            },
            grid(N=[5e8, 1.8e9, 4e9], D=np.geomspace(1e8, 2e10, 4), r=[0, 0.1, 0.2, 0.33, 0.5, 0.66, 0.8, 0.9, 1]),
        ),
        Design("bethune-target", {"E": 1.9, "A": 60.0, "alpha": 0.15, "beta": 0.1}, factorial()),
        Design("bethune-pretraining", {"A": 4.0, "alpha": 0.6, "beta": 0.4, "B": 829.0}, _forgetting()),
        Design("he-family", {**BODY, "gamma": 0.11}, factorial(p=[0.05, 0.2, 0.5, 1])),
        Design("atlas:sources=fr,de", {**BODY, "lam": 0.12, "tau_fr": 0.35, "tau_de": -0.1}, _languages()),
        Design(
            "atlas-curse",
            {"E": 1.6, "A": 420.0, "B": 20.0, "alpha": 0.453, "beta": 0.147, "phi": 0.11, "psi": -0.04},
            factorial(K=[1, 2, 4, 8]),
        ),
        Design(
            "ye-mixing:domains=web,code,books", {"c": 2.0, "k": 0.9, "t_web": -0.8, "t_code": 1.2, "t_books": -2.0},
            _shares(),
        ),
        Design(
            "additive-mixture",
            {**BODY, "C_1": 3.0, "C_2": 0.8, "g_1": 0.5, "g_2": 0.3},
            _domains(),
        ),
        Design("frontier", {"E": 1.2, "A": 30.0, "gamma": 0.07}, {"C": np.geomspace(1e18, 1e23, 8)}),
        Design("tissue", {"L0": 2.6, "A": 0.6, "C": 1.5, "alpha": 0.45}, _curves()),
        Design(
            "tao-vocabulary",
            {"E": 0.4, "A1": 40.0, "A2": 12.0, "B": 60.0, "alpha1": 0.3, "alpha2": 0.35, "beta": 0.32},
            grid(N_nv=np.geomspace(3e7, 3e9, 4), N_v=np.geomspace(2e6, 3e8, 4), D=np.geomspace(5e8, 5e10, 4)),
        ),
    )
}  # fmt: skip


def loss(law: Law, params: dict[str, float], **x: float) -> float:
    """The law at one point; variables that are not named have their defaults."""
    defaults = {v.name: v.default for v in law.variables if v.default is not None}
    return float(losses(law, params, {k: np.array([v], float) for k, v in {**defaults, **x}.items()})[0])
