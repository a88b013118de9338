"""Run directories and tables under bad conditions: one clear line each, nothing lost."""

import errno
import json
import multiprocessing
import os
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_config import run_config

from lab import records
from lab.errors import LabError
from lab.records import RunDir, atomic_write, locked
from lab.table import COLUMNS, read_table, table_of, write_table


def row(**changes):
    kinds = {"string": "x", "int64": 1, "float64": 1.0, "list<double>": [1.0], "list<int64>": [1]}
    return {**{name: kinds[kind] for name, (kind, _) in COLUMNS.items()}, "status": "done", **changes}


def test_a_half_written_run_directory_is_named(tmp_path):
    run = run_config()
    directory = RunDir(tmp_path, run.run_id)
    directory.create(run)
    directory.create(run)
    assert directory.read_config() == run
    directory.config_file.write_text(directory.config_file.read_text()[:40])
    with pytest.raises(LabError, match=r"config\.json is half-written"):
        directory.create(run)


def test_an_edited_run_directory_is_refused(tmp_path):
    run = run_config()
    directory = RunDir(tmp_path, run.run_id)
    directory.create(run)
    form = json.loads(directory.config_file.read_text())
    directory.config_file.write_text(json.dumps({**form, "steps": 11}))
    with pytest.raises(LabError, match="edited by hand"):
        directory.create(run)


def test_metrics_survive_a_cut_last_line_and_are_truncated_to_a_step(tmp_path):
    directory = RunDir(tmp_path, "r")
    directory.path.mkdir(parents=True)
    directory.metrics.append(*({"step": s, "loss": 1.0 * s} for s in (8, 16, 24)))
    with directory.metrics.path.open("a") as f:
        f.write('{"step": 32, "lo')
    assert [m["step"] for m in directory.metrics.read()] == [8, 16, 24]
    assert directory.metrics.last() == {"step": 24, "loss": 24.0}
    directory.metrics.truncate(16)
    assert [m["step"] for m in directory.metrics.read()] == [8, 16]


def test_a_full_disk_is_one_clear_line_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    atomic_write(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LabError, match="disk is full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _try_lock(directory, answer):
    try:
        with locked(directory):
            answer.put("taken")
    except LabError as error:
        answer.put(str(error))


def test_two_processes_cannot_hold_one_directory(tmp_path):
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    with locked(tmp_path):
        process = context.Process(target=_try_lock, args=(tmp_path, answer))
        process.start()
        assert "another process" in answer.get(timeout=60)
        process.join()
    with locked(tmp_path):
        pass


def test_a_process_that_waits_says_for_what(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PATIENCE_S", 0.0)
    said = threading.Event()
    spoken: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **_: (spoken.append(text), said.set()))
    taken = threading.Event()

    def wait():
        with locked(tmp_path, wait=True):
            taken.set()

    with locked(tmp_path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert said.wait(60) and not taken.is_set()
    waiting.join(60)
    assert taken.is_set()
    assert spoken == [f"Waiting for another process that writes {tmp_path} ..."]


def test_tables_keep_every_column_and_its_order(tmp_path):
    path = tmp_path / "t.parquet"
    rows = [row(run_id="b", language="en"), row(run_id="a", language="enm", status="diverged", loss=None)]
    assert write_table(path, table_of(rows)) == 2
    table = read_table(path)
    assert list(table.columns) == list(COLUMNS)
    assert table.run_id.tolist() == ["a", "b"]
    assert table.loss.isna().tolist() == [True, False]
    before = path.read_bytes()
    write_table(path, table_of(rows[::-1]))
    assert path.read_bytes() == before


def test_a_row_of_another_schema_is_refused(tmp_path):
    with pytest.raises(LabError, match="colour"):
        table_of([{**row(), "colour": 1}])


def test_tables_of_another_schema_or_kind_are_refused(tmp_path):
    with pytest.raises(LabError, match="does not exist"):
        read_table(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet at all")
    with pytest.raises(LabError, match="not a parquet table"):
        read_table(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "old.parquet")
    with pytest.raises(LabError, match="result schema none"):
        read_table(tmp_path / "old.parquet")
