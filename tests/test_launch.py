"""The queue of packs: what is planned, who takes what, and that every run is trained once."""

from __future__ import annotations

import collections
import dataclasses
import fcntl
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from lab.config import Parent
from lab.pack import group_by_shape, plan_pack
from lab.records import Held, RunDir, atomic_write, locked, write_json
from lab.train import pack_dir, unfinished_plans
from sweeps import queue
from sweeps.launch import planner
from sweeps.queue import Pack, enqueue, spread, work
from sweeps.study import Arm

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.prepared(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(queue, "POLL_S", 0.01)


def shaped(data, width, **changes):
    run = tiny.run(data)
    return dataclasses.replace(run, model=dataclasses.replace(run.model, d_model=width), **changes)


@pytest.fixture
def runs(data):
    """Two shapes of three runs each."""
    found = [shaped(data, width, steps=40 + seed, seed_init=seed) for width in (16, 32) for seed in range(3)]
    return {run.run_id: run for run in found}


def plan(slots=1, parts=1):
    def planned(runs):
        return [Pack(plan_pack(g, slots, 8), tuple(g)) for g in spread(group_by_shape(runs), parts)]

    return planned


def members(pack):
    return [run.run_id for run in pack.runs]


class Trained:
    """Trains packs by writing what training would leave behind; counts the runs."""

    def __init__(self, root, seconds=0.0, fails=()):
        self.root, self.seconds, self.fails = root, seconds, fails
        self.order: list[str] = []

    def __call__(self, pack: Pack) -> bool:
        time.sleep(random.uniform(self.seconds / 2, self.seconds))
        self.order += members(pack)
        if set(self.fails) & set(members(pack)):
            return False
        for placement in pack.plan.placements:
            files = RunDir(self.root, placement.run_id)
            for mark in placement.marks:
                if mark.keep:
                    write_json(files.checkpoint_dir / str(mark.step) / "record" / "metadata", {"carry": mark.keep})
            write_json(files.result_file, {"run": {"status": "done"}})
        atomic_write(pack_dir(self.root, pack.plan) / "finished", "")
        return True


def go(runs, root, trained, planned=None, most=None, said=None):
    work(runs, root, planned or plan(), trained, (said if said is not None else []).append, most)


def test_a_queue_holds_every_run_once_and_is_worked_to_its_end(runs, tmp_path):
    packs = enqueue(runs, tmp_path, plan())
    assert sorted(m for p in packs for m in members(p)) == sorted(runs)
    trained = Trained(tmp_path)
    go(runs, tmp_path, trained)
    assert sorted(trained.order) == sorted(runs)
    assert enqueue(runs, tmp_path, plan()) == []


def test_what_waits_is_planned_anew_and_what_was_begun_or_is_held_stays(runs, tmp_path):
    begun, waiting = enqueue(runs, tmp_path, plan())
    (pack_dir(tmp_path, begun.plan) / "checkpoints" / "3").mkdir(parents=True)
    again = enqueue(runs, tmp_path, plan(slots=3))
    assert again[0] == begun and again[1].plan.slots == 3 and waiting not in again
    stored = unfinished_plans(tmp_path)
    assert stored == [p.plan for p in again]
    with locked(pack_dir(tmp_path, again[1].plan)):
        assert [p.plan for p in enqueue(runs, tmp_path, plan(slots=2))] == stored
    assert [p.plan for p in enqueue(runs, tmp_path, plan(slots=2), keep=True)] == stored
    assert enqueue(runs, tmp_path, plan(slots=2), store=False)[1].plan.slots == 2
    assert unfinished_plans(tmp_path) == stored


def test_a_changed_study_takes_back_the_packs_that_wait(runs, tmp_path):
    enqueue(runs, tmp_path, plan())
    fewer = dict(list(runs.items())[1:])
    packs = enqueue(fewer, tmp_path, plan())
    assert sorted(m for p in packs for m in members(p)) == sorted(fewer)
    assert len(unfinished_plans(tmp_path)) == 2


def test_a_run_whose_result_was_deleted_is_trained_again(runs, tmp_path):
    one = dict(list(runs.items())[:1])
    for _ in range(2):
        enqueue(one, tmp_path, plan())
        trained = Trained(tmp_path)
        go(one, tmp_path, trained)
        assert trained.order == list(one)
        RunDir(tmp_path, trained.order[0]).result_file.unlink()


def test_a_waiting_pack_is_planned_for_the_devices_that_take_it(runs, tmp_path):
    enqueue(runs, tmp_path, plan(slots=1))
    slots = []

    def train(pack):
        slots.append(pack.plan.slots)
        return Trained(tmp_path)(pack)

    go(runs, tmp_path, train, plan(slots=3))
    assert slots == [3, 3]


def test_a_held_pack_is_waited_for_and_taken_over_from_the_dead(runs, tmp_path):
    first, second = enqueue(runs, tmp_path, plan())
    trained, said = Trained(tmp_path), []
    with locked(pack_dir(tmp_path, first.plan)):
        go(runs, tmp_path, trained, most=9)
        assert sorted(trained.order) == sorted(members(second)), "with a limit it does not wait"
        worker = threading.Thread(target=go, args=(runs, tmp_path, trained), kwargs={"said": said})
        worker.start()
        time.sleep(0.1)
        assert len(trained.order) == 3 and "Waiting for 1 packs" in said[0]
    worker.join(10)
    assert sorted(trained.order) == sorted(runs)


def test_a_failed_pack_does_not_stop_the_others_and_is_not_tried_twice(runs, tmp_path):
    enqueue(runs, tmp_path, plan())
    trained = Trained(tmp_path, fails=list(runs)[:1])
    go(runs, tmp_path, trained)
    assert sorted(trained.order) == sorted(runs)
    assert len(unfinished_plans(tmp_path)) == 1


def test_most_is_the_number_of_packs(runs, tmp_path):
    enqueue(runs, tmp_path, plan(parts=4))
    trained = Trained(tmp_path)
    go(runs, tmp_path, trained, plan(parts=1), most=3)
    assert len(unfinished_plans(tmp_path)) == 1


def test_a_pack_that_starts_from_another_comes_later(data, tmp_path):
    parent = shaped(data, 16, steps=40)
    other = shaped(data, 32, steps=40)
    children = [shaped(data, 32, steps=40, seed_data=s, parent=Parent(parent.run_id, 24, "weights")) for s in (1, 2)]
    runs = {run.run_id: run for run in (*children, other, parent)}
    planned = planner([Arm("a", run) for run in runs.values()], slots=lambda _: 2)
    packs = enqueue(runs, tmp_path, planned)
    assert [sorted(members(p)) for p in packs] == [[other.run_id], [parent.run_id], sorted(c.run_id for c in children)]
    trained = Trained(tmp_path)
    with locked(pack_dir(tmp_path, packs[1].plan)):
        worker = threading.Thread(target=go, args=(runs, tmp_path, trained, planned))
        worker.start()
        time.sleep(0.2)
        assert trained.order == [other.run_id]
    worker.join(10)
    assert trained.order[:2] == [other.run_id, parent.run_id] and len(trained.order) == 4


def test_many_launchers_with_other_plans_train_every_run_once(data, tmp_path):
    found = [shaped(data, w, steps=40 + s, seed_init=s) for w in (8, 16, 24, 32) for s in range(6)]
    runs = {run.run_id: run for run in found}
    trained = [Trained(tmp_path, seconds=0.05) for _ in range(8)]
    together = threading.Barrier(8)
    errors: list[BaseException] = []

    def launch(k):
        try:
            planned = plan(slots=1 + k % 3, parts=1 + k)
            time.sleep(random.uniform(0, 0.1))
            enqueue(runs, tmp_path, planned, keep=k % 2 == 1)
            together.wait(60)
            if k % 4 == 0:
                time.sleep(random.uniform(0, 0.1))
                enqueue(runs, tmp_path, planned)
            go(runs, tmp_path, trained[k], planned)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=launch, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    counts = collections.Counter(r for t in trained for r in t.order)
    assert counts == dict.fromkeys(runs, 1)
    assert sum(bool(t.order) for t in trained) > 1, "several launchers must have had work"


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4), parts=st.integers(1, 30), seed=st.integers(0, 9))
def test_spreading_loses_nothing_and_reaches_the_parts(data, sizes, parts, seed):
    rng = random.Random(seed)
    groups = [
        [shaped(data, 8 * (g + 1), steps=rng.randint(1, 400), seed_init=s) for s in range(n)]
        for g, n in enumerate(sizes)
    ]
    out = spread(groups, parts)
    assert len(out) == max(len(groups), min(parts, sum(sizes)))
    assert all(out)
    for group in groups:
        mine = [part for part in out if part[0].model == group[0].model]
        assert sorted(r.run_id for part in mine for r in part) == sorted(r.run_id for r in group)
        loads = [sum(r.steps for r in part) for part in mine]
        assert max(loads) <= min(loads) + max(r.steps for r in group), "no part is longer than need be"


