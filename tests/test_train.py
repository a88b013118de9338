"""The training loop: rows, packs, interruption, divergence, damage."""

import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from lab.checkpoint import Checkpoints
from lab.config import OptimConfig, Parent, Stage, to_json
from lab.errors import LabError
from lab.pack import marks_of, plan_pack
from lab.records import RunDir, locked
from lab.table import COLUMNS, Provenance, rows, table_of, write_table
from lab.train import STEPS_PER_DISPATCH, Execution, Stopped, pack_dir, train


class Silent:
    def progress(self, run_id, steps_done, loss):
        pass

    def finished(self, run_id, result):
        pass


class At(Silent):
    """Does something once, when a run has come so far."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def progress(self, run_id, steps_done, loss):
        if self.action is not None and steps_done >= self.step:
            action, self.action = self.action, None
            action()


def go(runs, root, slots=1, observer=None, every_s=1e9):
    train(runs, Execution(root, slots, every_s), observer or Silent())
    return [RunDir(root, r.run_id).result() for r in runs]


def measured(result):
    return [(e["language"], e["loss"], e["ppl"], e["tokens_language"]) for e in result["evaluations"]]


@pytest.fixture(scope="module")
def solo(stores, tmp_path_factory):
    """The uninterrupted result that others are compared with."""
    root = tmp_path_factory.mktemp("solo")
    (root / "data").symlink_to(stores[0])
    return go([tiny.run(stores[1], ("aa", "bb"))], root)[0]


def test_a_run_learns_and_its_rows_fill_the_schema(solo, data, tmp_path):
    table = rows(solo, Provenance("study", "arm"))
    assert [r["language"] for r in table] == ["aa", "bb"]
    for row in table:
        assert row.keys() == COLUMNS.keys()
        assert row["loss"] < math.log(tiny.VOCAB) - 1
        assert row["tokens_seen"] == 40 * tiny.BATCH * tiny.CONTEXT
        assert row["tokens_language"] == row["tokens_seen"] // 2
        assert sum(row["document_nats"]) == pytest.approx(row["loss"] * row["eval_tokens"])
        assert row["bits_per_byte"] == pytest.approx(sum(row["document_nats"]) / math.log(2) / row["eval_bytes"])
        assert row["n_total"] == row["n_nonembedding"] + row["n_embedding"] + row["n_head"]
        assert row["curve_loss"][0] > row["curve_loss"][-1]
        assert row["curve_tokens"][-1] == row["tokens_seen"]
    assert write_table(tmp_path / "t.parquet", table_of(table)) == 2


def test_a_pack_with_refilled_slots_gives_what_solo_runs_give(root, data, solo):
    runs = [tiny.run(data, ("aa", "bb"), steps=n, seed_init=s) for n, s in ((40, 0), (24, 1), (17, 2), (9, 3))]
    plan = plan_pack(runs, 2, STEPS_PER_DISPATCH)
    assert max(p.start for p in plan.placements) > 0, "the pack must refill a slot"
    packed = go(runs, root, slots=2)
    assert packed[0]["run"]["examples_hash"] == solo["run"]["examples_hash"]
    assert np.allclose([m[1] for m in measured(packed[0])], [m[1] for m in measured(solo)], rtol=1e-5)
    for run, result in zip(runs, packed, strict=True):
        assert result["steps_done"] == run.steps
        assert [m["step"] for m in RunDir(root, run.run_id).metrics.read()][-1] == run.steps


TRUNK = OptimConfig(1e-2, "constant", warmup=0.0)


def branch(trunk, steps, first):
    return dataclasses.replace(
        trunk, steps=steps, optim=OptimConfig(1e-2, "wsd", warmup=0.0), parent=Parent(trunk.run_id, first, "state")
    )


@pytest.mark.parametrize("slots", [1, 2])
def test_a_branch_is_bit_identical_to_the_whole_run(root, data, slots):
    """On the next examples, with its moments, at exactly the step asked for."""
    trunk = tiny.run(data, steps=27, optim=TRUNK)
    branches = [branch(trunk, 25, 20), branch(trunk, 15, 12)]
    whole = [dataclasses.replace(b, parent=None) for b in branches]
    results = go([*branches, trunk], root, slots=slots)
    expected = go(whole, root, slots=slots)
    for one, other in zip(results, expected, strict=False):
        assert one["run"]["examples_hash"] == other["run"]["examples_hash"]
        if slots == 1:
            assert measured(one) == measured(other)
        assert np.allclose([m[1] for m in measured(one)], [m[1] for m in measured(other)], rtol=1e-5)
        assert one["run"]["group"] == trunk.run_id and other["run"]["group"] == other["run"]["run_id"]
        assert one["run"]["parent"] == trunk.run_id
        assert one["run"]["flops_spent"] == pytest.approx(0.2 * one["run"]["flops_exact"])
    assert results[0]["run"]["parent_tokens"] == 20 * tiny.BATCH * tiny.CONTEXT


def test_a_killed_branch_goes_on_from_its_own_steps(root, data):
    trunk = tiny.run(data, steps=24, optim=TRUNK)
    runs = [trunk, branch(trunk, 40, 24)]
    whole = go(runs, root)
    shutil.rmtree(root / "runs")
    shutil.rmtree(root / "packs")
    with pytest.raises(Stopped):
        go(runs, root, observer=At(32, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert RunDir(root, trunk.run_id).result() is not None
    assert [measured(r) for r in go(runs, root)] == [measured(r) for r in whole]


def test_continual_pretraining_takes_the_weights_and_starts_afresh(root, data):
    parent = tiny.run(data, ("aa", "bb"), steps=24)
    shares = dataclasses.replace(parent.mixture, stages=(Stage(1.0, (0.0, 1.0)),))
    child = dataclasses.replace(parent, mixture=shares, steps=8, parent=Parent(parent.run_id, 24, "weights"))
    scratch = dataclasses.replace(child, parent=None)
    with pytest.raises(LabError, match="which is not below"):
        go([child], root)
    go([parent], root)
    continued, alone = go([child, scratch], root, slots=2)
    assert continued["run"]["examples_hash"] == alone["run"]["examples_hash"]
    assert continued["evaluations"][1]["loss"] < alone["evaluations"][1]["loss"] - 0.1
    assert continued["run"]["parent_tokens"] == parent.tokens_seen
    assert continued["run"]["group"] == child.run_id
    assert continued["run"]["flops_spent"] == continued["run"]["flops_exact"]


def test_what_does_not_fit_its_parent_is_refused(root, data):
    trunk = tiny.run(data, steps=16, optim=TRUNK)
    go([trunk], root)
    with pytest.raises(LabError, match="has not kept its state there"):
        go([branch(trunk, 20, 16)], root)
    with pytest.raises(LabError, match="has not kept its weights there"):
        go([tiny.run(data, parent=Parent(trunk.run_id, 8, "weights"))], root)
    with pytest.raises(LabError, match=r"differs from its trunk .* in seed_data"):
        go([trunk, dataclasses.replace(branch(trunk, 20, 16), seed_data=1)], root)
    with pytest.raises(LabError, match=r"differs from its trunk .* in optim"):
        other = OptimConfig(1e-2, "wsd", warmup=0.0, beta2=0.99)
        go([trunk, dataclasses.replace(branch(trunk, 20, 16), optim=other)], root)
    with pytest.raises(LabError, match="begins at rate"):
        go([trunk, dataclasses.replace(branch(trunk, 40, 16), optim=OptimConfig(1e-2, "cosine"))], root)
    with pytest.raises(LabError, match="the child's layout of bb does not begin with that of aa"):
        go([tiny.run(data, ("bb",), parent=Parent(trunk.run_id, 16, "weights"))], root)


def test_children_of_a_diverged_run_diverge_with_it(root, data):
    bad = tiny.run(data, steps=24, optim=OptimConfig(1e30, "constant", warmup=0.0))
    child = dataclasses.replace(bad, optim=OptimConfig(1e30, "wsd", warmup=0.0), steps=20)
    child = dataclasses.replace(child, parent=Parent(bad.run_id, 16, "state"))
    good = tiny.run(data, steps=40, seed_init=3)
    results = go([bad, child, good], root, slots=2)
    assert [r["run"]["status"] for r in results] == ["diverged", "diverged", "done"]
    assert f"with its parent {bad.run_id}" in results[1]["run"]["exclusion"]


def test_a_run_is_evaluated_along_the_way_and_its_best_is_kept(root, data):
    run = tiny.run(data, ("aa", "bb"), steps=40)
    marks = marks_of([run], {run.run_id: 4})
    plan = plan_pack([run], 1, STEPS_PER_DISPATCH, marks)
    train([run], Execution(root, 1, 1e9), Silent(), plan)
    files = RunDir(root, run.run_id)
    evaluations = files.result()["evaluations"]
    for e in evaluations:
        assert e["eval_curve_tokens"] == [n * 10 * tiny.BATCH * tiny.CONTEXT for n in (1, 2, 3, 4)]
        assert e["eval_curve_loss"][-1] == e["loss"] < e["eval_curve_loss"][0]
    total = np.sum([e["eval_curve_loss"] for e in evaluations], axis=0)
    best = 10 * (1 + int(np.argmin(total)))
    kept = {int(p.name) for p in files.checkpoint_dir.iterdir() if p.name.isdigit()}
    assert kept == {best, 40}


@pytest.mark.parametrize("step", [8, 24])
def test_sigterm_saves_and_the_resumed_run_is_bit_identical(root, data, solo, step):
    run = tiny.run(data, ("aa", "bb"))
    with pytest.raises(Stopped):
        go([run], root, observer=At(step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert RunDir(root, run.run_id).result() is None
    result = go([run], root)[0]
    assert result["run"]["examples_hash"] == solo["run"]["examples_hash"]
    assert measured(result) == measured(solo)
    assert result["run"]["curve_loss"] == solo["run"]["curve_loss"]


def test_a_run_stopped_on_eight_devices_goes_on_on_one(root, data, tmp_path):
    run = tiny.run(data, ("aa", "bb"), batch=8)
    (root / "run.json").write_text(json.dumps(to_json(run)))
    script = Path(__file__).parent / "stopped_on_eight.py"
    stopped = subprocess.run([sys.executable, script, str(root)], capture_output=True, text=True, timeout=300)
    assert stopped.stdout.strip() == "stopped", stopped.stderr
    assert RunDir(root, run.run_id).metrics.last()["step"] < 40
    resumed = go([run], root)[0]
    shutil.rmtree(root / "runs")
    shutil.rmtree(root / "packs")
    whole = go([run], root)[0]
    assert resumed["run"]["examples_hash"] == whole["run"]["examples_hash"]
    assert np.allclose([m[1] for m in measured(resumed)], [m[1] for m in measured(whole)], rtol=1e-5)


def test_a_crash_loses_nothing_but_the_steps_since_the_checkpoint(root, data):
    runs = [tiny.run(data, steps=n, seed_init=s) for n, s in ((40, 0), (24, 1), (24, 2))]

    def crash():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(runs, root, slots=2, observer=At(32, crash), every_s=0)
    resumed = go(runs, root, slots=2)
    shutil.rmtree(root / "runs")
    shutil.rmtree(root / "packs")
    again = go(runs, root, slots=2)
    assert [measured(r) for r in resumed] == [measured(r) for r in again]
    assert [r["run"]["examples_hash"] for r in resumed] == [r["run"]["examples_hash"] for r in again]


def test_a_checkpoint_past_a_run_whose_result_is_gone_is_named(root, data):
    runs = [tiny.run(data, steps=40, seed_init=7), tiny.run(data, steps=8, seed_init=8)]
    with pytest.raises(Stopped):
        go(runs, root, slots=2, observer=At(16, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    shutil.rmtree(RunDir(root, runs[1].run_id).path)
    with pytest.raises(LabError, match="whose result is gone"):
        go(runs, root, slots=2)
    shutil.rmtree(root / "packs")
    assert all(result["run"]["status"] == "done" for result in go(runs, root, slots=2))


def test_a_diverged_run_says_why_and_its_neighbour_does_not_notice(root, data):
    good = tiny.run(data, steps=24, seed_init=5)
    bad = tiny.run(data, steps=24, seed_init=6, optim=OptimConfig(1e30, warmup=0.0))
    fine = dataclasses.replace(bad, optim=OptimConfig(1e-2, warmup=0.0))
    with_bad = go([good, bad], root, slots=2)
    shutil.rmtree(RunDir(root, good.run_id).path)
    with_fine = go([good, fine], root, slots=2)
    assert measured(with_bad[0]) == measured(with_fine[0])
    facts = with_bad[1]["run"]
    assert facts["status"] == "diverged"
    assert "diverged at step" in facts["exclusion"] and "loss" in facts["exclusion"]
    row = rows(with_bad[1], Provenance("s", "a"))[0]
    assert row["loss"] is None and row.keys() == COLUMNS.keys()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(root, data, caplog):
    run = tiny.run(data)
    with pytest.raises(Stopped):
        go([run], root, observer=At(24, lambda: os.kill(os.getpid(), signal.SIGTERM)), every_s=0)
    folder = pack_dir(root, plan_pack([run], 1, STEPS_PER_DISPATCH)) / "checkpoints"
    saved = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    assert len(saved) == 2
    for file in (saved[-1] / "tree").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        result = go([run], root)[0]
    assert "cannot be read" in caplog.text
    assert result["steps_done"] == 40


@pytest.mark.parametrize("seed", range(3))
def test_one_changed_bit_is_noticed(tmp_path, caplog, seed):
    rng = np.random.default_rng(seed)
    trees = [{"w": rng.normal(size=(200, 100)).astype(np.float32), "alive": np.array([True])} for _ in range(2)]
    with Checkpoints(tmp_path, {}) as checkpoints:
        for number, tree in enumerate(trees, start=1):
            checkpoints.save(number, tree, {})
    data = max((f for f in (tmp_path / "2" / "tree").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(data.read_bytes())
    content[int(rng.integers(len(content) // 4, 3 * len(content) // 4))] ^= 1 << int(rng.integers(8))
    data.write_bytes(content)
    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.raises(LabError, match="2 cannot be read"):
            checkpoints.tree(2, trees[1])
        number, tree, _ = checkpoints.restore(trees[1])
    assert number == 1 and "cannot be read" in caplog.text
    np.testing.assert_array_equal(tree["w"], trees[0]["w"])


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    tree = {"w": np.zeros((3, 2), np.float32)}
    with Checkpoints(tmp_path, {"vocab": 3}) as checkpoints:
        checkpoints.save(1, tree, {})
    with Checkpoints(tmp_path, {"vocab": 4}) as other, pytest.raises(LabError, match="vocab 3 instead of 4"):
        other.restore(tree)


def test_a_full_disk_during_a_checkpoint_is_one_clear_line(tmp_path, monkeypatch):
    tree = {"w": np.zeros((3, 2), np.float32)}
    with Checkpoints(tmp_path, {"vocab": 3}) as checkpoints:
        checkpoints.save(1, tree, {"note": "kept"})

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(LabError, match="disk is full"):
            checkpoints.save(2, tree, {})
    with Checkpoints(tmp_path, {"vocab": 3}) as again:
        number, _, record = again.restore(tree)
    assert (number, record["note"]) == (1, "kept")


def test_a_disk_that_fills_while_writing_in_the_background_is_one_clear_line(tmp_path, monkeypatch):
    tree = {"w": np.zeros((3, 2), np.float32)}

    def full(*args, **kwargs):
        raise ValueError("INTERNAL: No space left on device (os error 28)")

    with pytest.raises(LabError, match="disk is full"), Checkpoints(tmp_path, {}, background=True) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", full)
        checkpoints.save(1, tree, {})
        checkpoints.wait()


def test_a_checkpoint_in_the_background_holds_the_state_at_its_call(tmp_path):
    """The arrays it was given are consumed by the next step while it is being written."""
    advance = jax.jit(lambda t: jax.tree.map(lambda x: x * 2 + 1, t), donate_argnums=0)
    tree = {f"w{i}": jax.numpy.arange(1_000_000.0) + i for i in range(4)}
    expected = jax.tree.map(np.array, tree)
    with Checkpoints(tmp_path, {}, background=True) as checkpoints:
        checkpoints.save(1, tree, {})
        for _ in range(5):
            tree = advance(tree)
    with Checkpoints(tmp_path, {}) as again:
        _, found, _ = again.restore(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_one_pack_is_trained_by_one_process(root, data):
    run = tiny.run(data, steps=8)
    with locked(pack_dir(root, plan_pack([run], 1, STEPS_PER_DISPATCH))):
        pass
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(pack_dir(root, plan_pack([run], 1, 8)), ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(LabError, match="another process"):
            go([run], root)
    finally:
        done.set()
        holder.join()


def _hold(directory, ready, done):
    with locked(directory):
        ready.set()
        done.wait(60)


def test_a_model_of_another_vocabulary_than_the_layout_is_refused(root, data):
    run = tiny.run(data, steps=8)
    wrong = dataclasses.replace(run, model=dataclasses.replace(run.model, vocab=run.model.vocab + 1))
    with pytest.raises(LabError, match=r"vocabulary of 301, the layout .* 300"):
        go([wrong], root)


def test_a_half_written_run_directory_is_named(root, data):
    run = tiny.run(data, steps=8)
    directory = RunDir(root, run.run_id)
    directory.create(run)
    directory.config_file.write_text(json.dumps({"type": "RunConfig"})[:9])
    with pytest.raises(LabError, match="half-written"):
        go([run], root)
