"""`lab sweep`: list, plan, run, watch and collect studies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import tyro

from lab.commands.sweep_collect import Collect, Merge
from lab.commands.sweep_options import ROOT
from lab.commands.sweep_plan import Plan
from lab.commands.sweep_status import Retry, Status


@dataclasses.dataclass(frozen=True)
class List:
    """List the studies that ship with the laboratory, each with its question and cost."""

    def run(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from sweeps.study import find_study, study_names

        table = Table("study", "question", "scale", "cost", title="Studies")
        for name in study_names():
            study = find_study(name)
            for k, scale in enumerate(study.scales):
                table.add_row(*(("", "") if k else (name, study.question)), scale.name, scale.cost)
        Console().print(table)
        return 0


@dataclasses.dataclass(frozen=True)
class Run:
    """Train what is missing of a study, then collect its table and draw its report. Run it again to go on."""

    study: tyro.conf.Positional[str]
    """Name of a study, or a path to its Python file."""
    scale: str | None = None
    """One of the study's scales (`lab sweep list`): nano, gpu or paper; by default its smallest."""
    root: Path = ROOT
    """Folder for everything the laboratory writes."""
    devices: int = max(1, min(2, os.cpu_count() or 1))
    """On a CPU, runs trained side by side, one a core. Accelerators are found by themselves."""

    def run(self) -> int:
        from sweeps.study import find_study

        study = find_study(self.study)
        scale = study.scale(self.scale)
        from lab.devices import prepare_process

        prepare_process(host_devices=self.devices)
        from sweeps.launch import run_study

        return run_study(study, scale, self.root)


COMMANDS: dict[str, type] = {
    "list": List,
    "plan": Plan,
    "run": Run,
    "status": Status,
    "retry": Retry,
    "collect": Collect,
    "merge": Merge,
}
