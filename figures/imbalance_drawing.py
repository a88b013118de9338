"""What the figures of the imbalance study share: the meaning of colours and marks, and words for what is missing.

A colour is a language (or a kind of model), a marker a mixture, in every panel. Published marks are filled where the
number is exact and hollow where it was read off a plot; measured ones are filled, with the spread of their seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from analysis.panels import BLUE, GREEN, GREY, ORANGE, VERMILION
from figures.drawing import empty_panel, mark
from figures.imbalance_sides import Side, Sides

# For figures in which two languages lie on each other: the first is drawn on top and smaller.
MARK_SIZE = {"l1": 4.2, "clone1": 6.6, "l2": 6.6}
LANGUAGE = {"l1": BLUE, "clone1": VERMILION, "l2": GREEN}
NAME = {"l1": "l1 (EN1)", "clone1": "clone1 (EN2)", "l2": "l2 (FR)"}
MODEL = {"decoder": BLUE, "word2vec": ORANGE}
HALF, TENTH = "o", "D"  # markers of the mixtures 50/50 and 90/10
# Ticks of TEff where the axis spans more than a ratio.
WORTH = (
    (4.0, (0.05, 0.1, 0.25, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8)),
    (2.0, (0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 3, 5)),
    (0.0, (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2)),
)


def series(
    ax: Axes,
    x: np.ndarray,
    rows: pd.DataFrame,
    column: str,
    colour: str,
    marker: str = "o",
    line: str = "",
    size: float = 5,
) -> None:
    """Marks of `column` over x with its spread: filled where exact, hollow where read off a plot, arrows for bounds."""
    at, value = np.asarray(x, float), rows[column].to_numpy(float)
    keep = np.isfinite(at) & np.isfinite(value)
    at, value, rows = at[keep], value[keep], rows[keep]
    order = np.argsort(at)
    if line:
        ax.plot(at[order], value[order], line, color=colour, linewidth=1.1, alpha=0.8)
    low = np.maximum(value - rows[f"{column}_low"].to_numpy(float), 0)
    high = np.maximum(rows[f"{column}_high"].to_numpy(float) - value, 0)
    ax.errorbar(at, value, [low, high], fmt="none", ecolor=colour, elinewidth=1, capsize=2)
    exact = rows[f"{column}_exact"].to_numpy(bool)
    kind = rows[f"{column}_kind"].to_numpy() if f"{column}_kind" in rows else np.full(len(rows), "exact")
    for shown, filled in ((exact, colour), (~exact, "white")):
        plain = shown & (kind == "exact")
        ax.plot(at[plain], value[plain], marker, color=colour, markerfacecolor=filled, markersize=size, linestyle="")
    for bound, arrow in (("at most", "v"), ("at least", "^")):
        ax.plot(at[kind == bound], value[kind == bound], arrow, color=colour, markersize=6, linestyle="")


def share_axis(ax: Axes, shares: Sequence[float], label: str = "share of the second language") -> None:
    """Ticks at the shares, as per cent; the 5 % ends have none where a 10 % tick stands beside them."""
    ax.xaxis.set_major_locator(FixedLocator([s for s in shares if s not in (0.95,)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}")
    ax.set_xlabel(f"{label}, %")


def tokens_axis(ax: Axes, label: str = "training tokens, T") -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 4]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.set_xlabel(label)


def perplexity_axis(ax: Axes) -> None:
    """Logarithmic, with plain ticks close enough that a narrow range has some."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    fine = tuple(float(v) for v in np.arange(1, 10, 0.5))
    ratio = high / low
    subs: tuple[float, ...] = (1, 2, 5) if ratio > 8 else (1, 1.5, 2, 3, 4, 5, 7)
    if ratio < 2.5:
        subs = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if ratio > 1.5 else fine
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=subs))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")


def worth_axis(ax: Axes) -> None:
    """TEff, logarithmic, with a line at 1."""
    ax.set_yscale("log")
    ax.axhline(1, color=GREY, linewidth=0.8, zorder=0)
    _worth_ticks(ax)


def _worth_ticks(ax: Axes) -> None:
    low, high = ax.get_ylim()
    ticks = next(ticks for ratio, ticks in WORTH if high / low > ratio)
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")


def same_worths(panels: Sequence[Axes]) -> None:
    """One range for panels of TEff, and the same ticks; empty panels do not count."""
    drawn = [ax for ax in panels if ax.lines]
    if drawn:
        ends = np.array([ax.get_ylim() for ax in drawn])
        for ax in drawn:
            ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
            _worth_ticks(ax)


def absent(ax: Axes, names: Sequence[str], why: str = "not in the table") -> None:
    """An empty panel, saying in words what it lacks."""
    empty_panel(ax, why, condensed(names))


def filled(
    panels: Iterable[Axes], sides: Sides, frames: Sequence[pd.DataFrame], names: Sequence[str]
) -> Iterator[tuple[Axes, Side, pd.DataFrame]]:
    """Each side's panel with its rows, titled; one without rows says what it lacks, and is done."""
    for ax, side, rows in zip(panels, sides.both, frames, strict=True):
        ax.set_title(side.title)
        if rows.empty:
            absent(ax, names)
        else:
            yield ax, side, rows


def named_share(rows: pd.DataFrame) -> np.ndarray:
    """The second language's share, from the names of arms like `clone 10 %`."""
    return rows.arm.str.extract(r"([\d.]+) %", expand=False).to_numpy(float) / 100


def partly(names: Sequence[str], of: int) -> str:
    """A note for a figure some of whose arms are not measured; where none is, its panels say so."""
    if not names or len(names) == of:
        return ""
    return f"Not measured ({len(names)} of {of} arms): {'; '.join(condensed(names))}."


def condensed(names: Sequence[str]) -> list[str]:
    """Names of arms that differ in one share only, as one: `clone 5, 10, 20 %, 1 T`."""
    groups: dict[tuple[str, str], list[float]] = {}
    for name in names:
        match = re.fullmatch(r"(clone|l2) ([\d.]+)( %, .*)", name)
        groups.setdefault((match[1], match[3]) if match else (name, ""), []).extend([float(match[2])] if match else [])
    return [
        f"{head} {', '.join(f'{s:g}' for s in sorted(shares))}{tail}" if shares else head
        for (head, tail), shares in groups.items()
    ]


def evidence() -> list[Line2D]:
    """What filling means."""
    return [
        mark("exact, or measured (bar: spread of seeds)", marker="o"),
        mark("read off the paper's plot (bar: error, where known)", marker="o", filled=False),
    ]
