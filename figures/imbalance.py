"""Language imbalance (arXiv:2404.07982): every figure and table of the paper, published beside measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.claims.ledger import Entry, study_ledger
from analysis.rates import fit_rule, optima
from figures import imbalance_beyond as beyond
from figures.imbalance_measured import Own, measured
from figures.imbalance_numbers import numbers
from figures.imbalance_probes import figure_6, figure_7, figure_11, figure_12, figure_13
from figures.imbalance_report import summary, write_report
from figures.imbalance_scale import figure_2, figure_4, figure_5, figure_9, figure_10
from figures.imbalance_sides import Sides, published_side
from figures.imbalance_tables import Table, table_1, table_2, table_3, table_4
from figures.imbalance_transfer import figure_1_left, figure_1_right, figure_3, figure_8
from figures.numbers import write_numbers
from figures.published import imbalance
from figures.rates import rates
from figures.studies import Found
from lab.errors import LabError
from lab.table import read_table

FIGURES: dict[str, Callable[[Sides, Path], Path]] = {
    "Figure 1 left": figure_1_left,
    "Figure 1 right": figure_1_right,
    "Figure 2": figure_2,
    "Figure 3": figure_3,
    "Figure 4": figure_4,
    "Figure 5": figure_5,
    "Figure 6": figure_6,
    "Figure 7": figure_7,
    "Figure 8": figure_8,
    "Figure 9": figure_9,
    "Figure 10": figure_10,
    "Figure 11": figure_11,
    "Figure 12": figure_12,
    "Figure 13": figure_13,
}
TABLES: dict[str, Callable[[Sides, Path], Table]] = {
    "Table 1": table_1,
    "Table 2": table_2,
    "Table 3": table_3,
    "Table 4": table_4,
}


def draw(found: Found, folder: Path) -> str:
    """Writes figures, tables, `numbers.json` and `report.html` into `folder`; returns a summary for the terminal.

    Where there is no result table, the published side is drawn alone, and every figure says so.

    Raises:
      LabError: for a table that is damaged or another study's.
    """
    paper = imbalance()
    own = Own.nothing() if found.table is None else measured(found.table, found.probes, found.again)
    sides = Sides(published_side(paper), own.tuned, found.table or paper.path, paper)
    pictures = {name: function(sides, folder / "figures" / function.__name__) for name, function in FIGURES.items()}
    tables = {name: function(sides, folder / "tables" / function.__name__) for name, function in TABLES.items()}
    if found.table is not None:
        write_numbers(folder / "numbers.json", found.table, numbers(own))
    entries = judged(found, own)
    if found.rates is not None:
        pictures["rates"] = learning_rates(found.rates, folder / "figures" / "rates")
    more = None if found.table is None else beyond.section(found.table, found.probes, found.again, folder / "figures")
    report = write_report(paper, sides, own, found, pictures, tables, entries, more, folder)
    return "\n".join([*summary(paper, sides, found, entries), f"Report: {report}"])


def judged(found: Found, own: Own) -> tuple[Entry, ...]:
    """The verdicts on the study's claims; none where there is no table."""
    if found.table is None or not found.claims:
        return ()
    probes = None if found.probes is None else pd.read_parquet(found.probes)
    return study_ledger(tuple(found.claims), own.table, found.again, probes)


def learning_rates(table: Path, stem: Path) -> Path:
    """The sweep that fixed the learning rates: loss by rate, for each size and budget, and the rule's rate."""
    rows = read_table(table)
    best = optima(rows)
    try:
        rule = fit_rule(best).rule
    except LabError:  # too few best rates inside their grids: the picture stands without a rule
        rule = None
    return rates(best, rule, table, rows.run_id, stem)
