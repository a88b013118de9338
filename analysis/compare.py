"""Choosing a law by what it predicts: forward-chained extrapolation and leave-one-out, against naive baselines.

Laws are ranked by the error of predictions for scales they have not seen. AIC and BIC are reported beside it and do
not rank: on the Chinchilla points they prefer the five- and six-parameter forms, while the four-parameter one
extrapolates best.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import laws as law_registry
from analysis.fitting import fit
from analysis.law import Law
from analysis.objective import Objective
from analysis.table import Table, read
from analysis.table import table as make_table
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

# Scales with more distinct values than this are binned into SCALE_BINS groups of equal size.
MOST_LEVELS = 12
SCALE_BINS = 8
FORWARD = "forward"


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """Rows to fit [n] and rows to predict [n], as masks; `step` counts scales ahead."""

    name: str
    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class FoldScore:
    """Errors of one law on one fold; `status` is the fit's."""

    fold: str
    n_train: int
    n_test: int
    mape: float
    rmse: float
    bias: float
    status: str


@dataclasses.dataclass(frozen=True)
class Score:
    """How well one law predicts unseen rows, pooled over folds.

    Attributes:
      law: its name.
      mape: mean absolute relative error of the loss.
      rmse: root mean square error of log loss.
      bias: mean signed relative error (above 0: predictions too high).
      slope: of observed on predicted log loss; 1 is calibrated, below 1 the law spreads its predictions too far.
      coverage: share of points inside 95 % conformal bands built from earlier folds; None with fewer than two folds.
      band: median width of those bands as a share of the loss.
      skill: baseline -> 1 - mape / its mape; above 0 the law is better than it.
      aic, bic: of the fit to all rows, Gaussian in log loss; reported, not used.
      parameters: how many were fitted.
      folds: one by one.
    """

    law: str
    mape: float
    rmse: float
    bias: float
    slope: float
    coverage: float | None
    band: float | None
    skill: Mapping[str, float]
    aic: float
    bic: float
    parameters: int
    folds: tuple[FoldScore, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Laws ranked by error on unseen rows, best first.

    Attributes:
      by: `forward`, or the variable or column of which one value at a time was left out.
      scores: of the laws.  baselines: mape of the naive predictions.
      predicted: law -> predicted loss of every test row, in the order of `observed`.
      observed, scale, fold: loss in nats, scale and fold number of every test row.
    """

    by: str
    n: int
    scores: tuple[Score, ...]
    baselines: Mapping[str, float]
    predicted: Mapping[str, np.ndarray]
    observed: np.ndarray
    scale: np.ndarray
    fold: np.ndarray
    folds: tuple[str, ...]

    @property
    def best(self) -> Score:
        return self.scores[0]


def scale_of(table: Table) -> np.ndarray:
    """The scale of each row [n]: 6 N D, or what the law knows of it."""
    x = table.columns
    if "C" in x:
        return np.asarray(x["C"])
    if {"N", "D"} <= x.keys():
        return np.asarray(6 * x["N"] * x["D"])
    for name in ("D", "N"):
        if name in x:
            return np.asarray(x[name])
    raise LabError("The law has none of N, D and C: there is no scale to extrapolate along.", "Leave a column out.")


def distinct(values: np.ndarray) -> np.ndarray:
    """Code of each value [n], 0 the smallest; values within 1 % of a neighbour are one."""
    order = np.argsort(values, kind="stable")
    codes = np.empty(len(values), int)
    codes[order] = np.cumsum(np.concatenate([[False], np.diff(np.log(values[order])) > 0.01]))
    return codes


def levels(values: np.ndarray, bins: int = SCALE_BINS) -> np.ndarray:
    """Level of each value [n], 0 the smallest: distinct values, or bins of equal counts where there are many."""
    codes = distinct(values)
    if codes.max() < MOST_LEVELS:
        return codes
    rank = np.empty(len(values), int)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    # Equal values stay in one bin: the bin of a distinct value is that of its middle row.
    middle = np.array([rank[codes == c].mean() for c in range(codes.max() + 1)])
    return np.unique(np.floor(middle[codes] * bins / len(values)), return_inverse=True)[1]


def forward_folds(scale: np.ndarray, least: int) -> tuple[Fold, ...]:
    """Train on the smallest k scales, predict scale k + 1; k from the first that has `least` rows.

    Raises:
      LabError: when no fold is possible.
    """
    code = levels(scale)
    folds = []
    for k in range(code.max()):
        train, test = code <= k, code == k + 1
        if train.sum() >= least:
            name = f"to {scale[train].max():.2g}, predict {scale[test].min():.2g}-{scale[test].max():.2g}"
            folds.append(Fold(name, train, test))
    if not folds:
        raise LabError(
            f"{len(scale)} rows on {code.max() + 1} scales leave nothing to extrapolate to (a fit needs {least}).",
            "Add larger runs, or take laws with fewer parameters.",
        )
    return tuple(folds)


def leave_one_out(codes: np.ndarray, labels: Sequence[str], least: int) -> tuple[Fold, ...]:
    """One fold for each value: fit without it, predict it.

    Raises:
      LabError: when there are fewer than two values, or too few rows remain.
    """
    used = np.unique(codes)
    if len(used) < 2:
        raise LabError(f"All rows have one value ({labels[used[0]]}): none can be left out.")
    folds = tuple(Fold(f"without {labels[c]}", codes != c, codes == c) for c in used)
    if any(f.train.sum() < least for f in folds):
        raise LabError(f"Leaving one value out leaves fewer than {least} rows.", "Take laws with fewer parameters.")
    return folds


def compare(
    data: pd.DataFrame | str | Path,
    laws: Sequence[str | Law],
    *,
    by: str = FORWARD,
    objective: str | Objective | None = None,
    delta: float | None = None,
    shared: Sequence[str] = (),
    level: float = 0.95,
    **options: Any,
) -> Comparison:
    """Scores laws on rows they were not fitted to.

    Args:
      data: data frame or file.
      laws: names, laws or "./file.py:Class".
      by: `forward`, a variable (`N`, `D`, ...), or a column (mixture, language) whose values are left out in turn.
      objective, delta, shared: of the fits, as in `fit`.
      level: of the conformal bands whose coverage is counted.
      options: columns and rules, as in `analysis.table.table` (columns, loss, flops, group, drop_highest, ...).

    Raises:
      LabError: as `fit` does, or when no fold is possible.
    """
    if not laws:
        raise LabError("There is no law to compare.", "Name one or more.")
    forms = [law_registry.get(law) for law in laws]
    frame = read(data) if isinstance(data, (str, Path)) else data.reset_index(drop=True)
    tables = _common_rows(frame, forms, options)
    first = tables[0]
    scale = scale_of(first) if by == FORWARD else np.ones(first.n)
    free = max(len(f.parameters) * (1 if not first.groups else len(first.groups)) for f in forms)
    least = max(free + 1, first.n // 5)
    folds = forward_folds(scale, least) if by == FORWARD else _value_folds(tables, frame, by, free + 1)
    observed = np.concatenate([first.loss[f.test] for f in folds])
    fold = np.concatenate([np.full(f.test.sum(), i) for i, f in enumerate(folds)])
    predicted, scores = {}, []
    for form, table in zip(forms, tables, strict=True):
        parts, status = [], []
        for f in folds:
            _refuse_unseen_groups(table, f, form, shared)
            # Weight 0 leaves rows out of the fit and keeps its shape: one compilation serves all folds.
            inside = dataclasses.replace(table, weight=table.weight * f.train)
            one = fit(inside, form, objective=objective, delta=delta, shared=shared)
            parts.append(one.fitted[f.test])
            status.append(one.status)
        predicted[form.name] = np.concatenate(parts)
        whole = fit(table, form, objective=objective, delta=delta, shared=shared)
        scores.append(_score(form.name, predicted[form.name], observed, fold, folds, status, whole, level))
    naive = _naive(first, folds, predicted) if {"N", "D", "C"} & first.columns.keys() else {}
    baselines = {k: _mape(v, observed) for k, v in naive.items()}
    scores = [dataclasses.replace(s, skill={k: 1 - s.mape / v for k, v in baselines.items() if v > 0}) for s in scores]
    scores.sort(key=lambda s: s.mape)
    at = np.concatenate([scale[f.test] for f in folds])
    return Comparison(
        by, first.n, tuple(scores), baselines, predicted, observed, at, fold, tuple(f.name for f in folds)
    )


def _common_rows(frame: pd.DataFrame, forms: Sequence[Law], options: Mapping[str, Any]) -> list[Table]:
    """One table a law, all with the same rows in the same order."""
    wanted = dict(options.get("columns") or {})
    tables = []
    for form in forms:
        own = {k: v for k, v in wanted.items() if k in {x.name for x in form.variables}}
        tables.append(make_table(frame, form, **{**options, "columns": own}))
    unknown = set(wanted) - {v.name for f in forms for v in f.variables}
    if unknown:
        raise LabError(f"No compared law has a variable {sorted(unknown)[0]!r}.")
    common = set(tables[0].row)
    for t in tables[1:]:
        common &= set(t.row)
    if not common:
        raise LabError("The compared laws share no usable row of the table.")
    return [t.select(np.isin(t.row, sorted(common))) for t in tables]


def _value_folds(tables: Sequence[Table], frame: pd.DataFrame, by: str, least: int) -> tuple[Fold, ...]:
    known = {name: values for t in tables for name, values in t.columns.items()}
    if by in known:
        values = np.asarray(known[by])
        codes = levels(values) if np.all(values > 0) else np.unique(values, return_inverse=True)[1]
        names = []
        for c in range(codes.max() + 1):
            low, high = values[codes == c].min(), values[codes == c].max()
            names.append(f"{by} {low:.3g}" if high <= low * 1.01 else f"{by} {low:.3g}-{high:.3g}")
        return leave_one_out(codes, names, least)
    if by not in frame.columns:
        raise LabError(
            f"Cannot leave out by {by!r}: neither a variable nor a column.",
            f"Variables: {', '.join(known)}; columns: {', '.join(map(str, frame.columns))}.",
        )
    labels, codes = np.unique(frame[by].astype(str).to_numpy()[tables[0].row], return_inverse=True)
    return leave_one_out(codes, [f"{by} {v}" for v in labels], least)


def _refuse_unseen_groups(table: Table, fold: Fold, form: Law, shared: Sequence[str]) -> None:
    unseen = set(table.group[fold.test]) - set(table.group[fold.train])
    if unseen and any(p.name not in shared for p in form.parameters):
        raise LabError(
            f"{fold.name}: nothing is left of group {table.groups[unseen.pop()]!r}, whose parameters are its own.",
            "Fit without groups, or share all parameters.",
        )


def _naive(table: Table, folds: Sequence[Fold], predicted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Naive predictions of every test row: the last scale's mean loss, a power law of scale, the tied law."""
    scale, last, line = scale_of(table), [], []
    for f in folds:
        x, y = np.log(scale[f.train]), np.log(table.loss[f.train])
        code = levels(scale[f.train])
        last.append(np.full(f.test.sum(), np.exp(y[code == code.max()].mean())))
        slope, intercept = np.polyfit(x, y, 1) if np.ptp(x) > 0 else (0.0, y.mean())
        line.append(np.exp(intercept + slope * np.log(scale[f.test])))
    out = {"persistence": np.concatenate(last), "log-linear": np.concatenate(line)}
    if "tied" in predicted and len(table.groups) == 1:
        out["tied"] = predicted["tied"]
    elif {"N", "D"} <= table.columns.keys():
        plain = dataclasses.replace(
            table, columns={k: table.columns[k] for k in "ND"}, group=np.zeros(table.n, int), groups=("",)
        )
        parts = [fit(dataclasses.replace(plain, weight=plain.weight * f.train), "tied").fitted[f.test] for f in folds]
        out["tied"] = np.concatenate(parts)
    return out


def _mape(predicted: np.ndarray, observed: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted / observed - 1)))


