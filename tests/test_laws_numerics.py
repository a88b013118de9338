"""Finite derivatives and falling losses, for N from 1e3 to 1e12 and D from 1e3 to 1e14."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_designs import DESIGNS, grid, losses

from analysis import laws
from analysis.law import Parameter, Variable
from analysis.laws.atlas import Atlas
from analysis.laws.repetition import UNLIMITED, RepetitionMixture


def _span(v: Variable) -> tuple[float, float]:
    """The log10 range of a variable."""
    if v.upper == 1.0:
        return (-4.0, 0.0)
    return {"N": (3.0, 12.0), "K": (0.0, 3.0), "C": (8.0, 27.0), "L0": (-0.5, 1.0), "S1": (-4.0, 3.0)}.get(
        v.name, (3, 14)
    )


# Where a law is meant for less than all start values: above the pole; no negative pull of size.
NARROWER = {
    "reciprocal-perplexity": {"a": (0.02, 0.07), "c": (0.075, 0.2)},
    "cpt": {"gamma": (0.0, 0.4)},
}


def _value(law: str, p: Parameter, unit: float) -> float:
    if p.name in NARROWER.get(law, {}):
        low, high = NARROWER[law][p.name]
        return low + unit * (high - low)
    if p.role == "coefficient":
        low, high = 0.1, 1e3
        return float(low * (high / low) ** unit)
    a, b = p.start
    return float(a * (b / a) ** unit) if p.scale == "log" else a + unit * (b - a)


@functools.cache
def _slopes(name: str) -> Callable[[Any, Any], Any]:
    law = laws.get(name)

    def margins(p: Any, x: Any) -> Any:
        falling = [c.margin(p, x) for c in law.claims() if c.name.startswith("falls with")]
        slope = jax.jacfwd(lambda q: law.log_pred(q, x))(p)
        return law.log_pred(p, x), slope, falling

    return jax.jit(margins)


# The loss need not fall with a domain's own share at random parameters; that is what the claim is there to test.
ALWAYS_FALLING = [n for n in laws.names() if n != "d-cpt"]


@pytest.mark.parametrize("name", laws.names())
@given(data=st.data())
@settings(max_examples=12)
def test_derivatives_are_finite_and_losses_fall(name: str, data: st.DataObject) -> None:
    law = laws.get(name)
    unit = st.floats(0, 1)
    p = {q.name: _value(name, q, data.draw(unit, label=q.name)) for q in law.parameters}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31), label="rows"))
    x = {}
    for v in law.variables:
        low, high = _span(v)
        x[v.name] = 10 ** rng.uniform(low, high, 64)
        x[v.name][:2] = 10.0**low, 10.0**high
        if v.lower is not None and v.lower < 0:
            x[v.name][2:12] = 0.0
        if v.default is not None:
            x[v.name][::3] = v.default
    if "pretrained" in x:
        x["pretrained"] = np.tile([0.0, 1.0], 32)
    if "S2" in x:  # The law is a loss only while L0 + A/S1^alpha exceeds C S2.
        x["S2"] = rng.uniform(-1e-2, 0.9, 64) * p["L0"] / p["C"]
        x["S2"][:8] = 0.0
    if name == "reciprocal-perplexity":  # Above its pole.
        x["D"] = 10 ** rng.uniform(9.5, 14, 64)
    if name == "additive-mixture":  # Some domain must be there.
        x["h_2"] = 1 - x["h_1"]
    with jax.enable_x64(True):
        log_loss, slope, falling = _slopes(name)(p, {k: jnp.asarray(v, float) for k, v in x.items()})
    assert np.all(np.isfinite(log_loss))
    for key, value in slope.items():
        assert np.all(np.isfinite(value)), key
    if name in ALWAYS_FALLING:
        for margin in falling:
            assert np.all(np.asarray(margin) >= -1e-9)


def test_unlimited_text_is_never_repeated() -> None:
    assert Atlas().variables[2].default == UNLIMITED > 1e20
    assert dataclasses.replace(Atlas(), sources=("x",)).name == "atlas:sources=x"
    x = grid(N=[1e8], D=[1e14], h=[0.5], U=[UNLIMITED])
    once = losses(RepetitionMixture(), {**DESIGNS["repetition-mixture"].truth, "r1": 1.0}, x)
    assert once == pytest.approx(losses(RepetitionMixture(), DESIGNS["repetition-mixture"].truth, x))
