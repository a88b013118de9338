"""Results of the commands on laws as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.commands.law_options import number

if TYPE_CHECKING:
    from analysis.allocate import Allocation
    from analysis.audit import Convention
    from analysis.compare import Comparison
    from analysis.design import DesignReport
    from analysis.forecast import Prediction
    from analysis.law import Law
    from analysis.result import Fit

STATUS_WORDS = {
    "converged": "converged to one minimum",
    "several minima": "several minima lie close together: intervals may be wide or open",
    "bound hit": "a parameter ran to its bound",
    "degenerate": "a parameter is implausible: the law fits, its parts may mean nothing",
    "not identified": "the table cannot tell some parameters apart: do not use them",
    "not converged": "the solver did not finish: do not use the numbers",
}


def console() -> Console:
    """The terminal's width; 110 columns where the output goes to a file or a pipe."""
    out = Console()
    return out if out.is_terminal else Console(width=110)


def _table(title: str, columns: Sequence[str], caption: str = "", left: int = 1) -> Table:
    table = Table(
        title=title, title_justify="left", caption=caption or None, caption_justify="left", box=box.SIMPLE_HEAD
    )
    for k, name in enumerate(columns):
        table.add_column(name, justify="left" if k < left else "right")
    return table


def fit_table(fit: Fit, intervals: dict[str, Any]) -> Table:
    """Parameters with intervals; objective and status below."""
    goal = fit.objective
    corner = f", delta {goal.delta:g}" if goal.kind == "huber" else ""
    groups = f", {len(fit.table.groups)} groups" if len(fit.table.groups) > 1 else ""
    clusters = f", {len(fit.table.clusters)} clusters" if fit.table.clustered else ""
    caption = (
        f"{STATUS_WORDS[fit.status]}\nobjective {fit.value:.9g} ({goal.name}{corner}), R2 {fit.r2:.4f}, "
        f"{fit.reached:.0%} of starts agree, {fit.seconds:.2f} s"
    )
    out = _table(
        f"{fit.law.name} on {fit.n} points{groups}{clusters}: {fit.status}",
        ("parameter", "value", "interval", "method"),
        caption,
    )
    for label, value in fit.params.items():
        found = intervals.get(label)
        ends = "" if found is None else f"{_end(found.low)} to {_end(found.high)}"
        out.add_row(escape(label), f"{value:.6g}", ends, "" if found is None else f"{found.method} {found.level:.0%}")
    for label, value in fit.frozen.items():
        out.add_row(escape(label), f"{value:.6g}", "", "frozen")
    return out


def _end(value: float) -> str:
    return "open" if value in (float("inf"), float("-inf")) else f"{value:.5g}"


def comparison_table(result: Comparison) -> Table:
    """Laws, best first, with their errors on unseen rows."""
    baselines = ", ".join(f"{k} {v:.2%}" for k, v in result.baselines.items())
    names = list(result.baselines)
    lines = [f"{len(result.observed)} predictions in {len(result.folds)} folds"]
    if baselines:
        lines.append(f"vs: skill, 1 - error / error of a naive prediction ({baselines})")
    lines.append("AIC and BIC, above the least, are shown and not used: they do not predict extrapolation")
    out = _table(
        f"error on unseen rows, {result.by} ({result.n} rows)",
        ("law", "error", "bias", "slope", "coverage", "band", *(f"vs {n}" for n in names), "AIC", "BIC"),
        "\n".join(lines),
    )
    aic, bic = min(s.aic for s in result.scores), min(s.bic for s in result.scores)
    for s in result.scores:
        out.add_row(
            s.law,
            f"{s.mape:.2%}",
            f"{s.bias:+.2%}",
            f"{s.slope:.3f}",
            "" if s.coverage is None else f"{s.coverage:.0%}",
            "" if s.band is None else f"{s.band:.1%}",
            *(f"{s.skill.get(n, 0):+.2f}" for n in names),
            f"{s.aic - aic:.0f}",
            f"{s.bic - bic:.0f}",
        )
    return out


def prediction_table(fit: Fit, predictions: Sequence[Prediction], level: float) -> Table:
    """Losses with both bands."""
    out = _table(
        f"{fit.law.name} ({fit.status}): predicted loss, nats per token",
        ("point", "loss", f"bootstrap {level:.0%}", "conformal", "beyond the data"),
        "The bootstrap band is the curve's alone and too narrow for new runs; plan with the conformal one.",
    )
    notes = set()
    for p in predictions:
        point = ", ".join(f"{k} = {v:.3g}" for k, v in p.x.items())
        boot = "" if p.bootstrap is None else f"{p.bootstrap[0]:.4f} to {p.bootstrap[1]:.4f}"
        band = "" if p.conformal is None else f"{p.conformal[0]:.4f} to {p.conformal[1]:.4f}"
        if p.band is not None and p.band.note:
            notes.add(p.band.note)
        out.add_row(point, f"{p.loss:.4f}", boot, band, f"x{10**p.distance:.3g}" if p.distance > 0 else "inside")
    if notes:
        out.caption = f"{out.caption}\n{'; '.join(sorted(notes))}"
    return out


