"""Mirrors show what the run directory says, and nothing that a kill took back."""

import os
import signal
import time

import pytest
import tiny
from test_train import At, Silent

from lab.pack import marks_of, plan_pack
from lab.records import RunDir
from lab.trackers import mirrored
from lab.train import STEPS_PER_DISPATCH, Execution, Stopped, train


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


def test_tensorboard_shows_the_run_directory_even_after_a_stop(data, root):
    run = tiny.run(data)
    with pytest.raises(Stopped):
        go(run, root, ["tensorboard"], At(24, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    stopped = scalars(root / "tensorboard" / run.run_id)
    assert stopped["train/loss"][-1][0] < 40
    go(run, root, ["tensorboard"])
    shown = scalars(root / "tensorboard" / run.run_id)
    files = RunDir(root, run.run_id)
    assert [s for s, _ in shown["train/loss"]] == [line["step"] for line in files.metrics.read()]
    assert [v for _, v in shown["train/loss"]] == pytest.approx([line["loss"] for line in files.metrics.read()])
    evaluated = files.evaluations.read()
    assert [s for s, _ in shown["eval/aa/loss"]] == [line["step"] for line in evaluated] == [20, 40]
    assert [v for _, v in shown["eval/aa/bits_per_byte"]] == pytest.approx([e["bits_per_byte"] for e in evaluated])


def test_wandb_stays_offline(data, root):
    wandb = pytest.importorskip("wandb", reason="the extra `track` is not installed")
    run = tiny.run(data, steps=16)
    go(run, root, ["wandb"])
    (file,) = (root / "wandb").glob(f"offline-run-*-{run.run_id}/run-{run.run_id}.wandb")
    names = {b"train/loss", b"eval/aa/loss", b"tokens", run.run_id.encode()}
    for _ in range(600):  # a process of wandb's own writes the file, and may be late on a busy machine
        if found := all(name in (logged := file.read_bytes()) for name in names):
            break
        time.sleep(0.1)
    assert found, [name for name in names if name not in logged]
    assert wandb.run is None
