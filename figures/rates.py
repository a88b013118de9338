"""Loss against peak learning rate: one panel a size, one line a token budget, the best rate marked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from analysis.plots import STYLE
from analysis.rates import Optimum
from figures.drawing import COLOURS, Provenance, axes, count, save
from lab.recipes import RateRule


def rates(found: Iterable[Optimum], rule: RateRule | None, table: Path, runs: Iterable[str], stem: Path) -> Path:
    """Draws every cell of a sweep of learning rates.

    Args:
      found: the cells' best rates; a star where a parabola gives it, a triangle where it lies on the edge of the grid.
      rule: drawn as a dotted line at its rate for each cell.
      table, runs: where the cells were read from, for the picture's provenance.
      stem: path without suffix; a PNG and an SVG are written.

    Returns the PNG's path.
    """
    optima = sorted(found, key=lambda o: (o.cell.n, o.cell.d))
    sizes = sorted({o.cell.n for o in optima})
    colours = dict(zip(sorted({o.cell.d for o in optima}), COLOURS * 4, strict=False))
    with mpl.rc_context(STYLE):
        columns = min(4, len(sizes))
        height = -(-len(sizes) // columns)
        figure, grid = axes(height, columns, (0.8 + 3.1 * columns, 3.4 * height), squeeze=False)
        for ax in list(grid.flat)[len(sizes) :]:
            ax.set_visible(False)
        for ax, n in zip(grid.flat, sizes, strict=False):
            for optimum in (o for o in optima if o.cell.n == n):
                _cell(ax, optimum, colours[optimum.cell.d], rule)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
            ax.set(title=f"{count(n)} parameters", xlabel="peak learning rate")
            ax.legend(fontsize=8)
        for row in grid:
            row[0].set_ylabel("loss, nats per token")
        return save(figure, stem, Provenance.of(table, "rates", runs))


def _cell(ax: Axes, optimum: Optimum, colour: str, rule: RateRule | None) -> None:
    cell = optimum.cell
    finite = np.isfinite(cell.losses)
    mean = np.array(
        [row[keep].mean() if keep.all() else np.nan for row, keep in zip(cell.losses.T, finite.T, strict=True)]
    )
    ax.plot(cell.rates, mean, "-", color=colour, label=f"{count(cell.d)} tokens")
    for row in cell.losses:
        ax.plot(cell.rates, np.where(np.isfinite(row), row, np.nan), ".", color=colour, ms=4, alpha=0.7)
    marker = {"low": "<", "high": ">"}.get(optimum.edge or "", "*")
    ax.plot(optimum.rate, optimum.loss, marker, color=colour, ms=11, markeredgecolor="black", markeredgewidth=0.6)
    if rule is not None:
        ax.axvline(rule.rate(cell.n, cell.d), color=colour, linestyle=":", linewidth=1.2)
