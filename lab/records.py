"""What a run says of itself: its directory on disk, and the files that are written whole or not at all.

A run directory holds `config.json` (identity), `metrics.jsonl` (one line a dispatch), `evaluations.jsonl` (one line an
evaluation and language), `checkpoints/` (those kept: the last, the best evaluated, and those that other runs start
from) and `result.json`, which is written last and atomically: its presence means that the run is over.
The table of many runs is `lab/table.py`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from lab import distributed
from lab.config import RunConfig, canonical_json, from_json, to_json
from lab.errors import LabError

# A process that waits longer than this for another one says so.
PATIENCE_S = 2.0


class RunDir:
    """The files of one run below `<root>/runs/<run_id>`."""

    def __init__(self, root: Path, run_id: str):
        self.run_id = run_id
        self.path = root / "runs" / run_id
        self.config_file = self.path / "config.json"
        self.metrics = LineLog(self.path / "metrics.jsonl")
        self.evaluations = LineLog(self.path / "evaluations.jsonl")
        self.result_file = self.path / "result.json"
        self.checkpoint_dir = self.path / "checkpoints"

    def create(self, config: RunConfig) -> None:
        """Writes `config.json`, or checks that the one there is this run's.

        Raises:
          LabError: when the directory was half-written or edited.
        """
        if self.config_file.exists():
            if canonical_json(self.read_config()) != canonical_json(config):
                raise LabError(
                    f"{self.config_file} does not describe run {self.run_id}.",
                    "It was edited by hand: move the directory away to train the run again.",
                )
            return
        with one_line_io_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config_file, to_json(config))

    def read_config(self) -> RunConfig:
        return read_config(self.config_file)

    def result(self) -> dict[str, Any] | None:
        """The run's result, or None while it is not over."""
        return read_json(self.result_file) if self.result_file.exists() else None


class LineLog:
    """A file of JSON lines, each with the `step` it was written at; a line cut short by a kill does not count."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All complete lines."""
        if not self.path.exists():
            return []
        text = self.path.read_text().splitlines()
        with contextlib.suppress(json.JSONDecodeError):
            whole: list[dict[str, Any]] = json.loads(f"[{','.join(text)}]")  # several times as fast as line by line
            return whole
        lines = []
        for line in text:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines

    def last(self) -> dict[str, Any] | None:
        """The last complete line, read from the file's end."""
        if not self.path.exists():
            return None
        with self.path.open("rb") as f:
            f.seek(max(0, self.path.stat().st_size - 4096))
            for line in reversed(f.read().splitlines()):
                try:
                    return json.loads(line)
                except json.JSONDecodeError:
                    continue
        return None

    def append(self, *lines: Mapping[str, Any]) -> None:
        if not distributed.leads():
            return
        with one_line_io_errors(self.path), self.path.open("a") as f:
            f.write("".join(json.dumps(line) + "\n" for line in lines))

    def truncate(self, step: int) -> None:
        """Drops what was logged after `step`: a resumed run logs it again."""
        if self.path.exists():
            kept = [line for line in self.read() if line["step"] <= step]
            atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def read_config(path: Path) -> RunConfig:
    """Reads a `config.json`.

    Raises:
      LabError: when it is not there, half-written, or not a run's.
    """
    config = from_json(read_json(path))
    if not isinstance(config, RunConfig):
        raise LabError(f"{path} describes a {type(config).__name__}, not a run.")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Raises LabError where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise LabError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise LabError(f"{path} is half-written.", f"Move {path.parent} away and run again.") from None


def write_json(path: Path, value: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(value, indent=1) + "\n")


def atomic_write(path: Path, text: str) -> None:
    """Writes beside `path` and renames: a reader sees the old text or the new, never a part. Only the leader writes."""
    if not distributed.leads():
        return
    with one_line_io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "w") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def one_line_io_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a read-only directory into one clear line."""
    try:
        yield
    except OSError as error:
        mends = {
            errno.ENOSPC: "The disk is full: free space and run again; what was written before is kept.",
            errno.EDQUOT: "The disk quota is used up: free space and run again.",
            errno.EROFS: "The file system is read-only: choose another --root.",
            errno.EACCES: "Permission denied: choose another --root.",
        }
        if error.errno in mends:
            raise LabError(f"Cannot write {path}.", mends[error.errno]) from None
        raise


class Held(LabError):
    """Another process holds what this one asked for."""


@contextlib.contextmanager
def locked(directory: Path, wait: bool = False) -> Iterator[None]:
    """Holds `directory` for this process, on whatever machine; a process that dies lets go.

    Args:
      directory: made where it is not there. A network file system must support flock(2).
      wait: whether to wait for a process that holds it.

    Raises:
      Held: when another process holds it and this one is not to wait.
    """
    file = directory / ".lock"
    while True:
        with one_line_io_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            f = file.open("a")
        with f:
            try:
                _flock(f, wait)
            except BlockingIOError:
                mend = "Wait for it, or stop it first."
                raise Held(f"{directory} is being written by another process.", mend) from None
            if file.exists() and file.stat().st_ino == os.fstat(f.fileno()).st_ino:
                yield
                return
            # Else the directory was removed, and perhaps made again, before it was held.


def _flock(file: IO[str], wait: bool) -> None:
    """Takes the lock; without `wait`, several times, since `lab sweep status` touches it for an instant. A wait that is
    not short is said on stderr.

    Raises:
      BlockingIOError: when another process keeps it.
    """
    for pause in (None,) if wait else (0.01, 0.03, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if pause is not None:
                time.sleep(pause)
    if not wait:
        raise BlockingIOError
    message = f"Waiting for another process that writes {Path(file.name).parent} ..."
    notice = threading.Timer(PATIENCE_S, print, (message,), {"file": sys.stderr, "flush": True})
    notice.start()
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    finally:
        notice.cancel()


@functools.cache
def provenance() -> dict[str, str]:
    """Versions and source revision, the same for every run of a process."""
    names = ("jax", "flax", "optax")
    versions = " ".join([f"python-{platform.python_version()}", *(f"{n}-{metadata.version(n)}" for n in names)])
    return {"versions": versions, "commit": source_revision()}


def source_revision() -> str:
    """The git revision of the installed source with `+` where files differ from it, or `unknown`."""
    here = Path(__file__).resolve().parent
    try:
        git = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True)
        revision = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if changed else "")
