"""What all figures share: axes, tick labels, and the provenance written into every file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.panels import CATEGORIES as COLOURS

__all__ = ["COLOURS", "Provenance", "axes", "count", "save", "token_axis"]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a figure comes from: the table it was drawn from, the function that drew it, the runs it shows."""

    table: str
    table_sha256: str
    function: str
    runs: tuple[str, ...]

    @classmethod
    def of(cls, table: Path, function: str, runs: Iterable[str]) -> Provenance:
        digest = hashlib.sha256(table.read_bytes()).hexdigest()
        return cls(table.name, digest, function, tuple(sorted(set(runs))))


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
    """Writes `stem`.png and `stem`.svg, each with its provenance inside; returns the PNG."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(provenance))
    figure.savefig(stem.with_suffix(".png"), metadata={"Description": text, "Software": "scaling-lab"})
    figure.savefig(stem.with_suffix(".svg"), metadata={"Description": text, "Date": None})
    return stem.with_suffix(".png")
