"""Where a study stands, from files alone: states, what failed and why, what is to go; and forgetting failures."""

import dataclasses
import errno
import io
import json
import logging
import os

import pytest
import synthetic
import tiny
from rich.console import Console

from lab.cli import main
from lab.errors import LabError
from lab.records import RunDir, atomic_write, locked
from sweeps.failures import attempt, read_failure
from sweeps.retry import retry
from sweeps.status import StudyReader, by_arm, study_status
from sweeps.status_table import status_report
from sweeps.study import Arm, DataSpec, Scale, Study


def fail(reason="no memory"):
    def work():
        raise MemoryError(reason)

    return work


def states(arms, root):
    return [s.state for s in study_status(arms, root)]


def shown(arms, root):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(status_report("s", study_status(arms, root)))
    return console.export_text()


def test_a_run_is_running_exactly_while_a_process_holds_its_pack(tmp_path):
    arms = [synthetic.arm(seed_init=k) for k in range(4)]
    assert states(arms, tmp_path) == ["waiting"] * 4
    runs = [a.run for a in arms]
    folder = synthetic.pack(runs, tmp_path)
    synthetic.finish(runs[0], tmp_path)
    synthetic.begin(runs[1], tmp_path, step=16)
    synthetic.begin(runs[2], tmp_path)
    with locked(folder):
        assert states(arms, tmp_path) == ["done", "running", "running", "waiting"]
    assert states(arms, tmp_path) == ["done", "stopped", "waiting", "waiting"]
    (folder / "finished").touch()
    synthetic.finish(runs[1], tmp_path, loss=None)
    assert states(arms, tmp_path) == ["done", "diverged", "waiting", "waiting"]


def test_what_is_to_go_follows_from_the_speed_so_far(tmp_path):
    arms = [synthetic.arm("a", seed_init=0), synthetic.arm("a", seed_init=1), synthetic.arm("b", steps=80)]
    assert [a.to_go_s for a in by_arm(study_status(arms, tmp_path))] == [None, None]
    synthetic.finish(arms[0].run, tmp_path, loss=4.0, seconds=10)
    a, b = by_arm(study_status(arms, tmp_path))
    assert (a.to_go_s, b.to_go_s) == (pytest.approx(10), pytest.approx(20))
    assert (a.loss, a.train_loss, a.share) == (4.0, None, pytest.approx(0.5))
    synthetic.begin(arms[2].run, tmp_path, step=40, seconds=40)  # half way at a quarter of the speed
    b = by_arm(study_status(arms, tmp_path))[1]
    assert (b.to_go_s, b.train_loss, b.share) == (pytest.approx(40), 2.0, pytest.approx(0.5))


def test_a_branch_is_as_far_as_its_own_steps(tmp_path):
    from lab.config import Parent

    trunk = synthetic.run(steps=80)
    branch = Arm("branch", synthetic.run(steps=80, seed_data=3, parent=Parent(trunk.run_id, 40, "state")))
    assert study_status([branch], tmp_path)[0].share == 0
    directory = synthetic.begin(branch.run, tmp_path)
    directory.metrics.append({"step": 50, "tokens": 50 * 64, "loss": 3.0, "wall_s": 2.0})
    (status,) = study_status([branch], tmp_path)
    assert status.share == pytest.approx(0.25)
    assert status.tokens_per_s == pytest.approx(10 * 64 / 2.0)


