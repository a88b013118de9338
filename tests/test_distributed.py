"""Two processes that train one run together, and how they find each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_cluster
import tiny

from lab import distributed
from lab.errors import LabError
from lab.records import RunDir

HERE = Path(__file__).parent
SMALL = ("--model", "nano-1x16", "--tokens", "8k", "--context", "16", "--batch", "4", "--vocab", "300")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A root with a tiny text, and the result of one process."""
    root = tmp_path_factory.mktemp("alone")
    tiny.prepared(root)
    run_id = go(root)[0]["run"]
    return root, RunDir(root, run_id).result()


@pytest.fixture
def root(alone, tmp_path):
    (tmp_path / "data").symlink_to(alone[0] / "data")
    return tmp_path


def environment():
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return clean | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def go(root, axes="1,1,1", processes=1, stop_at=0):
    """Trains the tiny run; what each process printed."""
    coordinator = f"127.0.0.1:{free_port()}"
    started = []
    for k in range(processes):
        joining = [coordinator, str(k)] if processes > 1 else []
        command = [sys.executable, HERE / "one_of_two.py", root, stop_at, axes, *joining]
        started.append(
            subprocess.Popen(
                list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
            )
        )
    printed = [p.communicate(timeout=300) for p in started]
    assert [p.returncode for p in started] == [0] * processes, printed
    return [json.loads(out.splitlines()[-1]) for out, _ in printed]


def check(result, alone):
    """The same examples, in the same order; the same losses but for rounding."""
    assert result["run"]["examples_hash"] == alone["run"]["examples_hash"]
    assert result["run"]["curve_loss"] == pytest.approx(alone["run"]["curve_loss"], abs=1e-5)
    for ours, theirs in zip(result["evaluations"], alone["evaluations"], strict=True):
        assert ours["eval_hash"] == theirs["eval_hash"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


@pytest.mark.slow
def test_two_processes_train_one_run_stop_together_and_one_goes_on(alone, root):
    """Parameters are sharded over both; SIGTERM reaches only one of them."""
    said = go(root, "1,2,1", processes=2, stop_at=16)
    assert [(s["processes"], s["process"], s["devices"], s["stopped"]) for s in said] == [
        (2, 0, 2, True),
        (2, 1, 2, True),
    ]
    assert RunDir(root, said[0]["run"]).result() is None
    assert go(root)[0]["stopped"] is False
    check(RunDir(root, said[0]["run"]).result(), alone[1])


def test_two_processes_share_each_batch_and_write_each_line_once(alone, root):
    said = go(root, "2,1,1", processes=2)
    files = RunDir(root, said[0]["run"])
    check(files.result(), alone[1])
    assert files.result()["run"]["device"].startswith("2 x")
    steps = [line["step"] for line in files.metrics.read()]
    assert steps == sorted(set(steps)) and steps[-1] == 40
    assert len(files.evaluations.read()) == 2


def test_a_process_is_alone_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")  # in the script of a job, outside of srun
    assert distributed.expected() == distributed.join() == 1
    assert distributed.alone() and distributed.leads()
    assert distributed.any_of(True, False) == (True, False)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    assert distributed.expected() == 4 and distributed.expected(2) == 2
    monkeypatch.setenv("SLURM_NTASKS", "1")  # a task of an array
    assert distributed.join() == 1


def test_processes_must_be_numbered():
    with pytest.raises(LabError, match="--processes and --process"):
        distributed.join("host:1234", processes=2)


@pytest.mark.slow
def test_the_tasks_of_an_srun_train_together(tmp_path):
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    text = tmp_path / "text.txt"
    text.write_text("".join(t.replace("\n", " ") + "\n" for t in tiny.documents("aa", 200)))
    train = [sys.executable, "-m", "lab", "train", f"text:{text}?split=line", *SMALL, "--root"]
    env = environment()
    one = subprocess.run([*train, str(tmp_path / "one")], capture_output=True, text=True, timeout=300, env=env)
    assert one.returncode == 0, one.stderr
    shutil.copytree(tmp_path / "one" / "data", tmp_path / "two" / "data")
    with slurm_cluster.slurm_cluster(tmp_path / "slurm"):
        env |= {k: os.environ[k] for k in ("SLURM_CONF", "PATH")}
        command = ["srun", "--ntasks=2", *train, str(tmp_path / "two"), "--data", "2"]
        two = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
        assert two.returncode == 0, two.stdout + two.stderr
        few = subprocess.run([*command[:-2], "--data", "1"], capture_output=True, text=True, timeout=300, env=env)
        assert "2 processes hold 2 devices together; the run is to use 1" in few.stderr
    run_id = re.search(r"Run (\w+):", two.stdout).group(1)
    assert two.stdout.count(run_id) == one.stdout.count(run_id), "only one process talks"
    check(*(RunDir(tmp_path / name, run_id).result() for name in ("two", "one")))
