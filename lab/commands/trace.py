"""`lab trace`: from a figure or a printed number back to table, runs and configs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

    from figures.trace import FigureTrace, NumberFound

SHOWN = (
    "run_id",
    "arm",
    "language",
    "seed_init",
    "n_nonembedding",
    "tokens_seen",
    "loss",
    "device",
    "commit",
)
MOST = 40


@dataclasses.dataclass(frozen=True)
class Trace:
    """Say where a figure or a number comes from: table, runs and configs.

    A figure (PNG, SVG, PDF, or a report's HTML) names its table and runs in its own metadata; a table that has changed
    since is refused. A number is looked for as printed: 3.457 is everything that rounds to it.

      lab trace out/demo/figures/law.png
      lab trace 3.457 --in sweeps/results/demo.parquet
      lab trace 0.412 --in out/demo/report.html
    """

    what: tyro.conf.Positional[str]
    """A figure's file, or a number as it is printed (3.457, 1.2e-3, 150k, 25%)."""
    within: Annotated[Path | None, tyro.conf.arg(name="in")] = None
    """Of a number: the result table, JSON file, report or study's folder that holds it. Of a figure: its table, if that
    was moved."""
    root: Path = Path("out")
    """Folder for everything the laboratory writes: configs of the runs are read from there."""
    json: bool = False
    """Print one JSON object a figure or number, with rows and configs in full."""

    def run(self) -> int:
        from figures.trace import printed, trace_figure, trace_number

        number = printed(self.what)
        if number is None or Path(self.what).is_file():
            for figure in trace_figure(Path(self.what), self.root, self.within):
                self._show_figure(figure)
            return 0
        if self.within is None:
            raise LabError(f"Where is {self.what} to be found?", "Name a table, JSON file or report: --in.")
        found = trace_number(number, self.within)
        for one in found[: len(found) if self.json else MOST]:
            self._show_number(one)
        if len(found) > MOST and not self.json:
            print(f"... and {len(found) - MOST} more: give more digits, or --json")
        return 0

    def _show_figure(self, one: FigureTrace) -> None:
        said = one.provenance
        if self.json:
            facts = dataclasses.asdict(said) | {"path": str(one.table)}
            rows = json.loads(one.rows.to_json(orient="records", double_precision=15))
            self._print({"figure": one.figure, **facts, "rows": rows, "configs": self._configs(said.runs)})
            return
        print(f"{one.figure}: drawn by {said.function}, source revision {said.revision}")
        print(f"table: {one.table}, unchanged since (SHA-256 {said.table_sha256})")
        languages = f" in {one.rows.language.nunique()} languages" if one.rows.language.nunique() > 1 else ""
        print(f"runs: {said.n_runs}{languages}, {len(one.rows)} rows of the table")
        self._print_rows(one.rows)
        print(self._where_configs(said.runs))
        print()

    def _show_number(self, one: NumberFound) -> None:
        if self.json:
            configs = self._configs(one.runs)
            self._print({**dataclasses.asdict(one), "file": str(one.file), "configs": configs})
            return
        print(f"{one.value!r}: {one.what} in {one.file}")
        if one.source:
            print(f"  {one.source}")
        if one.row is not None:
            facts = ", ".join(f"{k} {one.row[k]}" for k in SHOWN if k != "run_id" and one.row[k] is not None)
            print(f"  run {one.row['run_id']}: {facts}")
        elif one.runs:
            print(f"  runs: {' '.join(one.runs)}")
        if one.runs:
            print(f"  {self._where_configs(one.runs)}")

    def _print_rows(self, rows: pd.DataFrame) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(*SHOWN, box=box.SIMPLE_HEAD)
        for row in rows[list(SHOWN)].head(MOST).itertuples(index=False):
            table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row))
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(table)
        if len(rows) > MOST:
            print(f"... and {len(rows) - MOST} more rows: --json")

    def _configs(self, runs: tuple[str, ...]) -> dict[str, Any]:
        """The configs of those runs that are below the root, by id."""
        from lab.records import RunDir, read_json

        files = {run: RunDir(self.root, run).config_file for run in runs}
        return {run: read_json(file) for run, file in files.items() if file.is_file()}

    def _where_configs(self, runs: tuple[str, ...]) -> str:
        from lab.config import form_fingerprint

        found = self._configs(runs)
        odd = sorted(run for run, form in found.items() if form_fingerprint(form) != run)
        where = self.root / "runs" / (runs[0] if len(runs) == 1 else "<run_id>") / "config.json"
        text = f"configs: {len(found)} of {len(runs)} in {where}" if found else f"configs: none below {self.root}"
        return text + (f"; edited since: {', '.join(odd)}" if odd else "")

    @staticmethod
    def _print(form: dict[str, Any]) -> None:
        print(json.dumps(form, default=lambda value: value.item()))
