"""`lab figures`: a study's figures, tables and report, from its result table alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Figures:
    """Draw a study's figures and report from its result table; trains nothing."""

    study: tyro.conf.Positional[str]
    """Name of the study, e.g. demo."""
    scale: str | None = None
    """One of the study's scales; by default the largest that there is a table of."""
    table: Path | None = None
    """Result table (parquet); by default the one that `lab sweep collect` wrote below the root, else the one that comes
    with the laboratory."""
    root: Path = Path("out")
    """Folder for everything the laboratory writes."""

    def run(self) -> int:
        from figures.studies import draw
        from lab.commands.fits import fitting
        from sweeps.study import find_study
        from sweeps.tables import found

        study = find_study(self.study)
        there = found(study, self.root, self.scale, self.table)
        with fitting(self.root, f"Drawing {there.label}"):
            text = draw(study.name, there, self.root / there.label)
        print(text)
        return 0
