"""The example scripts run, stay short, and recover what they say they were made from."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "analysis/examples"


def _run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> list[str]:
    script = EXAMPLES / name
    assert len(script.read_text().splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def test_own_runs(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    lines = _run("own_runs.py", tmp_path, monkeypatch, capsys)
    assert lines[0].startswith("chinchilla: converged on 28 runs") and "1 rows dropped (missing)" in lines[0]
    assert (tmp_path / "own_runs.png").stat().st_size > 10_000
    truth = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    for line in lines[1:6]:
        name, _, low, high = line.replace("[", "").replace("]", "").replace(",", "").split()
        assert float(low) < truth[name] < float(high)


def test_two_stage(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    lines = _run("two_stage.py", tmp_path, monkeypatch, capsys)
    assert [line.split()[1] for line in lines[:3]] == ["B", "beta", "gamma"]
    assert all("scratch catches up" in line for line in lines[3:])


def test_token_efficiency(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    clone, even, beyond = _run("token_efficiency.py", tmp_path, monkeypatch, capsys)
    assert float(clone.split()[3]) == pytest.approx(2.076, abs=0.02)  # published 2.076345
    assert float(even.split()[2]) == pytest.approx(0.887, abs=0.005)  # published .886629
    assert beyond.startswith("too good: TEff at least 3 ")
