"""Studies whose runs start from runs: orders, other shapes, and parents that must be trained once more."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import tiny
from test_train import Silent, measured

from lab.config import OptimConfig, Parent
from lab.records import RunDir
from lab.table import read_table
from lab.train import Execution, Trainer
from sweeps.launch import FAILED, Launch, planner, run_study
from sweeps.queue import enqueue, wanted, work
from sweeps.study import Arm, DataSpec, Scale, Study

CONSTANT, COOLING = OptimConfig(1e-2, "constant", warmup=0.0), OptimConfig(1e-2, "wsd", warmup=0.0)


def train_all(runs, root, **more):
    """Works the queue off; returns the run ids in the order in which their packs were trained."""
    by_id = {run.run_id: run for run in runs}
    plan = planner([Arm("arm", run, **more) for run in runs], lambda _: 1)
    trained = []

    def one(pack):
        trained.extend(run.run_id for run in pack.runs)
        Trainer(pack.plan, pack.runs, Execution(root, 1), Silent()).train()
        return True

    enqueue(by_id, root, plan)
    work(by_id, root, plan, one, print)
    return trained


def wide(run):
    return dataclasses.replace(run, model=dataclasses.replace(run.model, d_model=24))


def test_orders_are_planned_one_after_another(data):
    runs = [tiny.run(data, steps=8 * k, seed_init=k) for k in (1, 2, 3, 4)]
    arms = [Arm("later", run, order=1) for run in runs[:2]] + [Arm("first", run) for run in runs[2:]]
    packs = planner(arms, lambda _: 2)([arm.run for arm in arms])
    assert [{r.run_id for r in p.runs} for p in packs] == [{r.run_id for r in runs[2:]}, {r.run_id for r in runs[:2]}]


def test_a_child_of_another_batch_is_trained_after_its_parent(data, root):
    parent = tiny.run(data, steps=16)
    child = dataclasses.replace(parent, batch=2, steps=8, parent=Parent(parent.run_id, 10, "weights"))
    assert train_all([child, parent], root, evaluations=2) == [parent.run_id, child.run_id]
    result = RunDir(root, child.run_id).result()
    assert result["run"]["parent_tokens"] == 10 * tiny.BATCH * tiny.CONTEXT
    assert [len(e["eval_curve_loss"]) for e in result["evaluations"]] == [2]


def test_a_parent_that_kept_too_little_is_trained_once_more(data, root):
    """The branch was thought of when its trunk was over."""
    trunk = tiny.run(data, steps=24, optim=CONSTANT)
    train_all([trunk], root)
    before = RunDir(root, trunk.run_id).result()
    branch = dataclasses.replace(trunk, steps=20, optim=COOLING, parent=Parent(trunk.run_id, 16, "state"))
    runs = {r.run_id: r for r in (trunk, branch, wide(trunk))}
    assert wanted(runs, root).keys() == runs.keys()
    assert set(train_all(list(runs.values()), root)) == runs.keys()
    assert RunDir(root, trunk.run_id).result() == before
    assert wanted(runs, root) == {}
    late = measured(RunDir(root, branch.run_id).result())
    shutil.rmtree(root / "runs")
    shutil.rmtree(root / "packs")
    train_all([trunk, branch], root)
    assert measured(RunDir(root, branch.run_id).result()) == late


def test_children_elsewhere_of_a_diverged_parent_diverge(data, root):
    parent = tiny.run(data, steps=16, optim=OptimConfig(1e30, "constant", warmup=0.0))
    child = dataclasses.replace(parent, batch=2, optim=CONSTANT, parent=Parent(parent.run_id, 16, "weights"))
    train_all([child, parent], root)
    assert "with its parent" in RunDir(root, child.run_id).result()["run"]["exclusion"]


def test_a_pack_that_memory_does_not_hold_is_planned_anew_with_half_the_slots(data, root, monkeypatch, capsys):
    """What was over stays over; the rest is trained side by side as far as it fits."""
    runs = [tiny.run(data, steps=8 * (k + 1), seed_init=k) for k in range(5)]
    scale = Scale("nano", DataSpec(("tiny:aa",), tiny.VOCAB), "seconds")
    study = Study("big", "?", "?", (scale,), lambda *_: tuple(Arm(f"seed {r.seed_init}", r) for r in runs))
    monkeypatch.setattr("sweeps.launch.prepared_arms", lambda *_: study.arms(data, scale))
    tried = []

    class Small(Trainer):
        def __init__(self, plan, *more):
            tried.append(plan.slots)
            if plan.slots > 1:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes.")
            super().__init__(plan, *more)

    monkeypatch.setattr("lab.train.Trainer", Small)
    train_all(runs[:1], root)
    assert run_study(study, scale, root, Launch(slots=4)) == 0
    assert tried == [4, 2, 1]
    said = " ".join(capsys.readouterr().out.split())
    assert "4 runs side by side do not fit into memory; going on with 2." in said
    assert all(RunDir(root, r.run_id).result()["run"]["status"] == "done" for r in runs)
    assert len(read_table(root / "big" / "results.parquet")) == 5


def test_one_run_that_memory_does_not_hold_says_so(data, root, monkeypatch):
    run = tiny.run(data, steps=8)

    def none(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes.")

    scale = Scale("nano", DataSpec(("tiny:aa",), tiny.VOCAB), "seconds")
    study = Study("bigger", "?", "?", (scale,), lambda *_: (Arm("one", run),))
    monkeypatch.setattr("sweeps.launch.prepared_arms", lambda *_: study.arms(data, scale))
    monkeypatch.setattr("lab.train.Trainer", none)
    assert run_study(study, scale, root) == FAILED
    (failure,) = (root / "packs").glob("*/failed.json")
    assert "Memory does not hold 1 run of this shape" in failure.read_text()
