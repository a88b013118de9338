"""What may happen to a training process and its disk: each ends in one clear line, and nothing written is lost."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import tiny
from test_train import At, go, measured

from lab.errors import LabError
from lab.records import RunDir
from lab.train import Stopped


def ctrl_c(times):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("times", "stops_with"), [(1, Stopped), (2, KeyboardInterrupt)])
def test_ctrl_c_saves_and_a_second_one_stops_at_once(root, data, times, stops_with):
    run = tiny.run(data)
    with pytest.raises(stops_with):
        go([run], root, observer=At(16, lambda: ctrl_c(times)))
    saved = list((root / "packs").glob("*/checkpoints/[0-9]*"))
    assert bool(saved) == (times == 1), "the first saves; the second does not wait"
    assert RunDir(root, run.run_id).result() is None
    interrupted = measured(go([run], root)[0])
    for folder in ("runs", "packs"):
        (root / folder).rename(root / f"aside-{folder}")
    assert interrupted == measured(go([run], root)[0])


def test_a_clock_that_jumps_changes_nothing(root, data, monkeypatch):
    run = tiny.run(data, seed_init=9)
    plain = go([run], root)[0]
    run_dir = RunDir(root, run.run_id)
    run_dir.path.rename(root / "aside")
    for folder in (root / "packs").iterdir():
        folder.rename(root / f"aside-{folder.name}")
    jumps = iter(range(10**6))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400 * (-1) ** next(jumps) * 365)
    jumpy = go([run], root, every_s=0)[0]
    assert measured(jumpy) == measured(plain)
    assert jumpy["run"]["wall_s"] >= 0
    assert jumpy["run"]["examples_hash"] == plain["run"]["examples_hash"]


@pytest.mark.parametrize(
    ("code", "says"), [(errno.EROFS, "read-only"), (errno.EACCES, "Permission denied"), (errno.ENOSPC, "disk is full")]
)
def test_a_directory_that_cannot_be_written_is_one_line(root, data, monkeypatch, code, says):
    run = tiny.run(data, steps=16, seed_init=3)

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(LabError, match=says):
        go([run], root)
    monkeypatch.undo()
    assert go([run], root)[0]["run"]["status"] == "done"


def test_a_run_folder_that_cannot_be_made_is_one_line(data, root, monkeypatch):
    original = Path.mkdir

    def refuse(self, *args, **kwargs):
        if self.parent.name == "runs":
            raise OSError(errno.EROFS, "Read-only file system")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(LabError, match="read-only"):
        go([tiny.run(data, steps=8)], root)


def test_a_disk_that_fills_while_logging_loses_nothing(root, data, monkeypatch):
    """The log's line cannot be written in the middle of training; after the mend, training goes on to the same end."""
    run = tiny.run(data, seed_init=4)
    expected = measured(go([run], root)[0])
    RunDir(root, run.run_id).path.rename(root / "aside")
    for folder in (root / "packs").iterdir():
        folder.rename(root / f"aside-{folder.name}")
    original = Path.open
    full = False

    def sometimes(self, mode="r", *args, **kwargs):
        if full and mode == "a" and self.name == "metrics.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, mode, *args, **kwargs)

    def fill():
        nonlocal full
        full = True

    monkeypatch.setattr(Path, "open", sometimes)
    with pytest.raises(LabError, match="disk is full"):
        go([run], root, observer=At(16, fill), every_s=0)
    full = False
    assert measured(go([run], root)[0]) == expected


@pytest.mark.slow
def test_the_campaign_command_kills_and_compares(tmp_path):
    """Two kills of the fault campaign; the committed table comes from `python -m tests.campaign`."""
    command = [sys.executable, "-m", "tests.campaign", "--kills", "2", "--out", str(tmp_path / "campaign.csv")]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / "campaign.csv").read_text().splitlines()) == 3
    assert "same examples: 8" in done.stdout or "same examples: 16" in done.stdout
