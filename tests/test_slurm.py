"""Studies on Slurm: what is asked of it; and a real one-node cluster, with tasks cancelled, preempted and resumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
import tiny

from lab.errors import LabError
from sweeps.slurm import SlurmJob, describe, submit

HERE = Path(__file__).parent
ARGUMENTS = ("sweep", "run", "demo", "--packs=1")


def test_options_become_parameters_of_sbatch():
    job = SlurmJob(partition="long", account="me", gpus=1, minutes=90, sbatch=("constraint=a100", "--mem=32G"))
    text = describe(job.parameters("lab-demo", cpus=4), 7, ARGUMENTS)
    for flag in ("partition=long", "account=me", "gpus-per-node=1", "time=90", "constraint=a100", "mem=32G", "requeue"):
        assert f" --{flag} " in text
    assert "--array=0-6" in text and "--cpus-per-task=4" in text and "--signal=USR2@120" in text
    assert text.endswith("--wrap 'srun lab sweep run demo --packs=1'")
    plain = describe(SlurmJob().parameters("lab-demo", cpus=1), 1, ARGUMENTS)
    assert not re.search("partition|account|gpus", plain)


def test_an_option_without_a_value_is_refused():
    with pytest.raises(LabError, match="'exclusive' is not of the form name=value"):
        SlurmJob(sbatch=("exclusive",)).parameters("lab-demo", cpus=1)


def test_without_slurm_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="no Slurm here"):
        submit("demo", ARGUMENTS, tmp_path, SlurmJob(), 1, 2)
    assert "2 packs" in submit("demo", ARGUMENTS, tmp_path, SlurmJob(dry_run=True), 1, 2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    with slurm_cluster.slurm_cluster(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's file, and a root where it was trained without Slurm."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(HERE / "small_study.py", folder / "small.py")
    (folder / "text.txt").write_text("".join(t.replace("\n", " ") + "\n" for t in tiny.documents("aa", 200)))
    done = lab(folder / "local", folder / "small.py")
    assert done.returncode == 0, done.stderr
    return folder / "small.py", folder / "local"


@pytest.fixture
def root(study, tmp_path):
    """A fresh root that has the study's text."""
    (tmp_path / "data").symlink_to(study[1] / "data")
    return tmp_path


def lab(root, study, *options):
    command = [sys.executable, "-m", "lab", "sweep", "run", study, "--root", root, "--devices", "1", *options]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=env)


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()


def jobs(*states):
    return slurm("squeue", "--noheader", "--array", "--format=%i", f"--states={','.join(states) or 'all'}")


def until(condition, what, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.1)
    return found


def trained_at_once(root):
    """Packs whose runs log something, by the run that did."""
    return [p for p in root.glob("runs/*/metrics.jsonl") if not (p.parent / "result.json").exists()]


def logged(root, plan):
    """What the unfinished runs of a pack have logged."""
    return {p.parent.name: p.read_text() for p in trained_at_once(root) if p.parent.name in plan}


def saved(root):
    return [p for p in root.glob("packs/*/checkpoints/*") if p.name.isdigit() and (p / "record").exists()]


def restarts(job):
    return int(re.search(r"Restarts=(\d+)", " ".join(slurm("scontrol", "show", "job", job))).group(1))


def rows(root):
    import pyarrow.parquet as pq

    table = pq.read_table(root / "small" / "results.parquet")
    keys = ("run_id", "arm", "language", "examples_hash", "tokens_seen", "eval_hash", "status", "loss")
    return sorted(zip(*(table[k].to_pylist() for k in keys), strict=True))


def logs(root):
    return "\n".join(p.read_text() for p in sorted((root / "small" / "slurm").glob("*_log.*")))


@pytest.mark.slow
def test_an_unknown_partition_is_one_line(cluster, study, root):
    done = lab(root, study[0], "--on", "slurm", "--partition", "nope")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "error: Slurm refused the job: Batch job submission failed: Invalid partition name specified. "
        "Its partitions are high, low: name one with --partition."
    ]


@pytest.mark.slow
def test_tasks_that_are_stopped_and_preempted_come_back_and_give_the_same_table(cluster, study, root):
    done = lab(root, study[0], "--on", "slurm", "--partition", "low", "--minutes", "20")
    assert done.returncode == 0 and "Submitted 2 tasks" in done.stdout, done.stdout + done.stderr
    job = re.search(r"as job (\d+)", done.stdout).group(1)
    again = lab(root, study[0], "--on", "slurm", "--partition", "low")
    assert "2 tasks of this study are queued or running already" in again.stdout

    # One task is asked to stop, as before its time limit.
    until(lambda: len(trained_at_once(root)) == 2, "both tasks train")
    slurm("scancel", "--signal=USR2", f"{job}_0")
    until(lambda: restarts(f"{job}_0") == 1, "the task is back in the queue")
    assert saved(root), logs(root)
    plan = (saved(root)[0].parent.parent / "plan.json").read_text()

    # Then a job of a better partition takes the whole node away from it.
    lines = logged(root, plan)
    until(lambda: logged(root, plan) != lines, "the task trains again")
    slurm("sbatch", "--partition=high", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: restarts(f"{job}_0") == 2, "it is preempted")
    until(lambda: not jobs("PENDING", "RUNNING", "COMPLETING"), "all is done", 300)
    text = logs(root)
    assert text.count("Stopped; everything is saved.") >= 2, text
    compare(rows(root), rows(study[1]))
    assert "Table:" in text, "the last task makes the table"


@pytest.mark.slow
def test_a_cancelled_task_saves_and_stays_away_until_asked_for(cluster, study, root):
    done = lab(root, study[0], "--on", "slurm", "--partition", "low")
    job = re.search(r"as job (\d+)", done.stdout).group(1)
    until(lambda: trained_at_once(root), "a task trains")
    slurm("scancel", job)
    until(lambda: not jobs("PENDING", "RUNNING", "COMPLETING"), "all tasks are gone")
    assert saved(root), logs(root)
    assert "Slurm ends this task" in logs(root) and restarts(job) == 0
    local = lab(root, study[0])
    assert local.returncode == 0, local.stdout + local.stderr
    compare(rows(root), rows(study[1]))


def compare(found, expected):
    """The same runs on the same examples; losses differ by rounding at most."""
    assert [r[:-1] for r in found] == [r[:-1] for r in expected]
    assert [r[-1] for r in found] == pytest.approx([r[-1] for r in expected], rel=1e-5)