def allocation_table(best: Allocation, status: str | None) -> Table:
    """The recommended run."""
    parts = []
    if best.deadweight is not None:
        parts.append(
            f"deadweight loss: {best.deadweight:.2%} of the compute in the median, "
            f"{best.deadweight_high:.2%} at the upper {best.level:.0%} end"
        )
    if best.capped:
        parts.append("the epoch cap set D: more data, not more compute, is what is missing")
    if best.open_draws:
        parts.append(f"{best.open_draws:.0%} of the resamples have no finite optimum")
    if status not in (None, "converged"):
        parts.append(f"the fit is {status}")
    out = _table(f"{best.law}: {best.flops:.4g} FLOPs", ("", "best", f"{best.level:.0%} interval"), "\n".join(parts))
    rows = {
        "N (parameters)": "n",
        "D (tokens)": "d",
        "D / N": "tokens_per_parameter",
        "loss (nats)": "loss",
    }
    for text, key in rows.items():
        ends = best.intervals.get(key)
        shown = "" if ends is None else f"{number(ends.low) if ends.low > 0 else 'open'} to {number(ends.high)}"
        out.add_row(text, number(getattr(best, key)), shown)
    if best.epochs is not None:
        out.add_row("epochs", f"{best.epochs:.2f}", "")
    return out


def approaches_table(found: Sequence[dict[str, Any]]) -> Table:
    """Exponents by the three approaches."""
    out = _table(
        "N* = k C^a by three approaches",
        ("approach", "a", "se", "bias of N*, low to high C", "bias of a", "note"),
        "Bias: the approach replayed without noise on this grid, against the fitted law's own optimum.",
    )
    for row in found:
        if row["exponent"] is None:
            out.add_row(row["approach"], "none", "", "", "", row["note"])
            continue
        bias = row.get("bias")
        out.add_row(
            row["approach"],
            f"{row['exponent']:.4f}",
            f"{row['se']:.4f}" if "se" in row else "",
            "" if bias is None else f"{bias[0]:+.1%} to {bias[1]:+.1%}",
            "" if bias is None else f"{bias[2]:+.4f}",
            row["note"],
        )
    return out


def audit_table(law: str, found: Sequence[Convention]) -> Table:
    """Parameters and exponent under each convention."""
    names = list(found[0].params)
    out = _table(
        f"{law} under each count of N and C",
        ("N", "C", *names, "a in N* ~ C^a", "N / reference", "objective", "status"),
        left=2,
    )
    for c in found:
        out.add_row(
            c.n_column,
            c.c_column,
            *(f"{c.params[n]:.4g}" for n in names),
            "none" if c.exponent != c.exponent else f"{c.exponent:.4f}",
            f"{c.n_ratio[0]:.3g} to {c.n_ratio[1]:.3g}",
            f"{c.value:.6g}",
            c.status,
        )
    return out


def design_table(report: DesignReport) -> Table:
    """What each parameter would be known to."""
    parts = [f"rank {report.rank} of {report.parameters}, noise {report.noise:.2%}"]
    if report.flops == report.flops:
        parts.append(f"cost {report.flops:.3g} FLOPs ({report.branched_flops:.3g} with sizes branching off one trunk)")
    if report.forecast_se is not None and report.target is not None:
        point = ", ".join(f"{k} = {v:.3g}" for k, v in report.target.items())
        worth = f"{report.forecast_se:.2%}" if report.forecast_se < 10 else "not identified"
        parts.append(f"standard error of the loss at {point}: {worth}")
    out = _table(
        f"{report.law}, {report.runs} runs: {report.verdict}",
        ("parameter", "assumed", "standard error", "relative", ""),
        "\n".join(parts),
    )
    for e in report.errors:
        seen = e.se == e.se and e.se not in (float("inf"),)
        out.add_row(
            escape(e.label),
            f"{e.value:.4g}",
            f"{e.se:.3g}" if seen else "infinite",
            f"{e.relative:.1%}" if seen and e.relative < 1e4 else "",
            "weak" if e.weak and seen else ("not identified" if not seen else ""),
        )
    return out


def laws_table(laws: Sequence[Law]) -> Table:
    """All laws."""
    out = _table("laws", ("name", "formula", "reads", "source"), left=4)
    for law in laws:
        formula = (law.__doc__ or "").strip().splitlines()[0] if law.__doc__ else ""
        out.add_row(law.name, formula, ", ".join(v.name for v in law.variables), law.source)
    return out


def law_table(law: Law) -> Table:
    """One law: its parameters and every published value."""
    formula = (law.__doc__ or "").strip().splitlines()[0] if law.__doc__ else law.name
    reads = "; ".join(f"{v.name}: {v.unit}" for v in law.variables)
    out = _table(f"{law.name}: {formula}", ("parameter", *(p.source for p in law.published)), f"{reads}\n{law.source}")
    for p in law.parameters:
        shown = (f"{q.params[p.name]:.6g}" if p.name in q.params else "" for q in law.published)
        out.add_row(p.name, *shown)
    return out
