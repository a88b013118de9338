"""Which studies have figures, and one way to draw them all."""

from __future__ import annotations

import importlib
from pathlib import Path

import matplotlib as mpl

from analysis.plots import STYLE
from lab.errors import LabError

STUDIES = {"demo": "figures.demo"}


def draw(study: str, table: Path, folder: Path) -> str:
    """Draws every figure and the report of `study` from its result table into `folder`.

    Returns a summary for the terminal: the laws with intervals, the answer, the report's path.

    Raises:
      LabError: for a study without figures, or a table that is missing or lacks runs that a figure needs.
    """
    if study not in STUDIES:
        raise LabError(f"The study {study!r} has no figures.", f"Known: {', '.join(STUDIES)}.")
    with mpl.rc_context(STYLE):
        summary: str = importlib.import_module(STUDIES[study]).draw(table, folder)
    return summary
