"""What all figures share: axes, tick labels, and the provenance written into every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.panels import CATEGORIES as COLOURS
from figures.provenance import FORMATS, Provenance
from lab.records import one_line_io_errors

__all__ = ["COLOURS", "Provenance", "axes", "count", "save", "token_axis"]


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
