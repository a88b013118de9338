"""`lab sweep collect` and `merge`: one table from run directories, and one from the tables of several machines."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from lab.commands.sweep_options import StudyOptions


@dataclasses.dataclass(frozen=True)
class Collect(StudyOptions):
    """Write the rows of all runs of a study as one parquet table.

    Rules exclude rows from fits, with the reason in the row; no row is dropped. Runs that are not over have rows
    without a loss. Exit code 1 where a run directory is damaged or was edited: it is named and left out.
    """

    exclude: tuple[str, ...] | None = None
    """Rules in place of the study's own: diverged, incomplete, learning-rate[=TOLERANCE], min-tokens=N; none for no
    rule."""

    def run(self) -> int:
        from sweeps.collect import collect
        from sweeps.exclusion import parse
        from sweeps.study import find_study

        rules = parse(find_study(self.study).exclude if self.exclude is None else self.exclude)
        got = collect(*self.labelled_arms(), self.root, rules)
        parts = [f"{got.rows} rows"]
        parts += [f"{n} excluded by {rule}" for rule, n in got.excluded.items()]
        parts += [f"{got.incomplete} runs not over"] if got.incomplete else []
        parts += [f"{got.waiting} runs not begun"] if got.waiting else []
        print(f"{got.path}: {', '.join(parts)}")
        for line in got.damaged:
            print(f"left out: {line}", file=sys.stderr)
        return 1 if got.damaged else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one table of several: of one study on several machines, or of several studies.

    A run that is in several tables must say the same in each: what it is and what it read exactly, its losses to what
    another device changes. Where it was measured may differ; the row of the first table is kept.
    """

    tables: tyro.conf.Positional[tuple[Path, ...]]
    """Result tables of `lab sweep collect`."""
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """The table to write."""
    exclude: tuple[str, ...] | None = None
    """Rules by which rows are excluded, judged again over all tables; by default those that the tables were made with,
    where they agree."""

    def run(self) -> int:
        from sweeps.exclusion import parse
        from sweeps.merge import merge

        got = merge(self.tables, self.out, None if self.exclude is None else parse(self.exclude))
        print(f"{self.out}: {got.rows} rows, {got.shared} of them in more than one table")
        return 0
