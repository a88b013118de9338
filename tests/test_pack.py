"""Pack plans: every run once, no slot doubly used, deterministic."""

import dataclasses
import itertools

from hypothesis import given
from hypothesis import strategies as st
from test_config import run_config

from lab.pack import group_by_shape, plan_pack


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
