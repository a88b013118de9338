"""What a finished run says of itself: a run directory on disk, and typed rows in a parquet table.

A run directory holds `config.json` (identity), `metrics.jsonl` (one line a dispatch), `checkpoints/` (final
parameters) and `result.json`, which is written last and atomically: its presence means that the run is over.
A table has one row for each run and evaluation language.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config import RunConfig, canonical_json, from_json, to_json
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 1

# name -> (type, meaning). Lists hold one entry an evaluation document.
COLUMNS: dict[str, tuple[str, str]] = {
    "run_id": ("string", "fingerprint of the run's config: its identity"),
    "study": ("string", "study that asked for the run"),
    "arm": ("string", "arm of the study"),
    "language": ("string", "evaluation language of this row"),
    "mixture": ("string", "languages and shares of each stage, e.g. en:0.9 enm:0.1"),
    "seed_init": ("int64", "seed of the parameters"),
    "seed_data": ("int64", "seed of the order of examples"),
    "group": ("string", "trajectory: rows of one group are one cluster for intervals"),
    "parent": ("string", "run whose parameters this run started from, or null"),
    "parent_tokens": ("int64", "tokens the parent had seen"),
    "family": ("string", "gpt2 or llama"),
    "d_model": ("int64", "width"),
    "n_layers": ("int64", "depth"),
    "context": ("int64", "tokens a sequence"),
    "n_total": ("int64", "all parameters"),
    "n_nonembedding": ("int64", "parameters without token embedding and head (learned positions count)"),
    "n_embedding": ("int64", "parameters of the token embedding"),
    "n_head": ("int64", "parameters of the language-model head"),
    "v_total": ("int64", "size of the vocabulary over all languages"),
    "v_language": ("int64", "pieces of the evaluation language"),
    "layout_hash": ("string", "hash of the vocabulary layout's tables"),
    "tokenizer_hash": ("string", "hash of the evaluation language's tokenizer"),
    "tokens_seen": ("int64", "training tokens, all languages"),
    "tokens_language": ("int64", "training tokens of the evaluation language, as realised"),
    "unique_tokens": ("int64", "distinct training tokens of the evaluation language"),
    "epochs": ("float64", "passes over the evaluation language's source, by all its components"),
    "flops_6nd": ("float64", "6 (n_nonembedding + n_head) tokens_seen"),
    "flops_exact": ("float64", "FLOPs of all training steps, head and attention counted"),
    "flops_spent": ("float64", "FLOPs spent for this run beyond what its trunk had spent"),
    "eval_hash": ("string", "hash of the evaluation set's tokens"),
    "eval_tokens": ("int64", "scored targets of the plain loss"),
    "eval_bytes": ("int64", "bytes of those targets"),
    "loss": ("float64", "plain loss, nats per token"),
    "bits_per_byte": ("float64", "plain loss, bits per byte of the scored targets"),
    "ppl": ("float64", "sliding-window perplexity (arXiv:2404.07982 protocol)"),
    "ppl_window": ("int64", "its window, tokens"),
    "ppl_stride": ("int64", "its stride, tokens"),
    "document_nats": ("list<double>", "plain loss summed over each evaluation document"),
    "document_tokens": ("list<int64>", "scored targets of each evaluation document"),
    "curve_tokens": ("list<int64>", "tokens seen at points of the training curve"),
    "curve_loss": ("list<double>", "training loss there: mean since the point before, nats per token"),
    "schedule": ("string", "learning-rate schedule"),
    "peak_lr": ("float64", "peak learning rate"),
    "weight_decay": ("float64", "AdamW decay"),
    "batch_tokens": ("int64", "tokens a step"),
    "tuned": ("float64", "ln(peak_lr / best known rate), or null where no rate was compared"),
    "train_loss": ("float64", "mean training loss of the last dispatch, nats per token"),
    "status": ("string", "done or diverged"),
    "exclusion": ("string", "rule that excludes the row from fits, or null"),
    "pack": ("string", "pack and slot the run trained in: provenance, not identity"),
    "examples_hash": ("string", "chained hash of the consumed example ids, in order"),
    "wall_s": ("float64", "seconds of training and evaluation, shared by the runs of a pack"),
    "device": ("string", "what it ran on"),
    "versions": ("string", "python, jax, flax, optax"),
    "commit": ("string", "source revision, with + if modified"),
    "schema": ("int64", "version of these columns"),
}


class RunDir:
    """The files of one run below `<root>/runs/<run_id>`."""

    def __init__(self, root: Path, run_id: str):
        self.run_id = run_id
        self.path = root / "runs" / run_id
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
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
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config_file, to_json(config))

    def read_config(self) -> RunConfig:
        return read_config(self.config_file)

    def result(self) -> dict[str, Any] | None:
        """The run's result, or None while it is not over."""
        return read_json(self.result_file) if self.result_file.exists() else None

    def metrics(self) -> list[dict[str, float]]:
        """All complete lines of `metrics.jsonl` (a line cut short by a kill is left out)."""
        if not self.metrics_file.exists():
            return []
        lines = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines

    def last_metrics(self) -> dict[str, float] | None:
        """The last complete line of `metrics.jsonl`, read from the file's end."""
        if not self.metrics_file.exists():
            return None
        with self.metrics_file.open("rb") as f:
            f.seek(max(0, self.metrics_file.stat().st_size - 4096))
            for line in reversed(f.read().splitlines()):
                try:
                    return json.loads(line)
                except json.JSONDecodeError:
                    continue
        return None

    def append_metrics(self, lines: Sequence[dict[str, float]]) -> None:
        with one_line_io_errors(self.metrics_file), self.metrics_file.open("a") as f:
            f.write("".join(json.dumps(line) + "\n" for line in lines))

    def truncate_metrics(self, step: int) -> None:
        """Drops what was logged after `step`: a resumed run logs it again."""
        if self.metrics_file.exists():
            kept = [line for line in self.metrics() if line["step"] <= step]
            atomic_write(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))


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
    """Writes beside `path` and renames: a reader sees the old text or the new, never a part."""
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


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds `directory` for this process.

    Raises:
      LabError: when another process holds it.
    """
    with one_line_io_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        f = (directory / ".lock").open("a")
    with f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(
                f"{directory} is being written by another process.", "Wait for it, or stop it first."
            ) from None
        yield


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


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What asked for a run: repeated in every row, outside the run's identity."""

    study: str
    arm: str


