"""What all figures share: axes, tick labels, and the provenance written into every file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from analysis.panels import CATEGORIES as COLOURS
from analysis.panels import GREY
from figures.provenance import FORMATS, Provenance
from lab.records import one_line_io_errors

__all__ = [
    "COLOURS", "PALE", "Provenance", "axes", "count", "empty_panel", "foot", "key", "mark", "save", "token_axis",
]  # fmt: skip
PALE = "#8a8f94"


def axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.2, 4.0), **kwargs: Any) -> tuple[Figure, Any]:
    """A figure with `rows` x `columns` axes, `size` in inches."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def token_axis(ax: Axes) -> None:
    """Labels a logarithmic axis in thousands and millions of tokens."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda v, _: count(v))


def empty_panel(ax: Axes, why: str, names: Sequence[str] = ()) -> None:
    """A panel without data: why, and what it lacks."""
    ax.set(xlabel="", ylabel="")  # ticks may be shared with a panel that has data
    ax.tick_params(which="both", bottom=False, left=False, labelbottom=False, labelleft=False)
    for spine in ax.spines.values():
        spine.set_color("#DDDDDD")
    width = max(18, int(ax.get_window_extent().width / ax.get_figure().dpi * 10))  # type: ignore[union-attr]
    text = f"{why}:\n" + textwrap.fill("; ".join(names), width) if names else textwrap.fill(why, width)
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=8, color=PALE)


def foot(figure: Figure, *lines: str) -> None:
    """Notes below a figure."""
    width = int(figure.get_figwidth() * 17)
    text = "\n".join(textwrap.fill(line, width) for line in lines if line)
    if text:
        figure.supxlabel(text, fontsize=7.5, color=GREY, x=0.01, ha="left")


def key(figure: Figure, handles: Sequence[Any]) -> None:
    """One legend above all panels."""
    figure.legend(handles=list(handles), loc="outside upper center", ncols=min(5, len(handles)), fontsize=8)


def mark(label: str, colour: str = GREY, marker: str = "", line: str = "", filled: bool = True) -> Line2D:
    """One entry of a legend."""
    face = colour if filled else "white"
    dash: Any = line or "none"
    return Line2D([], [], color=colour, marker=marker, linestyle=dash, markerfacecolor=face, markersize=5, label=label)


def count(value: float) -> str:
    """A number of tokens or parameters as people say it: 150k, 1.2M."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def save(figure: Figure, stem: Path, provenance: Provenance) -> Path:
    """Writes `stem`.png, .svg and .pdf, each with its provenance inside; returns the PNG."""
    with one_line_io_errors(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for all formats: that is what takes the time
        for ending in FORMATS:
            figure.savefig(stem.with_suffix(ending), metadata=provenance.metadata(ending))
    provenance.write_runs(stem)
    return stem.with_suffix(".png")