def conformal_halfwidth(residuals: np.ndarray, level: float) -> float:
    """Half-width in log loss of a split-conformal band: the ceil((m + 1) level)-th smallest |residual|.

    With fewer than level / (1 - level) residuals the band is the largest one, and its level is m / (m + 1).
    """
    r = np.sort(np.abs(residuals))
    rank = int(np.ceil((len(r) + 1) * level))
    return float(r[min(rank, len(r)) - 1])


def _score(
    name: str,
    predicted: np.ndarray,
    observed: np.ndarray,
    fold: np.ndarray,
    folds: Sequence[Fold],
    status: Sequence[str],
    whole: Any,
    level: float,
) -> Score:
    r = np.log(predicted / observed)
    inside, widths = [], []
    for k in range(1, len(folds)):
        half = conformal_halfwidth(r[fold < k], level)
        inside.append(np.abs(r[fold == k]) <= half)
        widths.append(2 * np.sinh(half))
    per_fold = tuple(
        FoldScore(
            f.name,
            int(f.train.sum()),
            int(f.test.sum()),
            _mape(predicted[fold == k], observed[fold == k]),
            float(np.sqrt(np.mean(r[fold == k] ** 2))),
            float(np.mean(np.expm1(r[fold == k]))),
            status[k],
        )
        for k, f in enumerate(folds)
    )
    mape = _mape(predicted, observed)
    slope = float(np.polyfit(np.log(predicted), np.log(observed), 1)[0]) if np.ptp(predicted) > 0 else float("nan")
    rss = float(np.sum(np.log(whole.fitted / whole.table.loss) ** 2))
    free = len(whole.params)
    deviance = whole.n * np.log(max(rss, 1e-300) / whole.n)
    return Score(
        name,
        mape,
        float(np.sqrt(np.mean(r**2))),
        float(np.mean(np.expm1(r))),
        slope,
        float(np.mean(np.concatenate(inside))) if inside else None,
        float(np.median(widths)) if widths else None,
        {},
        float(deviance + 2 * (free + 1)),
        float(deviance + np.log(whole.n) * (free + 1)),
        free,
        per_fold,
    )
