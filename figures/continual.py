"""Continual pre-training (arXiv:2407.02118): every figure and table of the paper, published beside measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.claims.ledger import Entry, study_ledger
from figures.continual_compute import accounting, figure_1, figure_2, figure_4
from figures.continual_languages import distances, figure_3, figure_5, figure_6
from figures.continual_measured import Own, Sides, measured
from figures.continual_replay import parents, replay_by_size
from figures.continual_report import numbers, summary, write_report
from figures.continual_tables import (
    table_1,
    table_2,
    table_3,
    table_4,
    table_forgetting,
    table_gamma,
    table_parents,
    table_vocabulary,
)
from figures.numbers import write_numbers
from figures.published import continual
from figures.studies import Found
from figures.tables import Table
from lab.table import read_table

FIGURES: dict[str, Callable[[Sides, Path], Path]] = {
    "Figure 1": figure_1,
    "Figure 2": figure_2,
    "Figure 3": figure_3,
    "Figure 4": figure_4,
    "Figure 5": figure_5,
    "Figure 6": figure_6,
    "Accounting": accounting,
    "Distances": distances,
    "Replay by size": replay_by_size,
    "Parents": parents,
}
TABLES: dict[str, Callable[[Sides, Path], Table]] = {
    "Table 1": table_1,
    "Table 2": table_2,
    "Table 3": table_3,
    "Table 4": table_4,
    "Forms": table_gamma,
    "Forgetting": table_forgetting,
    "Lengths": table_parents,
    "Vocabulary": table_vocabulary,
}


def draw(found: Found, folder: Path) -> str:
    """Writes figures, tables, `numbers.json` and `report.html` into `folder`; returns a summary for the terminal.

    Where there is no result table, the published side is drawn alone, and every figure says so.

    Raises:
      LabError: for a table that is damaged, or whose runs have no roles.
    """
    paper = continual()
    own = Own.nothing() if found.table is None else measured(found.table, found.probes)
    sides = Sides(paper, own, found.table or paper.path)
    pictures = {name: function(sides, folder / "figures" / function.__name__) for name, function in FIGURES.items()}
    tables = {name: function(sides, folder / "tables" / function.__name__) for name, function in TABLES.items()}
    if found.table is not None:
        write_numbers(folder / "numbers.json", found.table, numbers(own))
    entries = judged(found)
    report = write_report(sides, found, pictures, tables, entries, folder)
    return "\n".join([*summary(sides, found, entries), f"Report: {report}"])


def judged(found: Found) -> tuple[Entry, ...]:
    """The verdicts on the study's claims; none where there is no table."""
    if found.table is None or not found.claims:
        return ()
    probes = None if found.probes is None else pd.read_parquet(found.probes)
    return study_ledger(tuple(found.claims), read_table(found.table), found.again, probes)
