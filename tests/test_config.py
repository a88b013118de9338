"""Identity: what changes it, what it refuses, and that it survives JSON."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config import (
    Component,
    LayoutConfig,
    MixtureConfig,
    ModelConfig,
    OptimConfig,
    Parent,
    RunConfig,
    Source,
    Stage,
    canonical,
    fingerprint,
    from_json,
    to_json,
)
from lab.errors import LabError

MODEL = ModelConfig("gpt2", d_model=32, n_layers=2, n_heads=1, head_dim=32, d_ff=128, vocab=512, context=16)
SOURCE = Source("embedded:en", "0123456789abcdef")


def run_config(**changes) -> RunConfig:
    mixture = MixtureConfig(
        components=(Component("en", SOURCE), Component("en#1", SOURCE)),
        layout=LayoutConfig.clones(("en", "en#1"), "f" * 16),
        stages=(Stage(1.0, (0.9, 0.1)),),
    )
    return dataclasses.replace(RunConfig(MODEL, OptimConfig(1e-3), mixture, steps=10, batch=4), **changes)


def test_identity_changes_with_every_field():
    base = run_config()
    changes = [
        run_config(steps=11),
        run_config(batch=5),
        run_config(seed_init=1),
        run_config(seed_data=1),
        run_config(optim=OptimConfig(2e-3)),
        run_config(model=dataclasses.replace(MODEL, vocab=513)),
        run_config(mixture=dataclasses.replace(base.mixture, sampling="bernoulli")),
        run_config(parent=Parent("0" * 16, 5, "weights")),
        run_config(parent=Parent("0" * 16, 5, "state")),
        run_config(parent=Parent("0" * 16, 6, "state")),
    ]
    assert len({r.run_id for r in [base, *changes]}) == len(changes) + 1


def test_identity_is_pinned():
    """A changed identity orphans every run on every disk: change it knowingly, and say so in the commit."""
    assert fingerprint(MODEL) == "1affec4a94a4cfff"
    assert run_config().run_id == "fa6193ef1512065e"


def test_what_a_run_does_not_use_leaves_no_trace_in_its_identity():
    assert "parent" not in canonical(run_config())
    assert "clip" not in canonical(OptimConfig(1e-3))
    assert canonical(OptimConfig(1e-3, clip=1.0))["clip"] == 1.0


def test_a_branch_starts_where_its_trunk_was_left():
    assert run_config(parent=Parent("0" * 16, 8, "state")).first_step == 8
    assert run_config(parent=Parent("0" * 16, 800, "weights")).first_step == 0
    with pytest.raises(LabError, match="cannot start at its trunk's step 10"):
        run_config(parent=Parent("0" * 16, 10, "state"))
    with pytest.raises(LabError, match="cannot carry 'luggage'"):
        Parent("0" * 16, 10, "luggage")


@pytest.mark.parametrize("parent", [None, Parent("0" * 16, 5, "weights")])
def test_configs_survive_json(parent):
    run = run_config(parent=parent)
    again = from_json(json.loads(json.dumps(to_json(run))))
    assert again == run
    assert again.run_id == run.run_id


@pytest.mark.parametrize("value", [np.float32(1.0), {1: 2}, object(), float("nan"), {"a", "b"}, b"bytes"])
def test_unknown_types_raise(value):
    with pytest.raises(TypeError):
        canonical(value)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_all_their_digits(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (repr(a) == repr(b))


@pytest.mark.parametrize(
    ("shares", "message"),
    [((0.9, 0.2), "sum to 1.1"), ((1.5, -0.5), "sum to 1"), ((1.0,), "1 shares for 2 languages")],
)
def test_bad_shares_are_named(shares, message):
    with pytest.raises(LabError, match=message):
        dataclasses.replace(run_config().mixture, stages=(Stage(1.0, shares),))


def test_a_language_cannot_stand_twice():
    with pytest.raises(LabError, match="twice"):
        dataclasses.replace(run_config().mixture, components=(Component("en", SOURCE), Component("en", SOURCE)))


def test_foreign_json_is_refused():
    with pytest.raises(LabError, match="unknown type 'Rocket'"):
        from_json({"type": "Rocket"})
    with pytest.raises(LabError, match="unknown fields"):
        from_json({**to_json(MODEL), "colour": 3})