def test_a_failure_is_kept_with_the_end_of_its_log_until_it_is_overcome(tmp_path):
    arms = [synthetic.arm("large", seed_init=k) for k in range(2)]
    folder = synthetic.pack([a.run for a in arms], tmp_path)
    synthetic.finish(arms[0].run, tmp_path)

    def work():
        logging.getLogger("some.library").warning("running low")
        raise MemoryError("17 GB\nasked for")

    failure = attempt(folder, work)
    assert failure == read_failure(folder)
    assert failure.reason == "MemoryError: 17 GB asked for"
    assert any("running low" in line for line in failure.log)
    assert any("Traceback" in line for line in failure.log)
    assert states(arms, tmp_path) == ["done", "failed"]
    text = shown(arms, tmp_path)
    assert "1 run failed (large): MemoryError: 17 GB asked for" in text
    assert "raise MemoryError" in text and f"{folder}/log.txt" in text.replace("\n", "")
    with locked(folder):
        assert states(arms, tmp_path) == ["done", "waiting"]
    assert attempt(folder, lambda: None) is None
    assert states(arms, tmp_path) == ["done", "waiting"]
    assert not (folder / "failed.json").exists()


def test_being_stopped_is_no_failure(tmp_path):
    class Stopped(Exception):
        pass

    def work():
        raise Stopped

    with pytest.raises(Stopped):
        attempt(tmp_path / "p", work, passing=(Stopped,))
    assert read_failure(tmp_path / "p") is None
    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path / "p", lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_a_failure_that_cannot_be_written_ends_the_sweep_with_one_line(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LabError, match="disk is full"):
            attempt(tmp_path / "p", lambda: atomic_write(tmp_path / "result.json", "x"))
    assert read_failure(tmp_path / "p") is None


