"""The result table: typed rows in a parquet file, one for each run and evaluation language.

In memory a table is a `pyarrow.Table` of exactly these columns; `read_table` gives it as a data frame.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError
from lab.records import one_line_io_errors

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 2

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
    "base_width": ("int64", "width at which muP equals the standard parametrisation, or null for the latter"),
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
    "eval_curve_tokens": ("list<int64>", "tokens seen at each evaluation of the run, the last at its end"),
    "eval_curve_loss": ("list<double>", "plain loss there, nats per token of the evaluation language"),
    "schedule": ("string", "learning-rate schedule"),
    "warmup": ("float64", "share of the run in which the rate rises"),
    "peak_lr": ("float64", "peak learning rate"),
    "weight_decay": ("float64", "AdamW decay"),
    "batch_tokens": ("int64", "tokens a step"),
    "tuned": ("float64", "ln(peak_lr / best known rate), or null where no rate was compared"),
    "train_loss": ("float64", "mean training loss of the last dispatch, nats per token"),
    "status": ("string", "done, diverged, or incomplete (not over when the table was made)"),
    "exclusion": ("string", "rule that excludes the row from fits, or null"),
    "pack": ("string", "pack and slot the run trained in: provenance, not identity"),
    "examples_hash": ("string", "chained hash of the consumed example ids, in order"),
    "wall_s": ("float64", "seconds of training and evaluation, shared by the runs of a pack"),
    "device": ("string", "what it ran on"),
    "versions": ("string", "python, jax, flax, optax"),
    "commit": ("string", "source revision, with + if modified"),
    "schema": ("int64", "version of these columns"),
}


KEY = ["study", "arm", "run_id", "language"]
# Largest relative difference of a loss that another device or mesh explains: on meshes of 1 and 8 CPU devices the
# losses of a run agreed to 1e-9; seeds of one run differ by 1e-3 and more.
SAME_LOSS = 5e-4
STATUSES = ("done", "diverged", "incomplete")
# What every row has, whatever became of its run.
FILLED = (*KEY, "mixture", "group", "n_nonembedding", "tokens_seen", "peak_lr", "status", "schema")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What asked for a run: repeated in every row, outside the run's identity."""

    study: str
    arm: str


def rows(result: dict[str, Any], asked: Provenance) -> list[dict[str, Any]]:
    """The table rows of one `result.json`: its run-level facts repeated for each evaluation language."""
    shared = {**result["run"], "study": asked.study, "arm": asked.arm, "schema": SCHEMA_VERSION}
    return [{**shared, **evaluation} for evaluation in result["evaluations"]]


def arrow_schema(rules: Sequence[str] = ()) -> pa.Schema:
    """The schema of a table whose rows these rules of `sweeps.exclusion` excluded."""
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
        metadata={"schema_version": str(SCHEMA_VERSION), "exclusion_rules": json.dumps(list(rules))},
    )


