"""What a reader needs to judge a fit: the checklist of arXiv:2502.18969, filled from the table and the fit.

What neither says is shown as missing. Nothing is guessed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.result import Fit
from analysis.table import read

if TYPE_CHECKING:
    import pandas as pd

SOLVER = "grid of starts, damped Gauss-Newton, then exact Newton"


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of the checklist; `answer` is None where nothing is known."""

    section: str
    question: str
    answer: str | None


@dataclasses.dataclass(frozen=True)
class ReportCard:
    """The checklist of one fit."""

    items: tuple[Item, ...]

    @property
    def missing(self) -> tuple[Item, ...]:
        return tuple(i for i in self.items if i.answer is None)

    def markdown(self) -> str:
        """A table; missing answers are bold."""
        lines = ["| section | question | answer |", "|---|---|---|"]
        lines += [f"| {i.section} | {i.question} | {i.answer or '**missing**'} |" for i in self.items]
        return "\n".join(lines)


def report_card(
    fit: Fit,
    data: pd.DataFrame | str | Path | None = None,
    *,
    intervals: Mapping[str, Any] | None = None,
    held_out: str | None = None,
    code: str | None = None,
) -> ReportCard:
    """Fills the checklist.

    Args:
      data: the table the fit came from, with all its columns; without it the training set-up is unknown.
      intervals: label -> interval, where they were computed.
      held_out: the result of predicting held-out scales, in words.
      code: where code and points are released.
    """
    frame = read(data) if isinstance(data, (str, Path)) else data
    kept = None if frame is None else frame.reset_index(drop=True).iloc[fit.table.row]
    table, law = fit.table, fit.law

    def values(*names: str, most: int = 4) -> str | None:
        """The distinct values of the first of these columns that the table has."""
        if kept is None:
            return None
        for name in names:
            if name in kept.columns and kept[name].notna().any():
                found = kept[name].dropna().unique()
                text = [f"{v:.4g}" if isinstance(v, (float, np.floating)) else str(v) for v in found[:most]]
                return f"{', '.join(text)}{', ...' if len(found) > most else ''} ({name})"
        return None

    def span(name: str) -> str | None:
        if name not in table.columns:
            return None
        v = table.columns[name]
        return f"{v.min():.3g} to {v.max():.3g} ({len(np.unique(v))} values)"

    def ratio() -> str | None:
        if not {"N", "D"} <= table.columns.keys():
            return None
        r = table.columns["D"] / table.columns["N"]
        return f"{r.min():.3g} to {r.max():.3g}"

    shared = [f.name for f in fit.problem.free if f.group is None]
    variables = ", ".join(f"{v.name} ({v.unit})" for v in law.variables)
    groups = f"{len(table.groups)}; shared: {', '.join(shared) or 'none'}" if len(table.groups) > 1 else "one"
    goal = fit.objective
    corner = f", corner {goal.delta:g}" if goal.kind == "huber" else ""
    dropped = "; ".join(str(d).split(" [")[0] for d in table.dropped)
    bounds = "; ".join(f.text for f in fit.flags if f.kind == "bound hit")
    seeds = values("seed_init", "seed")
    ends = None if intervals is None else f"{len(intervals)} parameters, {_methods(intervals)}"
    items = (
        Item("hypothesis", "form", f"{law.name}: {_first_line(law.__doc__)}"),
        Item("hypothesis", "source of the form", law.source),
        Item("hypothesis", "variables and units", f"{variables}; loss in nats"),
        Item("hypothesis", "parameters fitted", ", ".join(fit.params)),
        Item("hypothesis", "held fixed", ", ".join(f"{k} = {v:.6g}" for k, v in fit.frozen.items()) or "none"),
        Item("hypothesis", "groups", groups),
        Item("setup", "models trained", _count(kept, table.n)),
        Item("setup", "model shapes", values("d_model", "width")),
        Item("setup", "what N counts", values("n_counts") or _counts_of(kept, table)),
        Item("setup", "what C counts", values("flops_counts") or _costs_of(kept)),
        Item("setup", "data and mixture", values("mixture", "dataset")),
        Item("setup", "tokenizer", values("tokenizer_hash", "tokenizer")),
        Item("setup", "unique tokens", values("unique_tokens", "U")),
        Item("setup", "learning-rate schedule", values("schedule", "decay")),
        Item("setup", "peak learning rate", values("peak_lr", "lr")),
        Item("setup", "batch size", values("batch_tokens", "batch_size")),
        Item("setup", "distance from the tuned rate", values("tuned")),
        Item("setup", "source revision", values("commit")),
        Item("collection", "range of N", span("N")),
        Item("collection", "range of D", span("D")),
        Item("collection", "range of D/N", ratio()),
        Item("collection", "final or intermediate losses", _finals(kept)),
        Item("collection", "evaluation set", values("eval_hash")),
        Item("collection", "evaluation tokens", values("eval_tokens")),
        Item("collection", "metric", "loss in nats per token"),
        Item("collection", "seeds", seeds),
        Item("processing", "rows used", f"{table.n}"),
        Item("processing", "rows dropped, by rule", dropped or "none"),
        Item("processing", "weights", "equal" if np.ptp(table.weight) == 0 else "from the table"),
        Item("processing", "noise of the points", "none assumed" if table.noise is None else "each point has its own"),
        Item("fitting", "objective", f"sum of {goal.kind} of {goal.space} residuals{corner} = {fit.value:.9g}"),
        Item("fitting", "optimiser and starts", f"{SOLVER}; {fit.reached:.0%} of starts reached the optimum"),
        Item("fitting", "status", fit.status + "".join(f"; {f.text}" for f in fit.flags)),
        Item("fitting", "parameters at a bound", bounds or "none"),
        Item("fitting", "condition number", f"{fit.condition:.3g}"),
        Item("validation", "intervals and their method", ends),
        Item("validation", "held-out extrapolation", held_out),
        Item("validation", "code and points released", code),
    )  # fmt: skip
    return ReportCard(items)


def _methods(intervals: Mapping[str, Any]) -> str:
    return ", ".join(sorted({str(getattr(i, "method", "percentile")) for i in intervals.values()}))


def _count(kept: pd.DataFrame | None, rows: int) -> str | None:
    if kept is None:
        return None
    for name in ("run_id", "run_name", "run"):
        if name in kept.columns:
            return f"{kept[name].nunique()} runs in {rows} rows"
    return None


def _counts_of(kept: pd.DataFrame | None, table: Any) -> str | None:
    if kept is None or "N" not in table.columns:
        return None
    for name in ("n_total", "n_nonembedding"):
        if name in kept.columns and np.allclose(kept[name].to_numpy(float), table.columns["N"]):
            return name
    return None


def _first_line(text: str | None) -> str:
    return (text or "no formula given").strip().splitlines()[0]


def _costs_of(kept: pd.DataFrame | None) -> str | None:
    found = [] if kept is None else [c for c in ("flops_6nd", "flops_exact") if c in kept.columns]
    return f"columns {' and '.join(found)}" if found else None


def _finals(kept: pd.DataFrame | None) -> str | None:
    """Rows of one run at several steps are intermediate losses."""
    if kept is None:
        return None
    for run, at in (("run_id", "tokens_seen"), ("run_name", "tokens"), ("run", "tokens")):
        if run in kept.columns and at in kept.columns:
            several = int((kept.groupby(run)[at].nunique() > 1).sum())
            return "one loss a run" if several == 0 else f"{several} runs give several losses each"
    return None