def test_a_half_written_result_is_named_and_hides_nothing(tmp_path):
    arms = [synthetic.arm(seed_init=k) for k in range(3)]
    for a in arms:
        synthetic.finish(a.run, tmp_path)
    file = RunDir(tmp_path, arms[1].run.run_id).result_file
    text = file.read_text()
    for damage in (text[: len(text) // 2], "[1]", '{"run": {}}', ""):
        file.write_text(damage)
        runs = study_status(arms, tmp_path)
        assert [s.state for s in runs] == ["done", "failed", "done"]
        assert str(file) in runs[1].reason
    assert file.read_text() == ""


def test_a_reader_sees_what_changed_since(tmp_path):
    arms = [synthetic.arm(seed_init=k) for k in range(2)]
    reader = StudyReader(arms, tmp_path)
    synthetic.finish(arms[0].run, tmp_path, loss=4.0)
    assert [(s.state, s.loss) for s in reader.read()] == [("done", 4.0), ("waiting", None)]
    synthetic.finish(arms[1].run, tmp_path, loss=3.0)
    file = synthetic.finish(arms[0].run, tmp_path, loss=2.0).result_file
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    assert [s.loss for s in reader.read()] == [2.0, 3.0]


def test_retry_forgets_failed_packs_whole_and_keeps_results(tmp_path):
    arms = [synthetic.arm(f"arm {k}", seed_init=k) for k in range(4)]
    runs = [a.run for a in arms]
    folder = synthetic.pack(runs[:3], tmp_path)
    other = synthetic.pack(runs[3:], tmp_path)
    synthetic.finish(runs[0], tmp_path)
    synthetic.begin(runs[1], tmp_path, step=16)
    for path in (folder, other):
        (path / "checkpoints" / "3").mkdir(parents=True)
        attempt(path, fail())
    assert states(arms, tmp_path) == ["done", "failed", "failed", "failed"]
    with pytest.raises(LabError, match="no arm 'arm 9'"):
        retry(arms, tmp_path, "arm 9")
    with locked(folder):
        assert retry(arms, tmp_path, "arm 1") == []  # it runs
        attempt(other, fail())
        assert [s.arm for s in retry(arms, tmp_path)] == ["arm 3"]
    attempt(folder, fail())
    assert [s.arm for s in retry(arms, tmp_path, "arm 1")] == ["arm 1", "arm 2"]
    assert states(arms, tmp_path) == ["done", "waiting", "waiting", "waiting"]
    assert not RunDir(tmp_path, runs[1].run_id).path.exists()
    assert not (folder / "checkpoints").exists() and (folder / "plan.json").exists() and (folder / "finished").exists()
    assert not other.exists()
    assert retry(arms, tmp_path) == []


def test_retry_forgets_diverged_runs_on_request_only(tmp_path):
    arms = [synthetic.arm(seed_init=k) for k in range(2)]
    folder = synthetic.pack([a.run for a in arms], tmp_path)
    synthetic.finish(arms[0].run, tmp_path)
    synthetic.finish(arms[1].run, tmp_path, loss=None)
    (folder / "finished").touch()
    assert retry(arms, tmp_path) == []
    assert [s.reason for s in retry(arms, tmp_path, diverged=True)] == ["diverged at step 9: loss nan"]
    assert states(arms, tmp_path) == ["done", "waiting"]
    synthetic.finish(arms[1].run, tmp_path, loss=None)
    RunDir(tmp_path, arms[0].run.run_id).result_file.unlink()
    retry(arms, tmp_path, diverged=True)
    assert not folder.exists()  # no result names its plan any more


def test_a_pack_that_fails_does_not_end_the_sweep_and_is_tried_again(tmp_path, capsys):
    """Two shapes; the text of one is missing, and then there again."""
    from sweeps.launch import FAILED, run_study

    data = tiny.prepared(tmp_path)

    def arms(_, scale):
        wide = dataclasses.replace(tiny.run(data).model, d_model=24)
        return (Arm("bb", tiny.run(data, ("bb",), steps=16, model=wide)), Arm("aa", tiny.run(data, steps=16)))

    scale = Scale("nano", DataSpec(("tiny:aa",), 300), "seconds")
    study = Study("tiny", "?", "a loss", (scale,), arms)
    store, away = tmp_path / "data" / "stores" / "bb", tmp_path / "away"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.data.prepare.prepare", lambda *_: data)
        store.rename(away)
        assert run_study(study, scale, tmp_path) == FAILED
        printed = capsys.readouterr().out
        found = arms(None, scale)
        assert states(found, tmp_path) == ["failed", "done"]
        failed = study_status(found, tmp_path)[0]
        assert "1 run failed (bb)" in printed and "token store" in failed.reason
        assert "Traceback" not in printed and any("token store" in line for line in failed.log)
        away.rename(store)
        assert run_study(study, scale, tmp_path) == 0
        assert states(found, tmp_path) == ["done", "done"]
    assert not list((tmp_path / "packs").glob("*/failed.json"))


STUDY = """
import synthetic
from sweeps.study import DataSpec, Scale, Study

def arms(prepared, scale):
    return tuple(synthetic.arm(f"arm {k}", seed_init=k) for k in range(3))

STUDY = Study("made", "?", "a loss", (Scale("nano", DataSpec(("tiny:aa",), 300), "seconds"),), arms)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.data.prepare.prepare", lambda *_: None)
    (tmp_path / "made.py").write_text(STUDY)
    return lambda verb, *rest: main(["sweep", verb, str(tmp_path / "made.py"), "--root", str(tmp_path), *rest])


def test_the_commands(tmp_path, command, capsys):
    arms = [synthetic.arm(f"arm {k}", seed_init=k) for k in range(3)]
    folder = synthetic.pack([a.run for a in arms], tmp_path)
    attempt(folder, fail("too large"))
    synthetic.finish(arms[0].run, tmp_path)
    synthetic.finish(arms[1].run, tmp_path, loss=None)
    assert command("status", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["arm"], line["state"]) for line in lines] == [
        ("arm 0", "done"),
        ("arm 1", "diverged"),
        ("arm 2", "failed"),
    ]
    assert lines[2]["reason"] == "MemoryError: too large"
    assert command("status") == 0
    printed = capsys.readouterr().out
    assert "MemoryError: too large" in printed and "diverged at step 9" in printed
    assert command("status", "--watch") == 0  # nothing is left to wait for
    assert command("retry", "--arm", "arm 2") == 0
    assert "1 runs will be trained from the start" in capsys.readouterr().out
    assert command("retry") == 0
    assert "Nothing failed" in capsys.readouterr().out
