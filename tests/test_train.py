"""The training loop: rows, packs, interruption, divergence, damage."""

import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import signal

import numpy as np
import pytest
import tiny

from lab.checkpoint import Checkpoints
from lab.config import OptimConfig
from lab.errors import LabError
from lab.pack import plan_pack
from lab.records import RunDir, locked
from lab.table import COLUMNS, Provenance, rows, write_table
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


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return root, tiny.prepared(root)


@pytest.fixture
def root(data_root, tmp_path):
    """A fresh root that shares the module's token stores."""
    (tmp_path / "data").symlink_to(data_root[0] / "data")
    return tmp_path


@pytest.fixture
def data(data_root):
    return data_root[1]


def go(runs, root, slots=1, observer=None, every_s=1e9):
    train(runs, Execution(root, slots, every_s), observer or Silent())
    return [RunDir(root, r.run_id).result() for r in runs]


def measured(result):
    return [(e["language"], e["loss"], e["ppl"], e["tokens_language"]) for e in result["evaluations"]]


@pytest.fixture(scope="module")
def solo(data_root, tmp_path_factory):
    """The uninterrupted result that others are compared with."""
    root = tmp_path_factory.mktemp("solo")
    (root / "data").symlink_to(data_root[0] / "data")
    return go([tiny.run(data_root[1], ("aa", "bb"))], root)[0]


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
    assert write_table(tmp_path / "t.parquet", table) == 2


def test_a_pack_with_refilled_slots_gives_what_solo_runs_give(root, data, solo):
    runs = [tiny.run(data, ("aa", "bb"), steps=n, seed_init=s) for n, s in ((40, 0), (24, 1), (17, 2), (9, 3))]
    plan = plan_pack(runs, 2, STEPS_PER_DISPATCH)
    assert max(p.start for p in plan.placements) > 0, "the pack must refill a slot"
    packed = go(runs, root, slots=2)
    assert packed[0]["run"]["examples_hash"] == solo["run"]["examples_hash"]
    assert np.allclose([m[1] for m in measured(packed[0])], [m[1] for m in measured(solo)], rtol=1e-5)
    for run, result in zip(runs, packed, strict=True):
        assert result["steps_done"] == run.steps
        assert [m["step"] for m in RunDir(root, run.run_id).metrics()][-1] == run.steps


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
