"""Designs of cells, and the runs of a trunk with branches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import optim
from lab.config import Component, LayoutConfig, MixtureConfig, OptimConfig, RunConfig, Source, Stage
from lab.errors import LabError
from lab.flops import flops_per_token
from lab.pack import marks_of, plan_pack
from lab.presets import preset
from sweeps import designs
from sweeps.designs import Cell

SIZES = [preset(f"nano-{k}", vocab=512, context=64) for k in range(1, 11)]
MIXTURE = MixtureConfig(
    (Component("en", Source("tiny:en", "0")),), LayoutConfig.joint(("en",), "0"), (Stage(1.0, (1.0,)),)
)


def run(steps: int = 1000, warmup: float = 0.02, cooldown: float = 0.2, **changes) -> RunConfig:
    config = RunConfig(SIZES[0], OptimConfig(1e-3, warmup=warmup, cooldown=cooldown), MIXTURE, steps, 4)
    return dataclasses.replace(config, **changes)


def test_a_grid_is_every_size_on_every_budget():
    cells = designs.grid(SIZES[:3], (10, 20))
    assert len(set(cells)) == 6
    assert {c.tokens for c in cells if c.model == SIZES[1]} == {10, 20}


def test_an_l_is_two_arms_that_meet_in_the_corner():
    cells = designs.l_shape(SIZES[:4], (10, 20, 40))
    assert len(cells) == len(set(cells)) == 4 + 3 - 1
    assert {c.model for c in cells if c.tokens == 10} == set(SIZES[:4])
    assert {c.tokens for c in cells if c.model == SIZES[0]} == {10, 20, 40}
    corner = Cell(SIZES[3], 40)
    assert all(
        c.model == corner.model or c.tokens == corner.tokens for c in designs.l_shape(SIZES[:4], (10, 40), corner)
    )


@given(st.floats(1e11, 1e14), st.floats(2, 200), st.floats(3, 30))
def test_runs_of_an_isoflop_budget_cost_the_same_and_lie_around_the_guess(budget, ratio, spread):
    try:
        cells = designs.isoflop(SIZES, (budget,), ratio, spread)
    except LabError as error:
        near = [m for m in SIZES if 1 / spread <= designs.size_of(m) / (budget / 6 / ratio) ** 0.5 <= spread]
        assert len(near) < 3 and "sizes lie within" in str(error)
        return
    for cell in cells:
        per_token = flops_per_token(cell.model).exact
        assert abs(cell.tokens * per_token - budget) <= per_token
        assert 1 / spread <= designs.size_of(cell.model) / (budget / 6 / ratio) ** 0.5 <= spread


def test_a_ladder_is_so_many_tokens_a_parameter_in_the_convention_named():
    (cell,) = designs.ladder(SIZES[2:3], (20.0,), "total")
    assert cell.tokens == 20 * designs.size_of(SIZES[2], "total") > 20 * designs.size_of(SIZES[2], "nonembedding")


def test_a_budget_below_one_batch_is_refused():
    assert designs.steps_of(1023, 4, 64) == 3
    with pytest.raises(LabError, match="255 tokens are less than one batch"):
        designs.steps_of(255, 4, 64)


def test_replicates_differ_in_seeds_alone():
    runs = designs.replicates(run(), (3, 4))
    assert [(r.seed_init, r.seed_data) for r in runs] == [(3, 3), (4, 4)]
    assert {dataclasses.replace(r, seed_init=0, seed_data=0) for r in runs} == {run()}
    branch = designs.trunk_and_branches(run(), (500,))[1]
    with pytest.raises(LabError, match="parent"):
        designs.replicates(branch, (0, 1))


def learning_rates(hyper, first: int, last: int) -> np.ndarray:
    return np.asarray(optim.learning_rate(hyper, np.linspace(first, last, 16).round()))


@settings(max_examples=30)
@given(
    st.integers(200, 3000),
    st.lists(st.floats(0.2, 1.0), min_size=1, max_size=4),
    st.floats(0, 0.1),
    st.floats(0.05, 0.5),
)
def test_a_branch_is_the_run_trained_by_itself_with_its_trunk_as_the_stable_part(steps, shares, warmup, cooldown):
    lengths = sorted({max(40, round(steps * s)) for s in shares})
    longest = run(steps, warmup, cooldown)
    trunk, *branches = designs.trunk_and_branches(longest, lengths)
    assert trunk.optim.schedule == "constant" and trunk.parent is None
    trunk_hyper = optim.hyper_of(trunk.optim, trunk.steps)
    assert trunk_hyper.warmup_steps == round(warmup * steps)
    for branch, length in zip(branches, lengths, strict=True):
        hyper = optim.hyper_of(branch.optim, branch.steps)
        assert branch.steps == length and branch.parent.run_id == trunk.run_id and branch.parent.carry == "state"
        assert branch.first_step == length - hyper.cooldown_steps <= trunk.steps
        until = branch.first_step
        np.testing.assert_array_equal(learning_rates(hyper, 1, until), learning_rates(trunk_hyper, 1, until))
        falling = learning_rates(hyper, until + 1, length)
        assert np.all(np.diff(falling) <= 0) and falling[-1] < falling[0] == learning_rates(hyper, until, until)[0]
        alone = dataclasses.replace(branch, parent=None, optim=dataclasses.replace(branch.optim, warmup=warmup))
        assert alone == run(length, warmup, cooldown, optim=dataclasses.replace(longest.optim, schedule="wsd"))


def test_a_trunk_stays_the_same_run_when_branches_are_added_and_trains_before_them():
    few, more = (designs.trunk_and_branches(run(1000), lengths) for lengths in ((200, 1000), (200, 500, 1000)))
    assert few[0].run_id == more[0].run_id
    assert {r.run_id for r in few} < {r.run_id for r in more}
    assert [m.step for m in marks_of(more)[more[0].run_id] if m.keep == "state"] == [160, 400, 800]
    starts = {p.run_id: p.start for p in plan_pack(more, 4, 8).placements}
    assert all(starts[branch.run_id] > starts[more[0].run_id] for branch in more[1:])


@pytest.mark.parametrize(
    ("changes", "lengths", "message"),
    [
        (
            {"mixture": dataclasses.replace(MIXTURE, stages=(Stage(0.5, (1.0,)), Stage(0.5, (1.0,))))},
            (500,),
            "2 stages",
        ),
        (
            {"optim": OptimConfig(1e-3, warmup=0.3)},
            (200, 1000),
            "branch of 200 steps would leave its trunk at step 160",
        ),
        ({"optim": OptimConfig(1e-3, cooldown=0.0)}, (1000,), "a branch needs one at least"),
        ({}, (500, 500), "do not fit a run of 1000"),
        ({}, (1001,), "do not fit a run of 1000"),
        ({}, (), "do not fit a run of 1000"),
    ],
)
def test_branches_without_meaning_are_refused(changes, lengths, message):
    with pytest.raises(LabError, match=message):
        designs.trunk_and_branches(run(**changes), lengths)


def test_a_branch_cannot_be_a_trunk():
    branch = designs.trunk_and_branches(run(), (500,))[1]
    with pytest.raises(LabError, match="cannot be the trunk"):
        designs.trunk_and_branches(branch, (400,))
