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
    """One of the study's scales; by default its smallest."""
    table: Path | None = None
    """Result table (parquet); by default the one `lab sweep collect` wrote below the root."""
    root: Path = Path("out")
    """Folder for everything the laboratory writes."""

    def run(self) -> int:
        from figures.studies import draw
        from sweeps.collect import table_path
        from sweeps.study import find_study

        study = find_study(self.study)
        label = study.label(study.scale(self.scale))
        print(draw(study.name, self.table or table_path(label, self.root), self.root / label))
        return 0