def test_spreading_keeps_trunk_and_branches_together(data):
    trunk = shaped(data, 16, steps=80)
    branches = [dataclasses.replace(trunk, steps=s + 8, parent=Parent(trunk.run_id, s, "state")) for s in (16, 32)]
    alone = shaped(data, 16, steps=80, seed_init=1)
    parts = spread([[trunk, alone, *branches]], 4)
    assert sorted(len(p) for p in parts) == [1, 3]


def test_a_lock_on_a_folder_that_was_removed_meanwhile_does_not_count(tmp_path):
    folder = tmp_path / "pack"
    with locked(folder):
        (folder / ".lock").unlink()
        with locked(folder), pytest.raises(Held), locked(folder):
            pass


def test_a_glance_at_a_lock_is_not_taken_for_a_process_that_holds_it(tmp_path):
    """`lab sweep status` takes shared locks for an instant, to see who is there."""
    with locked(tmp_path):
        pass
    glance = (tmp_path / ".lock").open()
    fcntl.flock(glance, fcntl.LOCK_SH)
    threading.Timer(0.015, glance.close).start()
    with locked(tmp_path), pytest.raises(Held), locked(tmp_path):
        pass


def test_two_launchers_started_together_train_every_run_once(tmp_path):
    """With different numbers of devices. Each run began once, and both end with the whole table."""
    tiny.prepared(tmp_path, ("aa",))
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}

    def start(devices):
        command = [sys.executable, str(HERE / "launch_tiny.py"), str(tmp_path), str(devices)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)

    processes = [start(1), start(2)]
    printed = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], printed
    starts = (tmp_path / "starts.txt").read_text().split()
    assert len(starts) == len(set(starts)) == 4
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "tiny" / "results.parquet")
    assert sorted(table["run_id"].to_pylist()) == sorted(starts)
    assert "(4 rows)" in printed[0] and "(4 rows)" in printed[1]
