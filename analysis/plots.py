"""Pictures of fits, forecasts, comparisons, allocations and designs: matplotlib figures, saved by the caller."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import surface
from analysis.allocate import Allocation
from analysis.compare import Comparison, scale_of
from analysis.law import Law
from analysis.panels import (
    BLUE,
    CATEGORIES,
    GREEN,
    GREY,
    ORANGE,
    UNITS,
    VERMILION,
    cloud_panel,
    fit_panel,
    isoloss_panel,
    plain_log_ticks,
    profile_panel,
    residual_panel,
)  # fmt: skip
from lab.errors import LabError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.design import DesignReport
    from analysis.forecast import Prediction
    from analysis.profile import Profile
    from analysis.result import Fit

PANELS = ("fit", "residuals", "isoloss", "cloud", "profile")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#888888",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "svg.hashsalt": "analysis",
}


@contextlib.contextmanager
def _drawing() -> Iterator[Any]:
    """matplotlib without a display, with this module's style."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        from matplotlib.figure import Figure

        yield Figure


def save(figure: Figure, path: str | Path) -> Path:
    """Writes the figure in the format of the file's ending.

    Raises:
      LabError: for an unknown ending.
    """
    file = Path(path)
    if file.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise LabError(f"Cannot draw into {file.name!r}.", "Give a .png, .pdf or .svg file.")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return file


