"""Pack plans: every run once, no slot doubly used, deterministic."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_config import run_config

from lab.config import Parent, canonical
from lab.errors import LabError
from lab.pack import Mark, group_by_shape, marks_of, plan_pack, read_plan


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.integers(1, 6), st.integers(1, 16))
def test_plans_place_every_run_once_without_overlap(lengths, slots, per_dispatch):
    runs = [run_config(steps=n, seed_init=i) for i, n in enumerate(lengths)]
    plan = plan_pack(runs, slots, per_dispatch)
    assert sorted(p.run_id for p in plan.placements) == sorted(r.run_id for r in runs)
    steps = {r.run_id: r.steps for r in runs}
    for p in plan.placements:
        assert (p.stop - p.start - 1) * per_dispatch < steps[p.run_id] <= (p.stop - p.start) * per_dispatch
    for slot in range(plan.slots):
        spans = sorted((p.start, p.stop) for p in plan.placements if p.slot == slot)
        assert spans and spans[0][0] == 0
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert 0 <= plan.idle_share < 1
    assert plan_pack(runs[::-1], slots, per_dispatch) == plan


def test_longest_runs_start_first():
    runs = [run_config(steps=n, seed_init=n) for n in (8, 80, 40)]
    plan = plan_pack(runs, 2, 8)
    first = {p.run_id for p in plan.placements if p.start == 0}
    assert first == {runs[1].run_id, runs[2].run_id}
    assert plan.dispatches == 10


def test_only_model_and_batch_split_programs():
    runs = [
        run_config(),
        run_config(seed_init=3, steps=99),
        run_config(optim=dataclasses.replace(run_config().optim, peak_lr=0.5, schedule="wsd")),
        run_config(batch=8),
        run_config(model=dataclasses.replace(run_config().model, d_ff=64)),
    ]
    assert [len(g) for g in group_by_shape(runs)] == [3, 1, 1]


@st.composite
def families(draw):
    """Runs of one shape of which some start from others, in any order."""
    runs = []
    for i in range(draw(st.integers(1, 12))):
        parent = draw(st.one_of(st.none(), st.sampled_from(runs))) if runs else None
        if parent is None:
            runs.append(run_config(steps=draw(st.integers(1, 60)), seed_init=i))
            continue
        step = draw(st.integers(parent.first_step + 1, parent.steps))
        carry = draw(st.sampled_from(["weights", "state"]))
        steps = draw(st.integers(1, 60)) + (step if carry == "state" else 0)
        runs.append(run_config(steps=steps, seed_init=i, parent=Parent(parent.run_id, step, carry)))
    return draw(st.permutations(runs))


@given(families(), st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))
def test_children_start_when_their_parents_have_come_so_far(runs, slots, per_dispatch, evaluations):
    marks = marks_of(runs, {r.run_id: evaluations for r in runs})
    plan = plan_pack(runs, slots, per_dispatch, marks)
    assert plan_pack(runs[::-1], slots, per_dispatch, marks) == plan
    assert read_plan(json.loads(json.dumps(canonical(plan)))) == plan
    by_id = {p.run_id: p for p in plan.placements}
    assert len(by_id) == len(plan.placements) == len(runs)
    for slot in range(plan.slots):
        spans = sorted((p.start, p.stop) for p in plan.placements if p.slot == slot)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    for run in runs:
        placement = by_id[run.run_id]
        made, reached = run.first_step, {}
        for dispatch in range(placement.start, placement.stop):
            first, mark = plan.steps(placement, dispatch)
            assert first == made < mark.step
            made = min(first + per_dispatch, mark.step)
            reached[made] = dispatch + 1
        assert made == run.steps
        assert all(m.step in reached for m in placement.marks)
        if run.parent is not None:
            parent = by_id[run.parent.run_id]
            kept = next(m for m in parent.marks if m.step == run.parent.step)
            assert kept.keep == "state" or run.parent.carry == "weights"
            ends = [parent.start]
            for a, b in itertools.pairwise([parent.first, *(m.step for m in parent.marks if m.step <= kept.step)]):
                ends.append(ends[-1] + -(-(b - a) // per_dispatch))
            assert placement.start >= ends[-1]


def test_marks_are_at_children_evaluations_and_the_end():
    trunk = run_config(steps=40)
    child = run_config(steps=10, parent=Parent(trunk.run_id, 20, "weights"))
    branch = run_config(steps=25, parent=Parent(trunk.run_id, 20, "state"))
    found = marks_of([branch, trunk, child], {trunk.run_id: 4}, {trunk.run_id: [5, 20]})
    assert found[trunk.run_id] == (
        Mark(5, keep="weights"),
        Mark(10, evaluate=True),
        Mark(20, keep="state", evaluate=True),
        Mark(30, evaluate=True),
        Mark(40, evaluate=True),
    )
    assert found[branch.run_id] == (Mark(25, evaluate=True),)


def test_a_child_past_its_parents_end_is_named():
    trunk = run_config(steps=40)
    late = run_config(steps=60, parent=Parent(trunk.run_id, 41, "state"))
    with pytest.raises(LabError, match=r"starts from step 41 of run .* which makes steps 1 to 40"):
        marks_of([trunk, late])


def test_the_longest_line_starts_first():
    """A short trunk with a long child goes before a run of middle length."""
    trunk = run_config(steps=16)
    child = run_config(steps=80, parent=Parent(trunk.run_id, 16, "weights"))
    middle = run_config(steps=40, seed_init=1)
    plan = plan_pack([middle, trunk, child], 1, 8)
    assert [p.run_id for p in plan.placements] == [trunk.run_id, child.run_id, middle.run_id]


def test_groups_come_after_the_groups_they_start_from():
    source = run_config(batch=8)
    child = run_config(parent=Parent(source.run_id, 5, "weights"))
    grandchild = run_config(batch=8, parent=Parent(child.run_id, 5, "weights"))
    other = run_config(seed_init=4)
    groups = group_by_shape([grandchild, child, other, source])
    assert [{r.run_id for r in g} for g in groups] == [
        {other.run_id},
        {source.run_id},
        {child.run_id},
        {grandchild.run_id},
    ]