def table_of(table_rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table.

    Raises:
      LabError: for a row whose columns are not the schema's, or hold something of another type.
    """
    import pyarrow as pa

    found = list(table_rows)
    for row in found:
        if row.keys() != COLUMNS.keys():
            raise LabError(f"The row of run {row.get('run_id')} {problem_of(row)}.")
    schema = arrow_schema()
    arrays = []
    for field in schema:
        values = [row[field.name] for row in found]
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise LabError(f"Column {field.name} holds something that is no {field.type}: {error}.") from None
    return pa.Table.from_arrays(arrays, schema=schema)


_PYTHON: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "int64": int,
    "float64": (float, int),
    "list<double>": list,
    "list<int64>": list,
}


def problem_of(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the columns of a row or their types, or None."""
    if row.keys() != COLUMNS.keys():
        missing, odd = sorted(COLUMNS.keys() - row.keys()), sorted(row.keys() - COLUMNS.keys())
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        return " and ".join([*parts, f"has the unknown {', '.join(odd)}"] if odd else parts)
    for name, (kind, _) in COLUMNS.items():
        value = row[name]
        if value is not None and (not isinstance(value, _PYTHON[kind]) or isinstance(value, bool)):
            return f"{name} holds {value!r}, which is no {kind}"
    for name in FILLED:
        if row[name] is None:
            return f"{name} is missing"
    return "the run is done and has no loss" if row["status"] == "done" and row["loss"] is None else None


def write_table(path: Path, table: pa.Table) -> int:
    """Writes a table as one parquet file, atomically and in a stable order; returns the number of its rows.

    Raises:
      LabError: for a table that `check` refuses, or a full disk.
    """
    import pyarrow.parquet as pq

    check(table, f"The table for {path}")
    with one_line_io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        try:
            pq.write_table(table.sort_by([(k, "ascending") for k in KEY]), temporary, compression="zstd")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    rows: int = table.num_rows
    return rows


def read_arrow(path: Path) -> pa.Table:
    """Reads a table that `write_table` wrote.

    Raises:
      LabError: when the file is missing, is not a result table or only a part of one, is of another schema version, or
        `check` refuses it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise LabError(f"{path} does not exist.", "Make it with `lab sweep collect`.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise LabError(
            f"{path} is not a parquet table, or a half-written one ({str(error).splitlines()[0]}).",
            "Make it again with `lab sweep collect`.",
        ) from None
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise LabError(
            f"{path} has result schema {version}, this program reads {SCHEMA_VERSION}.",
            "Collect it again with `lab sweep collect`.",
        )
    check(table, str(path))
    return table


def read_table(path: Path) -> pd.DataFrame:
    """Reads a table that `write_table` wrote, as a data frame. Raises LabError as `read_arrow`."""
    frame: pd.DataFrame = read_arrow(path).to_pandas()
    return frame


def rules_of(table: pa.Table) -> tuple[str, ...]:
    """The rules by which rows of a table were excluded."""
    return tuple(json.loads((table.schema.metadata or {}).get(b"exclusion_rules", b"[]")))


def check(table: pa.Table, name: str) -> None:
    """Whether a table is whole: its columns and their types, no half-written row, no run twice.

    Args:
      table: to check.
      name: of it, for messages.

    Raises:
      LabError: naming the first thing that is wrong.
    """
    import pyarrow.compute as pc

    mend = "Make it again with `lab sweep collect`."
    schema = arrow_schema()
    if missing := [n for n in schema.names if n not in table.column_names]:
        raise LabError(f"{name} lacks the columns {', '.join(missing)}.", mend)
    if odd := [n for n in table.column_names if n not in schema.names]:
        raise LabError(f"{name} has columns that no result table has: {', '.join(odd)}.", mend)
    for field in schema:
        found = table.schema.field(field.name).type
        if found != field.type:
            raise LabError(f"{name} holds {found} in column {field.name}, not {field.type}.", mend)
    for column in FILLED:
        if table[column].null_count:
            where = table.filter(pc.is_null(table[column]))["run_id"][0]
            raise LabError(f"{name} has a half-written row: {column} of run {where} is missing.", mend)
    done = table.filter(pc.equal(table["status"], "done"))
    if done["loss"].null_count:
        where = done.filter(pc.is_null(done["loss"]))["run_id"][0]
        raise LabError(f"{name} has a half-written row: run {where} is done and has no loss.", mend)
    if odd := [s for s in pc.unique(table["status"]).to_pylist() if s not in STATUSES]:
        raise LabError(f"{name} has rows of status {odd[0]!r}.", f"Known: {', '.join(STATUSES)}.")
    _check_duplicates(table.select([*KEY, "loss"]).combine_chunks(), name, mend)


def _check_duplicates(table: pa.Table, name: str, mend: str) -> None:
    """One study has a run and language once; two studies may share it, with the same loss."""
    import pyarrow.compute as pc

    counts = table.group_by(["study", "run_id", "language"]).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    if twice.num_rows:
        first = twice.slice(0, 1).to_pylist()[0]
        raise LabError(f"{name} has run {first['run_id']} in language {first['language']} twice.", mend)
    spread = table.group_by(["run_id", "language"]).aggregate([("loss", "min"), ("loss", "max")])
    apart = spread.filter(pc.greater(spread["loss_max"], pc.multiply(spread["loss_min"], 1 + SAME_LOSS)))
    if apart.num_rows:
        first = apart.slice(0, 1).to_pylist()[0]
        raise LabError(
            f"{name} contradicts itself: run {first['run_id']} has losses {first['loss_min']} and "
            f"{first['loss_max']} in language {first['language']}.",
            mend,
        )