def fit_figure(
    fit: Fit,
    draws: Mapping[str, np.ndarray] | None = None,
    profiles: Mapping[str, Profile] | None = None,
    panels: Sequence[str] = PANELS,
    title: str = "",
) -> Figure:
    """The fit's panels; those that the law or the draws cannot fill are left out.

    Raises:
      LabError: for an unknown panel, or when none can be drawn.
    """
    if unknown := sorted(set(panels) - set(PANELS)):
        raise LabError(f"Unknown panel {unknown[0]!r}.", f"Known: {', '.join(PANELS)}.")
    single = len(fit.table.groups) == 1
    square = {"N", "D"} <= fit.table.columns.keys() and single
    jobs: dict[str, Callable[[Axes], None]] = {
        "fit": lambda ax: fit_panel(ax, fit),
        "residuals": lambda ax: residual_panel(ax, fit),
    }
    if square:
        rest = {k: float(np.median(v)) for k, v in fit.table.columns.items() if k not in ("N", "D")}
        jobs["isoloss"] = lambda ax: isoloss_panel(ax, fit.law, fit.params_of(), fit.table.columns, rest)
    if draws is not None and len(draws) > 1:
        jobs["cloud"] = lambda ax: cloud_panel(ax, fit, draws)
    if profiles:
        jobs["profile"] = lambda ax: profile_panel(ax, profiles)
    chosen = [jobs[p] for p in panels if p in jobs]
    if not chosen:
        raise LabError(f"None of the panels {', '.join(panels)} applies to {fit.law.name}.")
    with _drawing() as figure_of:
        columns = 1 if len(chosen) == 1 else 2
        rows = -(-len(chosen) // columns)
        figure = figure_of(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
        for k, job in enumerate(chosen):
            job(figure.add_subplot(rows, columns, k + 1))
        if title:
            figure.suptitle(title, fontsize=10, x=0.01, ha="left", color=GREY)
    return figure


def comparison_figure(result: Comparison) -> Figure:
    """Error on each held-out fold, law by law, with the signed bias beside it."""
    with _drawing() as figure_of:
        figure = figure_of(figsize=(10.4, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        x = np.arange(len(result.folds))
        for k, score in enumerate(result.scores):
            colour, marker = CATEGORIES[k % len(CATEGORIES)], "osD^vP"[k % 6]
            left.plot(x, [100 * f.rmse for f in score.folds], "-", marker=marker, ms=5, color=colour, label=score.law)
            right.plot(x, [100 * f.bias for f in score.folds], "-", marker=marker, ms=5, color=colour, label=score.law)
        right.axhline(0, color=GREY, lw=0.8)
        forward = result.by == "forward"
        names = [f.rpartition("predict ")[2] if forward else f.removeprefix("without ") for f in result.folds]
        for ax in (left, right):
            ax.set_xticks(x, names, rotation=30, ha="right", fontsize=7.5)
            ax.set_xlabel("scale predicted from all smaller ones (FLOPs)" if forward else "left out")
        left.set(ylabel="error of the predicted loss, RMS (%)", title=f"unseen rows: {result.by}")
        left.set_ylim(bottom=0)
        right.set(ylabel="mean signed error (%)", title="bias: above 0 predicts too high")
        left.legend(ncols=2)
    return figure


def forecast_figure(fit: Fit, predictions: Sequence[Prediction]) -> Figure:
    """The runs, and predictions with the bootstrap and the conformal band."""
    with _drawing() as figure_of:
        figure = figure_of(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.add_subplot()
        scale = scale_of(fit.table)
        ax.plot(scale, fit.table.loss, "o", ms=3, color=GREY, alpha=0.5, mec="none", label="runs")
        at = scale.max() * 10 ** np.array([p.distance for p in predictions])
        at = at * np.linspace(1, 1.0001, len(at))
        loss = np.array([p.loss for p in predictions])
        for kind, colour, width, text in (
            ("conformal", ORANGE, 5, "forward-chained conformal"),
            ("bootstrap", BLUE, 2, "bootstrap (of the curve only)"),
        ):
            bands = [getattr(p, kind) for p in predictions]
            if any(b is not None for b in bands):
                keep = [i for i, b in enumerate(bands) if b is not None]
                low, high = np.array([bands[i] for i in keep]).T
                ax.vlines(at[keep], low, high, color=colour, lw=width, alpha=0.8, label=text)
        ax.plot(at, loss, "D", ms=6, color=VERMILION, mec="white", zorder=4, label="predicted")
        ax.set(xscale="log", yscale="log", xlabel="compute 6ND (FLOPs)", ylabel="loss (nats per token)")
        ax.set_title(f"{fit.law.name}: forecasts")
        plain_log_ticks(ax)
        ax.legend()
    return figure


def allocation_figure(law: Law, params: surface.Values, result: Allocation, x: surface.Values | None = None) -> Figure:
    """Where the recommended run lies: contours of loss, the frontier, the interval."""
    with _drawing() as figure_of:
        figure = figure_of(figsize=(6.0, 4.6), layout="constrained")
        ax = figure.add_subplot()
        around = {"N": np.array([result.n / 8, result.n * 8]), "D": np.array([result.d / 8, result.d * 8])}
        isoloss_panel(ax, law, params, around, x, reach=2.0)
        ax.get_lines()[0].remove()
        sizes = np.geomspace(result.n / 16, result.n * 16, 80)
        ax.plot(sizes, result.n * result.d / sizes, color=GREY, lw=1, ls="--", label="equal training compute")
        if "n" in result.intervals:
            n, d = result.intervals["n"], result.intervals["d"]
            ax.errorbar(result.n, result.d, xerr=_arms(result.n, n.low, n.high), yerr=_arms(result.d, d.low, d.high),
                        color=BLUE, lw=1.6, capsize=3, zorder=4)  # fmt: skip
        ax.plot(result.n, result.d, "D", ms=8, color=BLUE, mec="white", zorder=5, label="recommended")
        ax.set_title(f"{result.flops:.3g} FLOPs: N = {result.n:.3g}, D = {result.d:.3g}")
        ax.legend(loc="upper left", frameon=True, facecolor="white", framealpha=0.85, edgecolor="none")
    return figure


def _arms(value: float, low: float, high: float) -> list[list[float]]:
    reach = value * 16
    return [[max(value - low, 0.0)], [max(min(high, reach) - value, 0.0)]]


def design_figure(report: DesignReport, columns: Mapping[str, np.ndarray]) -> Figure:
    """The planned runs over N and D with the next best ones, and how well each parameter would be known."""
    with _drawing() as figure_of:
        figure = figure_of(figsize=(10.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        n, d = columns["N"], columns["D"]
        for ratio in (1, 20, 400):
            left.plot([n.min() / 4, n.max() * 4], [ratio * n.min() / 4, ratio * n.max() * 4], color="#bbbbbb", lw=0.8)
            left.annotate(f"D = {ratio} N", (n.max() * 3, ratio * n.max() * 3), fontsize=7, color=GREY, ha="right")
        left.plot(n, d, "o", ms=5, color=BLUE, mec="white", label=f"{report.runs} planned, {report.flops:.2g} FLOPs")
        if report.next_runs:
            left.plot([c.x["N"] for c in report.next_runs], [c.x["D"] for c in report.next_runs], "*", ms=12,
                      color=VERMILION, mec="white", label="best to add, per FLOP")  # fmt: skip
        left.set(xscale="log", yscale="log", xlim=(n.min() / 3, n.max() * 3), xlabel=UNITS["N"], ylabel=UNITS["D"])
        left.set_ylim(d.min() / 6, d.max() * 6)
        left.set_title(f"{report.law}: {report.verdict}")
        left.legend(loc="upper left")
        names = [e.label for e in report.errors]
        relative = np.array([min(e.relative, 1e3) for e in report.errors])
        y = np.arange(len(names))[::-1]
        for weak, colour, text in ((False, GREEN, "determined"), (True, VERMILION, "not determined")):
            at = np.array([e.weak == weak for e in report.errors])
            if at.any():
                right.plot(relative[at], y[at], "o", ms=8, color=colour, label=text)
        right.axvline(1, color="#bbbbbb", lw=0.8)
        right.set_ylim(-0.7, len(names) - 0.3)
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        for k, e in zip(y, report.errors, strict=True):
            text = "not identified" if not np.isfinite(e.relative) else f"{e.value:.3g} ± {e.se:.2g}"
            right.annotate(
                text, (min(e.relative, 1e3), k), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8
            )
        right.set_yticks(y, names)
        right.set(xscale="log", xlabel="relative standard error", title=f"at {report.noise:.1%} noise of the loss")
        right.set_xlim(max(relative.min() / 3, 1e-4), relative.max() * 30)
    return figure