def rows(result: dict[str, Any], asked: Provenance) -> list[dict[str, Any]]:
    """The table rows of one `result.json`: its run-level facts repeated for each evaluation language."""
    shared = {**result["run"], "study": asked.study, "arm": asked.arm, "schema": SCHEMA_VERSION}
    return [{**shared, **evaluation} for evaluation in result["evaluations"]]


def arrow_schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "list<double>": pa.list_(pa.float64()),
        "list<int64>": pa.list_(pa.int64()),
    }
    return pa.schema(
        [pa.field(n, kinds[k], metadata={"meaning": text}) for n, (k, text) in COLUMNS.items()],
        metadata={"schema_version": str(SCHEMA_VERSION)},
    )


def write_table(path: Path, table_rows: Iterable[dict[str, Any]]) -> int:
    """Writes rows as one parquet file, atomically, in a stable order; returns their number.

    Raises:
      LabError: for a row whose columns are not the schema's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(table_rows, key=lambda r: (r["study"], r["arm"], r["run_id"], r["language"]))
    for row in ordered:
        if row.keys() != COLUMNS.keys():
            odd = sorted(row.keys() ^ COLUMNS.keys())
            raise LabError(f"The row of run {row.get('run_id')} differs from the schema in {odd}.")
    with one_line_io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        pq.write_table(pa.Table.from_pylist(ordered, schema=arrow_schema()), temporary, compression="zstd")
        temporary.replace(path)
    return len(ordered)


def read_table(path: Path) -> pd.DataFrame:
    """Reads a table that `write_table` wrote.

    Raises:
      LabError: when the file is missing, is not a result table, or is of another schema version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise LabError(f"{path} does not exist.", "Make it with `lab sweep collect`.") from None
    except pa.ArrowInvalid:
        raise LabError(f"{path} is not a parquet table.", "Make it again with `lab sweep collect`.") from None
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise LabError(
            f"{path} has result schema {version}, this program reads {SCHEMA_VERSION}.",
            "Collect it again with `lab sweep collect`.",
        )
    return table.to_pandas()
