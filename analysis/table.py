"""From a file or a data frame to a checked, typed table of points; every dropped row is named with its rule."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from analysis.law import Law, Variable
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["nats", "bits", "perplexity"]

# Columns that hold the trajectory of a row in tables people bring; used when `cluster` is not named.
TRAJECTORY_COLUMNS = ("trajectory", "cluster", "group", "run_name")
# Losses are only comparable within one value of these; see `mixed`.
CONVENTION_COLUMNS = ("layout_hash", "eval_hash")
# Result tables name the rule that excluded a run here; such rows are dropped, with the reason.
EXCLUSION_COLUMN = "exclusion"


@dataclasses.dataclass(frozen=True)
class Drop:
    """Rows that one rule left out: their numbers in the input (counted from 0) and the reason."""

    rule: str
    why: str
    rows: tuple[int, ...]

    def __str__(self) -> str:
        shown = ", ".join(str(r) for r in self.rows[:8]) + (", ..." if len(self.rows) > 8 else "")
        return f"{len(self.rows)} rows dropped ({self.rule}): {self.why} [rows {shown}]"


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """n checked points.

    Attributes:
      columns: variable name -> float64 [n], natural units (N parameters, D tokens, ...).
      loss: nats per token [n].
      weight: factor of each point's term in the objective [n].
      noise: standard deviation of log loss [n], or None.
      group, groups: code [n] of the group each point belongs to, and the groups' names (one, "", if there are none).
      cluster, clusters: code [n] of the unit that intervals resample, and the units' names.
      clustered: whether a column named the clusters (otherwise each point is its own).
      row: number of each point in the input [n].
      dropped: what was left out and why.  notes: what looks odd but was kept.
    """

    columns: Mapping[str, np.ndarray]
    loss: np.ndarray
    weight: np.ndarray
    noise: np.ndarray | None
    group: np.ndarray
    groups: tuple[str, ...]
    cluster: np.ndarray
    clusters: tuple[str, ...]
    clustered: bool
    row: np.ndarray
    dropped: tuple[Drop, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = "data"

    @property
    def n(self) -> int:
        return len(self.loss)

    def select(self, keep: np.ndarray) -> Table:
        """The points where the mask `keep` [n] holds; groups and clusters are renumbered."""

        def recode(codes: np.ndarray, labels: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
            used, new = np.unique(codes[keep], return_inverse=True)
            return new, tuple(labels[u] for u in used)

        group, groups = recode(self.group, self.groups)
        cluster, clusters = recode(self.cluster, self.clusters)
        return dataclasses.replace(
            self,
            columns={k: v[keep] for k, v in self.columns.items()},
            loss=self.loss[keep],
            weight=self.weight[keep],
            noise=None if self.noise is None else self.noise[keep],
            group=group,
            groups=groups,
            cluster=cluster,
            clusters=clusters,
            row=self.row[keep],
        )


def read(path: str | Path) -> pd.DataFrame:
    """A data frame from CSV (also tab-separated), parquet, JSON lines or JSON.

    Raises:
      LabError: when the file is missing, empty or not a table.
    """
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise LabError(f"No table {str(path)!r}.", "Give a .csv, .tsv, .parquet, .jsonl or .json file.")
    readers: dict[str, Callable[[], pd.DataFrame]] = {
        ".csv": lambda: pd.read_csv(file),
        ".tsv": lambda: pd.read_csv(file, sep="\t"),
        ".parquet": lambda: pd.read_parquet(file),
        ".jsonl": lambda: pd.read_json(file, lines=True),
        ".json": lambda: pd.read_json(file),
    }
    if file.suffix not in readers:
        raise LabError(f"Cannot tell the format of {file.name!r}.", f"Known endings: {', '.join(readers)}.")
    try:
        frame = readers[file.suffix]()
    except Exception as error:
        raise LabError(f"{file.name!r} cannot be read as {file.suffix[1:]}: {error}.") from error
    if frame.empty:
        raise LabError(f"The table {file.name!r} has no rows.")
    return frame


class _Rows:
    """The input while it is checked: which rows are still kept, and why the others are not."""

    def __init__(self, frame: pd.DataFrame):
        self.frame = frame
        self.keep = np.ones(len(frame), bool)
        self.dropped: list[Drop] = []

    def drop(self, bad: np.ndarray, rule: str, why: str) -> None:
        bad = np.asarray(bad, bool) & self.keep
        if bad.any():
            self.dropped.append(Drop(rule, why, tuple(int(i) for i in np.flatnonzero(bad))))
            self.keep &= ~bad

    def find(self, wanted: str | None, names: Sequence[str], what: str) -> str:
        columns = [str(c) for c in self.frame.columns]
        if wanted is not None:
            if wanted in columns:
                return wanted
            near = difflib.get_close_matches(wanted, columns, 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise LabError(f"The table has no column {wanted!r} ({what}).", f"{hint}It has: {', '.join(columns)}.")
        if names[0] in columns:
            return names[0]
        found = [c for c in names if c in columns]
        if len(found) == 1:
            return found[0]
        problem = f"several columns could be {what}: {', '.join(found)}" if found else f"no column for {what}"
        raise LabError(f"The table has {problem}.", f"Name it ({names[0]}=COLUMN). It has: {', '.join(columns)}.")

    def numbers(self, column: str) -> np.ndarray:
        import pandas as pd

        raw = self.frame[column]
        values = pd.to_numeric(raw, errors="coerce").to_numpy(float, na_value=np.nan)
        text = np.isnan(values) & raw.notna().to_numpy() & self.keep
        blank = raw.astype(str).str.strip().str.lower().isin(["", "nan", "na", "none", "null"]).to_numpy()
        text &= ~blank
        if text.any():
            rows = np.flatnonzero(text)
            shown = ", ".join(f"row {i}: {raw.iloc[i]!r}" for i in rows[:3])
            raise LabError(
                f"Column {column!r} should hold numbers but has text in {len(rows)} rows ({shown}).",
                "Mend or remove those rows.",
            )
        return values


def table(
    data: Table | pd.DataFrame | str | Path,
    law: Law,
    *,
    loss: str = "loss",
    columns: Mapping[str, str] | None = None,
    flops: str | None = None,
    group: str | None = None,
    cluster: str | None = None,
    weight: str | None = None,
    noise: str | None = None,
    unit: Unit = "nats",
    drop_highest: int = 0,
    mixed: Sequence[str] = (),
) -> Table:
    """Checks the rows a law needs and says which were left out.

    Args:
      data: a data frame, or a file that `read` knows; a `Table` is returned as it is.
      law: names the variables.
      loss: column of the loss, in `unit`.
      columns: variable name -> column name, where they differ ({"N": "params"}).
      flops: column of training FLOPs C, from which D = C / (6 N).
      group: column of the group (language, arm) a point belongs to.
      cluster: column of the trajectory or size that intervals resample as one; by default a column called
        trajectory, cluster, group or run_name if the table has one in which values repeat.
      weight: column of weights in the objective.
      noise: column of the standard deviation of log loss, or "replicates": estimated from rows that agree in all
        variables and the group (seeds).
      drop_highest: leave out that many rows of highest loss.
      mixed: columns of CONVENTION_COLUMNS that may differ between rows (by default such a table is refused).

    Raises:
      LabError: for a missing column, text in a column of numbers, mixed conventions, or no usable row.
    """
    if isinstance(data, Table):
        return data
    source = str(data) if isinstance(data, (str, Path)) else "data"
    rows = _Rows(read(data) if isinstance(data, (str, Path)) else data.reset_index(drop=True))
    wanted = dict(columns or {})
    if unknown := sorted(set(wanted) - {v.name for v in law.variables}):
        raise LabError(
            f"The law {law.name} has no variable {unknown[0]!r}.",
            f"It reads: {', '.join(v.name for v in law.variables)}.",
        )
    _drop_excluded(rows)

    loss_column = rows.find(loss, [loss], "the loss")
    y = _convert(rows.numbers(loss_column), unit)
    x = {}
    for variable in law.variables:
        if variable.name == "D" and flops is not None:
            continue
        x[variable.name] = _variable(rows, variable, wanted.get(variable.name))
    if flops is not None:
        if "N" not in x:
            raise LabError(f"FLOPs give D only for laws with N; {law.name} has none.")
        x["D"] = rows.numbers(rows.find(flops, [flops], "training FLOPs")) / (6 * x["N"])
    for variable in law.variables:
        _check(rows, variable.name, x[variable.name], variable.lower, variable.upper)
    _check(rows, loss_column, y, 0.0, None)

    w = np.ones(len(y)) if weight is None else rows.numbers(rows.find(weight, [weight], "weights"))
    rows.drop(~np.isfinite(w) | (w <= 0), "no weight", f"column {weight!r} is missing or not above 0")
    if mixed is not None:
        _refuse_mixed(rows, [c for c in CONVENTION_COLUMNS if c not in mixed and c != group])
    group_codes, groups = _labels(rows, group, "the group")
    cluster_column = cluster or _trajectory_column(rows, group)
    cluster_codes, clusters = _labels(rows, cluster_column, "the cluster")
    notes = _notes(y[rows.keep], cluster_column if cluster is None else None)

    key = np.column_stack([*x.values(), y, w, group_codes, cluster_codes])
    _, first, count = np.unique(key, axis=0, return_index=True, return_counts=True)
    copies = np.ones(len(y), bool)
    copies[first] = False
    if (copies & rows.keep).any():
        rows.drop(copies, "duplicate", "equal to an earlier row in every column used, the loss included")
    del count
    if drop_highest:
        order = np.argsort(np.where(rows.keep, -y, np.inf), kind="stable")[:drop_highest]
        chosen = np.zeros(len(y), bool)
        chosen[order] = True
        rows.drop(chosen, "drop_highest", f"among the {drop_highest} highest losses")
    if not rows.keep.any():
        raise LabError(f"No usable row is left of {len(y)}: {'; '.join(map(str, rows.dropped)) or 'empty table'}.")

    s = None
    if noise == "replicates":
        s = replicate_noise(np.column_stack([*x.values(), group_codes]), np.log(np.where(rows.keep, y, 1.0)), rows.keep)
    elif noise is not None:
        s = rows.numbers(rows.find(noise, [noise], "the noise of log loss"))
        rows.drop(~np.isfinite(s) | (s <= 0), "no noise", f"column {noise!r} is missing or not above 0")
    if cluster_column is None:
        cluster_codes, clusters = np.arange(len(y)), tuple(str(i) for i in range(len(y)))
    full = Table(
        x, y, w, s, group_codes, groups, cluster_codes, clusters, cluster_column is not None,
        np.arange(len(y)), tuple(rows.dropped), notes, source,
    )  # fmt: skip
    return full.select(rows.keep)


def _drop_excluded(rows: _Rows) -> None:
    if EXCLUSION_COLUMN in rows.frame.columns:
        reasons = rows.frame[EXCLUSION_COLUMN].fillna("").astype(str).to_numpy()
        for reason in sorted(set(reasons) - {""}):
            rows.drop(reasons == reason, EXCLUSION_COLUMN, reason)


def _variable(rows: _Rows, variable: Variable, wanted: str | None) -> np.ndarray:
    names = (variable.name, *variable.aliases)
    if variable.default is not None and wanted is None and not any(c in rows.frame.columns for c in names):
        return np.full(len(rows.frame), variable.default)
    values = rows.numbers(rows.find(wanted, names, f"{variable.name}, {variable.unit}"))
    if variable.default is not None:
        values = np.where(np.isnan(values), variable.default, values)
    return values


def _check(rows: _Rows, column: str, values: np.ndarray, lower: float | None, upper: float | None) -> None:
    rows.drop(np.isnan(values), "missing", f"{column} is missing")
    rows.drop(np.isinf(values), "not finite", f"{column} is infinite")
    if lower is not None:
        rows.drop(values <= lower, "out of range", f"{column} is not above {lower:g}")
    if upper is not None:
        rows.drop(values > upper, "out of range", f"{column} is above {upper:g}")


def _convert(values: np.ndarray, unit: Unit) -> np.ndarray:
    if unit == "nats":
        return values
    if unit == "bits":
        return values * np.log(2)
    if unit == "perplexity":
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(values)
    raise LabError(f"Unknown unit of loss {unit!r}.", "Known: nats, bits, perplexity.")


def _labels(rows: _Rows, column: str | None, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if column is None:
        return np.zeros(len(rows.frame), int), ("",)
    values = rows.frame[rows.find(column, [column], what)]
    rows.drop(values.isna().to_numpy(), "missing", f"{column} ({what}) is missing")
    # 1, 1.0 and "1" are one label, however the file was typed.
    text = np.array([f"{v:g}" if isinstance(v, (float, np.floating)) else str(v).strip() for v in values])
    labels, codes = np.unique(text, return_inverse=True)
    return codes, tuple(str(v) for v in labels)


def _trajectory_column(rows: _Rows, group: str | None) -> str | None:
    for column in TRAJECTORY_COLUMNS:
        if column in rows.frame.columns and column != group:
            kept = rows.frame[column][rows.keep]
            if kept.notna().all() and 1 < kept.nunique() < len(kept):
                return column
    return None


def _refuse_mixed(rows: _Rows, columns: Sequence[str]) -> None:
    for column in columns:
        if column in rows.frame.columns:
            values = sorted({str(v) for v in rows.frame[column][rows.keep]})
            if len(values) > 1:
                shown = ", ".join(values[:3])
                raise LabError(
                    f"The rows mix {len(values)} values of {column}, whose losses do not compare: {shown}.",
                    f"Fit one at a time, make it the group, or name it: mixed=({column!r},).",
                )


def _notes(y: np.ndarray, found_cluster: str | None) -> tuple[str, ...]:
    notes = []
    if len(y) and np.median(y) > 7:
        what = "perplexities" if np.median(y) > 13 else "bits or perplexities"
        notes.append(f"suspicious losses: the median {np.median(y):.3g} is high for nats per token; are they {what}?")
    if len(y) and np.median(y) < 0.3:
        notes.append(
            f"suspicious losses: the median {np.median(y):.3g} is low for nats per token; per byte or per bit?"
        )
    if found_cluster is not None:
        notes.append(f"clusters for intervals taken from column {found_cluster!r}")
    return tuple(notes)


def replicate_noise(cells: np.ndarray, log_loss: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Standard deviation of log loss [n] from rows that agree in all columns of `cells` [n, k].

    With four or more replicated cells the log variance is regressed on log loss (noise shrinks with the loss, as in
    arXiv:2406.19146, appendix); with fewer it is pooled.

    Raises:
      LabError: when no cell has two rows.
    """
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    means, variances, degrees = [], [], []
    for c in np.unique(cell[keep]):
        values = log_loss[keep & (cell == c)]
        if len(values) > 1 and np.var(values) > 0:
            means.append(values.mean())
            variances.append(values.var(ddof=1))
            degrees.append(len(values) - 1)
    if not means:
        raise LabError("No two rows agree in all variables: noise cannot come from replicates.", "Name a noise column.")
    m, v, k = np.array(means), np.array(variances), np.array(degrees, float)
    pooled = float(np.sqrt(np.sum(k * v) / np.sum(k)))
    if len(m) < 4 or np.ptp(m) == 0:
        return np.full(len(log_loss), pooled)
    slope = np.polyfit(m, np.log(v), 1, w=np.sqrt(k))[0]
    shape = np.exp(0.5 * slope * (log_loss - m.mean()))
    at_cells = np.exp(slope * (m - m.mean()))
    return np.asarray(shape * np.sqrt(np.sum(k * v / at_cells) / np.sum(k)))
