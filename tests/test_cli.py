"""The command line as a user meets it: quick help, one-line errors, exit codes."""

import json
import subprocess
import sys

import pytest
import tiny

from lab.cli import main
from lab.commands.train import parse_count
from lab.errors import LabError
from lab.records import RunDir

HEAVY = ("jax", "tensorflow", "seqio", "pandas", "matplotlib", "flax", "orbax", "scipy")


def test_help_imports_nothing_heavy():
    code = f"import sys, lab.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["data"],
        ["data", "prepare"],
        ["train"],
        ["sweep"],
        ["sweep", "run"],
        ["sweep", "status"],
        ["figures"],
        ["fit"],
    ],
)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*verb, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


def fails(capsys, *argv) -> str:
    """Runs a command that must fail with one line, and returns the line."""
    assert main([str(a) for a in argv]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def test_bad_input_is_one_line_that_names_it(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n\n")
    root = ("--root", tmp_path / "out")
    assert "nothere.txt" in fails(capsys, "train", f"text:{tmp_path}/nothere.txt", *root)
    assert "empty" in fails(capsys, "train", f"text:{tmp_path}/empty.txt", *root)
    assert "Unknown corpus 'embedded:xx'" in fails(capsys, "train", "embedded:xx", *root)
    assert "no study 'nothing'" in fails(capsys, "sweep", "run", "nothing", *root)
    assert "demo has no scale 'gpu'. It has: nano." in fails(capsys, "sweep", "run", "demo", "--scale", "gpu", *root)
    assert "does not exist" in fails(capsys, "sweep", "status", tmp_path / "none.py", *root)
    assert "none.parquet does not exist" in fails(
        capsys, "figures", "demo", "--table", tmp_path / "none.parquet", *root
    )


def test_figures_come_from_the_committed_table_where_there_is_no_own(tmp_path, capsys):
    assert main(["figures", "demo", "--root", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "demo" / "report.html").exists() and "Report: " in capsys.readouterr().out


def test_study_files_that_raise_or_repeat_an_arm_are_named(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    assert "ZeroDivisionError" in (line := fails(capsys, "sweep", "status", broken, "--root", tmp_path))
    assert "broken.py, line 1" in line
    empty = tmp_path / "nothing.py"
    empty.write_text("x = 1\n")
    assert "defines no STUDY" in fails(capsys, "sweep", "status", empty, "--root", tmp_path)


def test_numbers_of_tokens_are_read_as_people_write_them():
    assert [parse_count(t) for t in ("300k", "1.2M", "2B", "500")] == [3e5, 1.2e6, 2e9, 500]
    for text in ("many", "", "-3k", "0", "nan"):
        with pytest.raises(LabError, match="number"):
            parse_count(text)


STUDY = """
import tiny
from sweeps.study import Arm, DataSpec, Scale, Study

def arms(data, scale):
    return tuple(Arm(f"arm {{s}}", tiny.run(data, steps=24, seed_init=s{extra})) for s in {seeds})

STUDY = Study("tiny", "?", "a loss", (Scale("nano", DataSpec(("tiny:aa",), 300), "seconds"),), arms)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study on the tiny store, as a file; its text is already there."""
    import lab.data.prepare

    data = tiny.prepared(tmp_path / "out", ("aa",))
    monkeypatch.setattr(lab.data.prepare, "prepare", lambda *_: data)

    def write(seeds="(0, 1, 2)", extra=""):
        path = tmp_path / "tiny_study.py"
        path.write_text(STUDY.format(seeds=seeds, extra=extra))
        return path

    return write


def test_two_arms_that_are_one_run_are_refused(study, tmp_path, capsys):
    assert "the same run" in fails(capsys, "sweep", "status", study("(0, 0)"), "--root", tmp_path / "out")


def test_a_sweep_is_trained_watched_collected_and_idempotent(study, tmp_path, capsys):
    from sweeps.launch import run_study
    from sweeps.study import find_study

    path, root = study(), tmp_path / "out"
    found = find_study(str(path))
    assert main(["sweep", "status", str(path), "--root", str(root), "--json"]) == 0
    before = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["state"] for r in before] == ["waiting"] * 3
    assert "No run" in fails(capsys, "sweep", "collect", path, "--root", root)
    assert run_study(found, found.scale(), root) == 0
    after = RunDir(root, before[0]["run_id"]).result_file.stat().st_mtime_ns
    capsys.readouterr()
    assert run_study(found, found.scale(), root) == 0
    assert "All 3 runs are done" in capsys.readouterr().out
    assert RunDir(root, before[0]["run_id"]).result_file.stat().st_mtime_ns == after
    assert main(["sweep", "status", str(path), "--root", str(root), "--json"]) == 0
    states = [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()]
    assert states == ["done"] * 3
    assert main(["sweep", "status", str(path), "--root", str(root)]) == 0
    assert "3/3" in capsys.readouterr().out


def test_diverged_runs_are_reported_and_do_not_stop_the_sweep(study, tmp_path, capsys):
    from sweeps.launch import run_study
    from sweeps.study import find_study

    bad = ", optim=tiny.OptimConfig(1e30 if s == 1 else 1e-2, warmup=0.0)"
    found = find_study(str(study(extra=bad)))
    assert run_study(found, found.scale(), tmp_path / "out") == 3
    assert "diverged at step" in capsys.readouterr().out


def lab(*argv, **kwargs) -> subprocess.CompletedProcess:
    """The installed command, in a process of its own."""
    command = [sys.executable, "-m", "lab", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)


def test_lab_train_from_a_text_file_to_its_losses(tmp_path):
    """The README's path on a file of one's own: trained, found done, diverged, too short for its context."""
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(tiny.documents("aa", 80)))
    root = ("--root", tmp_path / "out", "--vocab", "300")
    small = ("--model", "nano-2", "--tokens", "8k", "--context", "32", "--batch", "4")
    first = lab("train", f"text:{book}", *small, *root)
    assert first.returncode == 0, first.stderr
    assert "bits per byte" in first.stdout
    again = lab("train", f"text:{book}", *small, *root)
    assert again.returncode == 0 and "steps" not in again.stdout
    diverged = lab("train", f"text:{book}", *small, *root, "--lr", "1e30")
    assert diverged.returncode == 1
    assert "diverged at step" in diverged.stderr and "Lower --lr" in diverged.stderr
    long = lab("train", f"text:{book}", *root, "--context", "100000")
    assert long.returncode == 1
    assert "Traceback" not in long.stderr and "100000" in long.stderr.replace(",", "")
