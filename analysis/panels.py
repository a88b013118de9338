"""The panels figures are made of: each draws into given axes, and every axis names its unit.

Sizes are coloured in one sequential map (cividis, safe for colour-blind readers and in grey), categories in the
Okabe-Ito palette.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import surface
from analysis.allocate import frontier
from analysis.compare import distinct, scale_of
from analysis.law import Law
from analysis.laws.constrained import MOST_EPOCHS
from lab.errors import LabError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.profile import Profile
    from analysis.result import Fit

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, YELLOW = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
CATEGORIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
GREY = "#5a5a5a"
UNITS = {"N": "parameters N", "D": "training tokens D", "C": "compute C (FLOPs)", "U": "unique tokens U"}


def sequential(values: np.ndarray) -> tuple[Any, Any]:
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
        cmap, norm = sequential(sizes)
        code = distinct(sizes)
        levels = np.unique(code)
        shown = levels if len(levels) <= 24 else levels[:: len(levels) // 24 + 1]
        loose = np.zeros(fit.n, bool)
        for k in shown:
            at = code == k
            if len(np.unique(x[at])) > 1 and not _curve(ax, fit, at, along, cmap(norm(sizes[at].mean()))):
                loose |= at
        if loose.any():
            ax.vlines(
                x[loose], y[loose], fit.fitted[loose], color="#bbbbbb", lw=0.7, zorder=1, label="to the prediction"
            )
            ax.legend(loc="best")
        points = ax.scatter(x, y, c=sizes, cmap=cmap, norm=norm, s=16, edgecolor="white", linewidth=0.4, zorder=3)
        ax.figure.colorbar(points, ax=ax, label=UNITS.get(colour, colour), pad=0.02)
    if positive:
        ax.set_xscale("log")
    ax.set_yscale("log")
    plain_log_ticks(ax)
    ax.set(xlabel=UNITS.get(along, along), ylabel="loss (nats per token)", title=f"{fit.law.name}: {fit.status}")


def _curve(ax: Axes, fit: Fit, at: np.ndarray, along: str, colour: Any) -> bool:
    """The fitted curve of the rows `at`; False (and none) where their other variables differ."""
    x = fit.table.columns[along][at]
    names = np.unique(fit.table.group[at])
    grid = np.geomspace(x.min(), x.max(), 60)
    others = {k: v[at] for k, v in fit.table.columns.items() if k != along}
    if any(np.ptp(v) > 0.02 * np.abs(v).max() for k, v in others.items() if k != "N"):
        return False
    columns = {k: np.full(60, v[0]) for k, v in others.items()} | {along: grid}
    for g in names:
        loss = surface.loss(fit.law, fit.params_of(fit.table.groups[g]), columns)
        ax.plot(grid, loss, color=colour, lw=1.0, alpha=0.75)
    return True


def plain_log_ticks(ax: Axes) -> None:
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
    held = "".join(f", {k} = {float(v):.2g}" for k, v in (x or {}).items())
    lines = ax.contour(nn, dd, loss, levels=marks, cmap=sequential(marks)[0], linewidths=0.9, alpha=0.9)
    ax.clabel(lines, fmt="%.2f", fontsize=7)
    ax.plot(n, d, "o", ms=3, color=GREY, alpha=0.6, mec="none", label="runs")
    budgets = np.geomspace(6 * grid_n[0] * grid_d[0], 6 * grid_n[-1] * grid_d[-1], 60)
    with contextlib.suppress(LabError):
        best = frontier(law, params, budgets, x)
        # Laws of repeated data fall with D for ever: their optima beyond the epoch cap mean nothing.
        sound = np.isfinite(best["N"]) & (best["D"] <= MOST_EPOCHS * float((x or {}).get("U", np.inf)))
        if sound.any():
            ax.plot(best["N"][sound], best["D"][sound], color=VERMILION, lw=2, label="least loss for its compute")
    ax.set(xscale="log", yscale="log", xlim=(grid_n[0], grid_n[-1]), ylim=(grid_d[0], grid_d[-1]))
    ax.legend(loc="upper left", frameon=True, facecolor="white", framealpha=0.85, edgecolor="none")
    ax.set(xlabel=UNITS["N"], ylabel=UNITS["D"], title=f"loss in nats over size and tokens{held}")


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


def profile_panel(ax: Axes, profiles: Mapping[str, Profile]) -> None:
    """How much worse the best fit gets as one parameter is held away from its optimum, in units of that optimum."""
    limit = max(p.limit for p in profiles.values())
    for k, (label, p) in enumerate(profiles.items()):
        centre = p.interval.estimate or 1.0
        near = p.statistic <= 3.2 * limit
        ax.plot(p.values[near] / centre, p.statistic[near] / p.limit, "-", marker="osD^vP"[k % 6], ms=3,
                color=CATEGORIES[k % len(CATEGORIES)], lw=1.3, label=label)  # fmt: skip
    shown = np.concatenate(
        [p.values[p.statistic <= 3.2 * limit] / (p.interval.estimate or 1.0) for p in profiles.values()]
    )
    if np.all(shown > 0) and shown.max() / shown.min() > 30:
        ax.set_xscale("log")
    ax.axhline(1, color=GREY, lw=1, ls="--")
    level = next(iter(profiles.values())).interval.level
    ax.annotate(f"{level:.0%} interval", (0.01, 1), xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom")
    ax.set(xlabel="parameter / its fitted value", ylabel="profile statistic / its limit", title="profile likelihood")
    ax.set_ylim(0, 3.2)
    ax.legend(ncols=2)
