"""The result table: typed rows in a parquet file, one for each run and evaluation language."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
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
