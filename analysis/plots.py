"""Pictures of fits, forecasts, comparisons, allocations and designs: matplotlib figures, saved by the caller.

Sizes are coloured in one sequential map (cividis, safe for colour-blind readers and in grey), categories in the
Okabe-Ito palette. Every axis names its unit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import surface
from analysis.allocate import Allocation, frontier
from analysis.compare import Comparison, distinct, scale_of
from analysis.law import Law
from lab.errors import LabError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.design import DesignReport
    from analysis.forecast import Prediction
    from analysis.profile import Profile
    from analysis.result import Fit

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, YELLOW = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
CATEGORIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
GREY = "#5a5a5a"
UNITS = {"N": "parameters N", "D": "training tokens D", "C": "compute C (FLOPs)", "U": "unique tokens U"}
PANELS = ("fit", "residuals", "isoloss", "cloud", "profile")
STYLE: dict[str, Any] = {
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

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
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


def _sequential(values: np.ndarray) -> tuple[Any, Any]:
    """A colour map and its logarithmic scale over `values`."""
    import matplotlib as mpl
    from matplotlib.colors import LogNorm

    low, high = float(values.min()), float(values.max())
    # The pale end of the map is left out: it disappears on white.
    colours = mpl.colormaps["cividis"].resampled(256)(np.linspace(0, 0.88, 256))
    cmap = mpl.colors.ListedColormap(colours)
    return cmap, LogNorm(low / 1.05, high * 1.05) if high <= low * 1.001 else LogNorm(low, high)


def _fit_axes(law: Law) -> tuple[str, str | None]:
    """The variable along x, and the one that colours."""
    names = [v.name for v in law.variables]
    along = "D" if "D" in names else "C" if "C" in names else names[0]
    return along, "N" if "N" in names and along != "N" else None


def fit_panel(ax: Axes, fit: Fit) -> None:
    """Observed losses and the fitted curve of each size."""
    along, colour = _fit_axes(fit.law)
    x, y = fit.table.columns[along], fit.table.loss
    positive = bool(np.all(x > 0))
    if colour is None:
        order = np.argsort(x)
        ax.plot(x[order], fit.fitted[order], color=VERMILION, lw=1.4, label=fit.law.name)
        ax.plot(x, y, "o", color=BLUE, ms=4, mec="white", mew=0.4, label="runs")
        ax.legend()
    else:
        sizes = fit.table.columns[colour]
        cmap, norm = _sequential(sizes)
        code = distinct(sizes)
        levels = np.unique(code)
        shown = levels if len(levels) <= 24 else levels[:: len(levels) // 24 + 1]
        for k in shown:
            at = code == k
            if len(np.unique(x[at])) > 1:
                _curve(ax, fit, at, along, cmap(norm(sizes[at].mean())))
        points = ax.scatter(x, y, c=sizes, cmap=cmap, norm=norm, s=16, edgecolor="white", linewidth=0.4, zorder=3)
        ax.figure.colorbar(points, ax=ax, label=UNITS.get(colour, colour), pad=0.02)
    if positive:
        ax.set_xscale("log")
    ax.set_yscale("log")
    _plain_log_ticks(ax)
    ax.set(xlabel=UNITS.get(along, along), ylabel="loss (nats per token)", title=f"{fit.law.name}: {fit.status}")


def _curve(ax: Axes, fit: Fit, at: np.ndarray, along: str, colour: Any) -> None:
    """The fitted curve of the rows `at`, their other variables held at the first row's."""
    x = fit.table.columns[along][at]
    names = np.unique(fit.table.group[at])
    grid = np.geomspace(x.min(), x.max(), 60)
    others = {k: v[at] for k, v in fit.table.columns.items() if k != along}
    if any(np.ptp(v) > 0.02 * np.abs(v).max() for k, v in others.items() if k != "N"):
        return
    columns = {k: np.full(60, v[0]) for k, v in others.items()} | {along: grid}
    for g in names:
        loss = surface.loss(fit.law, fit.params_of(fit.table.groups[g]), columns)
        ax.plot(grid, loss, color=colour, lw=1.0, alpha=0.75)


