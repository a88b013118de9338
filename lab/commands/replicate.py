"""`lab replicate`: do the same arms with other seeds land where a table says they will?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from analysis.replication import Landing


@dataclasses.dataclass(frozen=True)
class Replicate:
    """Say whether runs with new seeds land in the prediction intervals of a study's table.

      lab sweep run imbalance --scale embedded --seeds 3 4 5
      lab replicate sweeps/results/imbalance-embedded.parquet out/imbalance-embedded-seeds-3-4-5/results.parquet

    An interval is for one new run of an arm, from the spread of the old seeds. Of the new runs, as many should lie
    inside as the level says.
    """

    old: tyro.conf.Positional[Path]
    """The result table that predicts; two seeds an arm or more."""
    new: tyro.conf.Positional[Path]
    """The result table of the same arms with other seeds."""
    level: float = 0.95
    """Of the intervals."""
    arms: str = ""
    """Regular expression: only arms whose names have it."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a list of JSON objects in place of a table."""

    def run(self) -> int:
        import re

        from analysis.replication import landings
        from lab.errors import LabError
        from lab.table import read_table
        from sweeps.tables import study_of

        old, new = read_table(self.old), read_table(self.new)
        study = study_of(str(old.study.iloc[0])) if len(old) else None
        found = landings(old, new, self.level, study.again if study else "")
        found = tuple(landing for landing in found if re.search(self.arms, landing.arm))
        if not found:
            raise LabError(f"No arm that both tables have has {self.arms!r} in its name.")
        if self.json:
            print(
                json.dumps([{**dataclasses.asdict(landing), "inside": landing.inside} for landing in found], indent=1)
            )
        else:
            _show(found, self.level)
        return 0


def _show(found: tuple[Landing, ...], level: float) -> None:
    from rich import box
    from rich.table import Table

    from lab.commands.law_tables import console

    out = console()
    for what in dict.fromkeys(landing.what for landing in found):
        mine = [landing for landing in found if landing.what == what]
        table = Table("arm", "language", f"{100 * level:g} % of new runs", "new runs", "inside", box=box.SIMPLE_HEAD)
        for landing in mine:
            new = "  ".join(
                f"{v:.3f}" if landing.low <= v <= landing.high else f"[red]{v:.3f}[/red]" for _, v in landing.new
            )
            ends = f"{landing.low:.3f} to {landing.high:.3f}"
            table.add_row(landing.arm, landing.language, ends, new, f"{landing.inside} of {len(landing.new)}")
        table.title, table.title_justify = what, "left"
        out.print(table)
        inside, runs = sum(landing.inside for landing in mine), sum(len(landing.new) for landing in mine)
        out.print(f"{what}: {inside} of {runs} new runs lie inside; {level * runs:.1f} are expected.\n")
