"""What every law claims: it holds for sensible and for published parameters, and fails where it should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_designs import BODY, DESIGNS, SIZES, TOKENS, factorial, loss

from analysis import laws
from analysis.law import check_claims
from analysis.laws.transfer import BoundedCPT


# "Below scratch" asks of `cpt` what only its two fits together can answer; it has a test of its own.
@pytest.mark.parametrize("name", [n for n in DESIGNS if n != "cpt"])
def test_claims_hold_for_sensible_parameters(name: str) -> None:
    design, law = DESIGNS[name], laws.get(name)
    broken = [v for v in check_claims(law, design.truth, design.columns) if not v.holds]
    assert not broken


# The printed table of `cpt` breaks its own claim (below), and these print some of their parameters only.
PARTIAL = ("transfer", "atlas-curse")


@pytest.mark.parametrize("name", [n for n in laws.names() if laws.get(n).published and n not in ("cpt", *PARTIAL)])
def test_claims_hold_for_complete_published_values(name: str) -> None:
    law = laws.get(name)
    x = {**factorial(U=[2e9]), "C": np.geomspace(1e18, 1e23, len(SIZES) * len(TOKENS))}
    columns = {v.name: x[v.name] for v in law.variables}
    for published in law.published:
        broken = [v for v in check_claims(law, dict(published.params), columns) if not v.holds]
        assert not broken, published.source


def test_claims_fail_for_the_printed_cpt_table() -> None:
    """With the printed (rounded) values continued training is worse than scratch at D = 20 N for every size."""
    law = laws.get("cpt")
    scratch, continued = (dict(p.params) for p in law.published)
    n = np.geomspace(4e7, 5.5e9, 12)
    verdicts = {v.claim: v for v in check_claims(law, continued, {"N": n, "D": 20 * n})}
    assert not verdicts["below scratch"].holds
    assert verdicts["falls with N"].holds and verdicts["falls with D"].holds
    for size, worse in ((4e7, 0.24), (1e9, 0.13), (5e9, 0.10)):
        gap = loss(law, continued, N=size, D=20 * size) - loss(law, scratch, N=size, D=20 * size)
        assert gap == pytest.approx(worse, abs=0.01)
        crossing = 159.4 * size**0.8
        at_crossing = [loss(law, p, N=size, D=crossing) for p in (scratch, continued)]
        assert at_crossing[0] == pytest.approx(at_crossing[1], abs=2e-3)


@pytest.mark.parametrize(
    ("name", "change", "claim"),
    [
        ("d-cpt", {"B": 6e3}, "falls with r"),
        ("d-cpt", {"A": 0.0}, "falls with N"),
        ("he-family", {"gamma": 0.0}, "falls with p"),
        ("cpt-bounded", {"B": 0.0}, "below scratch"),
        ("cpt-bounded", {"a": 1.4, "alpha": 0.0}, "falls with N"),
        ("bethune-pretraining", {"beta": 0.0}, "forgets"),
        ("tissue", {"C": -0.5}, "annealing helps"),
        ("frontier", {"gamma": -0.01}, "falls with C"),
        ("tao-vocabulary", {"A2": 0.0}, "falls with N_v"),
    ],
)
def test_claims_fail_where_they_should(name: str, change: dict[str, float], claim: str) -> None:
    design, law = DESIGNS[name], laws.get(name)
    x = {k: v[design.columns.get("pretrained", np.zeros(len(v))) == 0] for k, v in design.columns.items()}
    rows = x if claim == "falls with N" else design.columns
    verdict = next(v for v in check_claims(law, {**design.truth, **change}, rows) if v.claim == claim)
    assert not verdict.holds and verdict.worst <= 0


@given(
    logs=st.tuples(st.floats(3, 12), st.floats(3, 14), st.floats(-3, 8)),
    a=st.floats(-0.5, 1.2),
    b=st.floats(-0.5, 1.0),
)
@settings(max_examples=100)
def test_the_bounded_law_never_says_that_pretraining_hurts(logs: tuple[float, ...], a: float, b: float) -> None:
    n, d, k = (10.0**v for v in logs)
    p = {**BODY, "k": k, "a": a, "b": b}
    assert loss(BoundedCPT(), p, N=n, D=d, pretrained=1) <= loss(BoundedCPT(), p, N=n, D=d, pretrained=0) + 1e-12