def _plain_log_ticks(ax: Axes) -> None:
    """Round numbers on a logarithmic loss axis, which rarely spans a decade."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

    low, high = ax.get_ylim()
    if high / low < 20:
        ax.yaxis.set_major_locator(FixedLocator([t for t in MaxNLocator(7).tick_values(low, high) if low <= t <= high]))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_locator(NullLocator())


def residual_panel(ax: Axes, fit: Fit) -> None:
    """Relative residuals against scale, with a running median and the middle 95 %."""
    r = 100 * (fit.fitted / fit.table.loss - 1)
    try:
        scale, label = scale_of(fit.table), "compute 6ND (FLOPs)"
        if "C" not in fit.table.columns and not {"N", "D"} <= fit.table.columns.keys():
            label = UNITS.get("D" if "D" in fit.table.columns else "N", "scale")
    except LabError:
        scale, label = np.arange(1.0, fit.n + 1), "row"
    ends = np.quantile(r, [0.025, 0.975])
    ax.axhspan(*ends, color=SKY, alpha=0.18, lw=0, label=f"middle 95 %: {ends[0]:+.2g} to {ends[1]:+.2g} %")
    ax.axhline(0, color=GREY, lw=0.8)
    groups = fit.table.groups
    for g, name in enumerate(groups[: len(CATEGORIES)]):
        at = fit.table.group == g
        ax.plot(scale[at], r[at], "o", ms=3.2, color=CATEGORIES[g], alpha=0.75, mec="none",
                label=name if len(groups) > 1 else None)  # fmt: skip
    if fit.n >= 30:
        order = np.argsort(scale)
        parts = np.array_split(order, min(12, fit.n // 10))
        ax.plot([np.exp(np.log(scale[p]).mean()) for p in parts], [np.median(r[p]) for p in parts],
                color=VERMILION, lw=1.6, label="running median")  # fmt: skip
    ax.set_xscale("log")
    ax.legend(loc="best")
    ax.set(xlabel=label, ylabel="predicted / observed loss - 1 (%)", title="residuals")


def isoloss_panel(
    ax: Axes,
    law: Law,
    params: surface.Values,
    points: Mapping[str, np.ndarray],
    x: surface.Values | None = None,
    reach: float = 4.0,
) -> None:
    """Contours of equal loss over N and D, the runs, and the compute-optimal frontier."""
    n, d = np.asarray(points["N"]), np.asarray(points["D"])
    grid_n = np.geomspace(n.min() / reach, n.max() * reach, 90)
    grid_d = np.geomspace(d.min() / reach, d.max() * reach, 90)
    nn, dd = np.meshgrid(grid_n, grid_d)
    loss = surface.loss(law, params, {**(x or {}), "N": nn, "D": dd})
    low, high = np.nanquantile(loss, [0.01, 0.97])
    marks = np.geomspace(low, high, 11)
    lines = ax.contour(nn, dd, loss, levels=marks, cmap=_sequential(marks)[0], linewidths=0.9, alpha=0.9)
    ax.clabel(lines, fmt="%.2f", fontsize=7)
    ax.plot(n, d, "o", ms=3, color=GREY, alpha=0.6, mec="none", label="runs")
    budgets = np.geomspace(6 * grid_n[0] * grid_d[0], 6 * grid_n[-1] * grid_d[-1], 60)
    with contextlib.suppress(LabError):
        best = frontier(law, params, budgets, x)
        if np.isfinite(best["N"]).any():
            ax.plot(best["N"], best["D"], color=VERMILION, lw=2, label="least loss for its compute")
    ax.set(xscale="log", yscale="log", xlim=(grid_n[0], grid_n[-1]), ylim=(grid_d[0], grid_d[-1]))
    ax.legend(loc="upper left", frameon=True, facecolor="white", framealpha=0.85, edgecolor="none")
    ax.set(xlabel=UNITS["N"], ylabel=UNITS["D"], title="loss in nats over size and tokens")


def cloud_panel(ax: Axes, fit: Fit, draws: Mapping[str, np.ndarray]) -> None:
    """Bootstrap draws of the two most correlated among shapes and the first coefficient, with the fit."""
    labels = [k for k in draws if np.ptp(draws[k]) > 0]
    if len(labels) < 2:
        raise LabError("A bootstrap cloud needs two parameters that vary.")
    shapes = [k for k in labels if fit.law.parameter[k.split("[")[0]].role == "shape"]
    # A coefficient and its exponent always move together; the floor is the one worth seeing.
    pool = [*(k for k in labels if k not in shapes)][:1] + shapes
    pool = pool if len(pool) >= 2 else labels
    table = np.corrcoef([np.argsort(np.argsort(draws[k])) for k in pool])
    np.fill_diagonal(table, 0)
    i, j = np.unravel_index(np.argmax(np.abs(table)), table.shape)
    a, b = pool[min(i, j)], pool[max(i, j)]
    ax.plot(draws[a], draws[b], "o", ms=2.2, color=BLUE, alpha=0.25, mec="none", label=f"{len(draws[a])} resamples")
    ax.plot(fit.params[a], fit.params[b], "o", ms=8, color=VERMILION, mec="white", label="fit")
    for name, set_limits in ((a, ax.set_xlim), (b, ax.set_ylim)):
        low, high = np.quantile(draws[name], [0.005, 0.995])
        margin = 0.15 * (high - low)
        set_limits(low - margin, high + margin)
    ax.legend(loc="best")
    ax.set(xlabel=a, ylabel=b, title=f"bootstrap (rank correlation {table[i, j]:+.2f})")


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


def profile_panel(ax: Axes, profiles: Mapping[str, Profile]) -> None:
    """How much worse the best fit gets as one parameter is held away from its optimum, in units of that optimum."""
    limit = max(p.limit for p in profiles.values())
    for k, (label, p) in enumerate(profiles.items()):
        centre = p.interval.estimate or 1.0
        near = p.statistic <= 3.2 * limit
        ax.plot(p.values[near] / centre, p.statistic[near] / p.limit, "-", marker="osD^vP"[k % 6], ms=3,
                color=CATEGORIES[k % len(CATEGORIES)], lw=1.3, label=label)  # fmt: skip
    ax.axhline(1, color=GREY, lw=1, ls="--")
    level = next(iter(profiles.values())).interval.level
    ax.annotate(f"{level:.0%} interval", (0.01, 1), xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom")
    ax.set(xlabel="parameter / its fitted value", ylabel="profile statistic / its limit", title="profile likelihood")
    ax.set_ylim(0, 3.2)
    ax.legend(ncols=2)


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
        _plain_log_ticks(ax)
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
        right.legend(loc="lower right")
        for k, e in zip(y, report.errors, strict=True):
            text = "not identified" if not np.isfinite(e.relative) else f"{e.value:.3g} ± {e.se:.2g}"
            right.annotate(
                text, (min(e.relative, 1e3), k), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8
            )
        right.set_yticks(y, names)
        right.set(xscale="log", xlabel="relative standard error", title=f"at {report.noise:.1%} noise of the loss")
        right.set_xlim(max(relative.min() / 3, 1e-4), relative.max() * 30)
    return figure
