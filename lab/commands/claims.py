"""`lab claims`: the verdicts on a study's claims, from its result table alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.claims import Claim
    from analysis.claims.ledger import Entry

COLOURS = {"reproduced": "green", "contradicted": "red", "undecided": "yellow", "no data": "dim"}


@dataclasses.dataclass(frozen=True)
class Claims:
    """Judge what a paper claims by a study's result table: reproduced, contradicted, undecided or no data.

    A claim is reproduced when its whole 95 % interval lies on the claimed side (where "about zero" is claimed: within
    the smallest effect that matters), contradicted when it lies on the other, and both only if that survives Holm's
    procedure over all claims. What would decide the others is said. Claims, sides and smallest effects are fixed in
    the study's file before its runs.

      lab claims imbalance
      lab claims imbalance --scale nano --json
      lab claims imbalance --table mine.parquet --other paper_rate.parquet
    """

    study: tyro.conf.Positional[str]
    """Name of a study, or a path to its Python file."""
    scale: str | None = None
    """One of the study's scales; by default the largest that there is a table of."""
    table: tuple[Path, ...] = ()
    """Result tables (parquet), read as one; by default the one that `lab sweep collect` wrote below the root, else the
    one that comes with the laboratory."""
    other: Path | None = None
    """Table of the same arms under another rule of learning rates; by default the arms of the table that the study says
    are that. A claim that the two decide in opposite ways is undecided."""
    probes: Path | None = None
    """Table of `lab probe`; by default the one beside the result table."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a list of JSON objects in place of a table."""
    root: Path = Path("out")
    """Folder for everything the laboratory writes."""

    def run(self) -> int:
        from analysis.claims.ledger import study_ledger
        from lab.commands.fits import fitting
        from lab.table import read_table
        from sweeps.study import find_study
        from sweeps.tables import found

        study = find_study(self.study)
        there = found(study, self.root, self.scale, self.table[0] if self.table else None)
        if not there.claims:
            raise LabError(f"The study {study.name} makes no claims.", "Its file states them: Study(claims=...).")
        if there.table is None:
            raise LabError(
                f"There is no result table of {there.label}, below {self.root} or in the repository.",
                f"Run `lab sweep run {self.study}`, then `lab sweep collect {self.study}`; or name one with --table.",
            )
        paths = self.table or (there.table,)
        other = read_table(self.other) if self.other else None
        probes = self._probes(self.probes or there.probes)
        with fitting(self.root, "Reading the table") as told:
            entries = study_ledger(tuple(there.claims), _one(paths), there.again, probes, other, told)
        if self.json:
            print(json.dumps([entry.as_dict() for entry in entries], indent=1))
        else:
            _show(entries, ", ".join(str(p) for p in paths))
        return 0

    def _probes(self, path: Path | None) -> pd.DataFrame | None:
        """The table of probes, if there is one.

        Raises:
          LabError: when the one that was named is missing, or is no table.
        """
        import pandas as pd

        if path is None:
            return None
        try:
            return pd.read_parquet(path)
        except FileNotFoundError:
            raise LabError(f"{path} does not exist.", f"Make it with `lab probe {self.study}`.") from None
        except (OSError, ValueError) as error:
            raise LabError(f"{path} is no parquet table ({str(error).splitlines()[0]}).") from None


def _one(paths: tuple[Path, ...]) -> pd.DataFrame:
    """The rows of all tables; of a run that several have, the first one's."""
    import pandas as pd

    from lab.table import read_table

    whole = pd.concat([read_table(path) for path in paths], ignore_index=True)
    return whole.drop_duplicates(["arm", "run_id", "language"], ignore_index=True)


def _show(entries: tuple[Entry, ...], source: str) -> None:
    """Prints the ledger for people."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from lab.commands.law_tables import console

    table = Table(title=f"Claims, tested on {escape(source)}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("id", "verdict", "estimate and 95 % interval", "claimed", "seeds"):
        table.add_column(name, no_wrap=True)
    table.add_column("claim", ratio=1)
    for e in entries:
        raw = "" if e.raw == e.verdict else f"\n[dim]alone: {e.raw}[/dim]"
        lines = [escape(e.claim.text), *(f"[dim]{escape(line)}[/dim]" for line in _notes(e))]
        verdict = f"[{COLOURS[e.verdict]}]{e.verdict}[/{COLOURS[e.verdict]}]{raw}"
        table.add_row(e.claim.id, verdict, _numbers(e), _claimed(e.claim), str(e.seeds or ""), "\n".join(lines))
    out = console()
    out.print(table)
    counts = {v: sum(e.verdict == v for e in entries) for v in COLOURS}
    out.print(", ".join(f"{n} {v}" for v, n in counts.items() if n))


def _notes(entry: Entry) -> list[str]:
    beside = [f"{where}: {what}" for where, what in entry.beside.items() if where not in entry.reason]
    return [entry.reason, *beside] if entry.reason else beside


def _numbers(entry: Entry) -> str:
    if entry.finding is None:
        return ""
    form = entry.as_dict()
    low, high = form["interval"]
    ends = f"{'-inf' if low is None else f'{low:+.3f}'} to {'inf' if high is None else f'{high:+.3f}'}"
    return ends if form["statistic"] is None else f"{form['statistic']:+.3f}  {ends}"


def _claimed(claim: Claim) -> str:
    if claim.side == "about zero":
        return f"within {claim.delta:g}"
    return f"{'>' if claim.side == 'above' else '<'} {claim.against:.3g}"
