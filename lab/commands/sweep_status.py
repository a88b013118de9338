"""`lab sweep status` and `retry`: where every run stands, and forgetting what went wrong."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Annotated

import tyro

from lab.commands.sweep_options import StudyOptions


@dataclasses.dataclass(frozen=True)
class Status(StudyOptions):
    """Show where every arm of a study stands, and why runs failed or diverged.

    Reads files only: safe while the study runs, here or on other machines that write to the same folder. A loss in
    brackets is the newest training loss of runs that are not over. "to go" is machine time at the speed so far.
    """

    json: bool = False
    """Print one JSON object a run instead of a table."""
    watch: bool = False
    """Refresh every two seconds until every run is over or has failed."""

    def run(self) -> int:
        from rich.console import Console
        from rich.live import Live

        from sweeps.status import StudyReader
        from sweeps.status_table import status_report

        label, arms = self.labelled_arms()
        reader = StudyReader(arms, self.root)
        if self.json:
            for run in reader.read():
                print(json.dumps(dataclasses.asdict(run)))
            return 0
        console = Console()
        if not self.watch:
            console.print(status_report(label, reader.read()))
            return 0
        with Live(console=console, refresh_per_second=2) as live:
            while True:
                runs = reader.read()
                live.update(status_report(label, runs))
                if all(r.over or r.state == "failed" for r in runs):
                    return 0
                time.sleep(2)


@dataclasses.dataclass(frozen=True)
class Retry(StudyOptions):
    """Forget what failed runs did, so that `lab sweep run` trains them from the start.

    `lab sweep run` alone goes on from the last checkpoint of a failed run; retry is for a checkpoint that is itself at
    fault. Runs that train in one pack are forgotten together. Results are kept, but for diverged runs with --diverged.
    """

    arm: Annotated[str | None, tyro.conf.arg(name="arm")] = None
    """Only the runs of this arm, as `lab sweep status` names it."""
    diverged: bool = False
    """Forget diverged runs as well, their results included."""

    def run(self) -> int:
        from sweeps.retry import retry

        _, arms = self.labelled_arms()
        forgotten = retry(arms, self.root, self.arm, self.diverged)
        if not forgotten:
            print("Nothing failed." if self.diverged else "Nothing failed (diverged runs: --diverged).")
            return 0
        for status in forgotten:
            print(f"{status.arm} ({status.run_id}): {status.state} at step {status.step} of {status.steps}, forgotten")
        print(f"{len(forgotten)} runs will be trained from the start by `lab sweep run {self.study}`.")
        return 0
