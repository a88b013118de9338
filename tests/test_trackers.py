"""Mirrors show what the run directory says, and nothing that a kill took back."""

import os
import signal

import pytest
import tiny
from test_train import At, Silent

from lab.pack import marks_of, plan_pack
from lab.records import RunDir
from lab.trackers import mirrored
from lab.train import STEPS_PER_DISPATCH, Execution, Stopped, train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return root, tiny.prepared(root)


def go(run, root, names, observer=None):
    plan = plan_pack([run], 1, STEPS_PER_DISPATCH, marks_of([run], {run.run_id: 2}))
    with mirrored(observer or Silent(), root, names) as watched:
        train([run], Execution(root, 1), watched, plan)


def scalars(folder):
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in folder.glob("events.*"):
        data = file.read_bytes()
        position = 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            event = Event.FromString(data[position + 12 : position + 12 + length])
            position += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_shows_the_run_directory_even_after_a_stop(corpus, tmp_path):
    (tmp_path / "data").symlink_to(corpus[0] / "data")
    run = tiny.run(corpus[1])
    with pytest.raises(Stopped):
        go(run, tmp_path, ["tensorboard"], At(24, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    stopped = scalars(tmp_path / "tensorboard" / run.run_id)
    assert stopped["train/loss"][-1][0] < 40
    go(run, tmp_path, ["tensorboard"])
    shown = scalars(tmp_path / "tensorboard" / run.run_id)
    files = RunDir(tmp_path, run.run_id)
    assert [s for s, _ in shown["train/loss"]] == [line["step"] for line in files.metrics.read()]
    assert [v for _, v in shown["train/loss"]] == pytest.approx([line["loss"] for line in files.metrics.read()])
    evaluated = files.evaluations.read()
    assert [s for s, _ in shown["eval/aa/loss"]] == [line["step"] for line in evaluated] == [20, 40]
    assert [v for _, v in shown["eval/aa/bits_per_byte"]] == pytest.approx([e["bits_per_byte"] for e in evaluated])


def test_wandb_stays_offline(corpus, tmp_path):
    wandb = pytest.importorskip("wandb", reason="the extra `track` is not installed")
    (tmp_path / "data").symlink_to(corpus[0] / "data")
    run = tiny.run(corpus[1], steps=16)
    go(run, tmp_path, ["wandb"])
    (file,) = (tmp_path / "wandb").glob(f"offline-run-*-{run.run_id}/run-{run.run_id}.wandb")
    logged = file.read_bytes()
    for name in (b"train/loss", b"eval/aa/loss", b"tokens", run.run_id.encode()):
        assert name in logged
    assert wandb.run is None
