"""Options that the commands on laws share, and how their results are shown."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from lab.errors import LabError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from analysis.law import Law

# Exit code of a fit or design whose parameters the rows cannot determine.
REFUSED = 3


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """A table and what its columns mean."""

    table: tyro.conf.Positional[Path]
    """Your runs: CSV, TSV, parquet, JSON lines or JSON, one row a run (or a point of one)."""
    law: str = "chinchilla"
    """Law: a name of `lab laws`, or ./file.py:Class."""
    n: str | None = None
    """Column of N, parameters. Found by itself if called N, params, n_total, ..."""
    d: str | None = None
    """Column of D, training tokens. Found by itself if called D, tokens, tokens_seen, ..."""
    loss: str = "loss"
    """Column of the loss."""
    unit: Literal["nats", "bits", "perplexity"] = "nats"
    """Unit of that column; fits are in nats per token."""
    columns: tuple[str, ...] = ()
    """Other variables, as VARIABLE=COLUMN (U=unique_tokens)."""
    flops: str | None = None
    """Column of training FLOPs C, where D is to be C / (6 N)."""
    where: str | None = None
    """Keep only rows for which this pandas query holds, e.g. "language == 'en' and n_total > 1e6"."""
    derive: tuple[str, ...] = ()
    """New columns, as NAME=EXPRESSION in pandas' terms (n_body=params-50304*width), made before --where."""
    group: str | None = None
    """Column of groups (language, arm) fitted at once, each with parameters of its own."""
    shared: tuple[str, ...] = ()
    """Parameters that all groups share."""
    frozen: tuple[str, ...] = ()
    """Parameters held at a value, as NAME=VALUE."""
    cluster: str | None = None
    """Column of the trajectory or size whose rows are resampled together."""
    weight: str | None = None
    """Column of weights in the objective."""
    noise: str | None = None
    """Column of the standard deviation of log loss, or "replicates" to take it from repeated seeds."""
    drop_highest: int = 0
    """Leave out that many rows of highest loss."""
    excluded: bool = False
    """Take rows that a rule excluded (column exclusion of a result table) like all others."""
    mixed: tuple[str, ...] = ()
    """Conventions that may differ between rows (layout_hash, eval_hash); otherwise such a table is refused."""
    objective: str | None = None
    """huber, squares or absolute, with -log, -linear or -reciprocal: huber-log is the default of most laws."""
    delta: float | None = None
    """Corner of Huber's function (default 1e-3)."""

    def frame(self) -> pd.DataFrame:
        """The rows that `--where` keeps, with the columns of `--derive`.

        Raises:
          LabError: for an unreadable table or a query that fails or keeps nothing.
        """
        from analysis.table import EXCLUSION_COLUMN

        frame = read_rows(self.table, self.where, self.derive)
        return frame.drop(columns=EXCLUSION_COLUMN, errors="ignore") if self.excluded else frame

    def table_options(self) -> dict[str, Any]:
        """Keywords of `analysis.table.table`."""
        named = {k: v for k, v in (("N", self.n), ("D", self.d)) if v is not None} | pairs(self.columns, "columns")
        return {
            "columns": named,
            "loss": self.loss,
            "flops": self.flops,
            "group": self.group,
            "cluster": self.cluster,
            "weight": self.weight,
            "noise": self.noise,
            "unit": self.unit,
            "drop_highest": self.drop_highest,
            "mixed": self.mixed,
        }

    def fit_options(self) -> dict[str, Any]:
        """Keywords of `analysis.fit` beside the data and the law."""
        return {
            **self.table_options(),
            "shared": self.shared,
            "frozen": numbers(self.frozen, "frozen"),
            "objective": self.objective,
            "delta": self.delta,
        }


def read_rows(path: Path, where: str | None = None, derive: tuple[str, ...] = ()) -> pd.DataFrame:
    """A table with derived columns, filtered. Raises LabError as `TableOptions.frame`."""
    from analysis.table import read

    frame = read(path)
    for text in derive:
        name, sign, expression = (part.strip() for part in text.partition("="))
        if not (sign and name and expression):
            raise LabError(f"--derive {text!r} is not NAME=EXPRESSION.")
        try:
            frame[name] = frame.eval(expression, engine="python")
        except Exception as error:
            columns = ", ".join(map(str, frame.columns))
            raise LabError(f"--derive {text!r} fails: {error}.", f"Columns: {columns}.") from None
    if where is not None:
        try:
            frame = frame.query(where, engine="python")
        except Exception as error:
            raise LabError(
                f"--where {where!r} fails: {error}.", f"Columns: {', '.join(map(str, frame.columns))}."
            ) from None
        if frame.empty:
            raise LabError(f"No row of {path} satisfies --where {where!r}.")
        frame = frame.reset_index(drop=True)
    return frame


def pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=VALUE options as a dict.

    Raises:
      LabError: for one without `=`.
    """
    out = {}
    for text in given:
        for part in text.split(","):
            name, sign, value = part.partition("=")
            if not sign or not name.strip() or not value.strip():
                raise LabError(f"--{option} {part!r} is not NAME=VALUE.")
            out[name.strip()] = value.strip()
    return out


def numbers(given: tuple[str, ...], option: str) -> dict[str, float]:
    """NAME=NUMBER options as a dict.

    Raises:
      LabError: for one that is not a number.
    """
    out = {}
    for name, value in pairs(given, option).items():
        try:
            out[name] = float(value)
        except ValueError:
            raise LabError(f"--{option} {name}={value}: not a number.") from None
    return out


def assumed_params(law: Law, given: str | None) -> dict[str, float]:
    """Parameters from NAME=VALUE,..., from a JSON file that `lab fit --json` wrote, or the law's published ones.

    Raises:
      LabError: when the file is not such an object, or nothing is given and nothing published.
    """
    from analysis.design import published_params

    if given is None:
        return dict(published_params(law))
    if "=" in given:
        return numbers((given,), "params")
    try:
        form = json.loads(Path(given).read_text())
        return {str(k): float(v) for k, v in {**form.get("frozen", {}), **form["params"]}.items()}
    except FileNotFoundError:
        raise LabError(f"No file {given!r}.", "Give NAME=VALUE,... or the output of `lab fit --json`.") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
        raise LabError(f"{given!r} is not the output of `lab fit --json`.") from None


def prepare_jax() -> None:
    """Fits run on the CPU, compiled code is kept below the user's cache folder between processes, and garbage is looked
    for rarely.

    Must run before JAX is imported. JAX_PLATFORMS and JAX_COMPILATION_CACHE_DIR, if set, win.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scaling-lab" / "jax"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    # Imports and tracing make a million objects that stay; looking for garbage among them takes half a second.
    gc.set_threshold(200_000)


def print_json(form: dict[str, Any]) -> None:
    """One object on one line; numbers that JSON lacks become null."""
    print(json.dumps(_finite(form)))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def number(value: float) -> str:
    """Four digits, with powers of ten where they help."""
    if not math.isfinite(value):
        return "open" if not math.isnan(value) else "none"
    return f"{value:.4g}"


def draws_for(fit: Any, resamples: int, group: str | None) -> dict[str, np.ndarray]:
    """Bootstrap draws of one group's parameters, frozen ones repeated, each [R]."""
    import numpy as np

    from analysis.intervals import bootstrap

    draws = bootstrap(fit, resamples)
    named = draws.params_of(group)
    return {k: np.broadcast_to(np.asarray(v, float), (draws.resamples,)) for k, v in named.items()}
