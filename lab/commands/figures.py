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
    table: Path | None = None
    """Result table (parquet); by default the one `lab sweep collect` wrote below the root."""
    root: Path = Path("out")
    """Folder for everything the laboratory writes."""

    def run(self) -> int:
        from figures.studies import draw
        from sweeps.collect import table_path

        print(draw(self.study, self.table or table_path(self.study, self.root), self.root / self.study))
        return 0
