"""`lab sweep`: list, plan, run, watch and collect studies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

import tyro

from lab.commands.sweep_collect import Collect, Merge
from lab.commands.sweep_options import StudyOptions
from lab.commands.sweep_plan import Plan
from lab.commands.sweep_status import Retry, Status
from sweeps.slurm import SlurmJob


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
class Run(StudyOptions):
    """Train what is missing of a study, then collect its table and draw its report. Run it again to go on."""

    devices: int = max(1, min(2, os.cpu_count() or 1))
    """On a CPU, runs trained side by side, one a core. Accelerators are found by themselves."""
    on: Literal["local", "slurm"] = "local"
    """Train in this process, or submit an array of Slurm tasks that take a pack of runs each."""
    slots: int | None = None
    """Runs side by side in a pack. By default one a device on a CPU; on accelerators doubled while it fits and is 10 %
    faster, and halved where memory was not enough."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Mirror the runs to TensorBoard (<root>/tensorboard) or, offline, to Weights & Biases (<root>/wandb)."""
    packs: int | None = None
    """Leave after so many packs: for one of several jobs that work on the study together."""
    slurm: tyro.conf.OmitArgPrefixes[SlurmJob] = dataclasses.field(default_factory=SlurmJob)

    def run(self) -> int:
        study, scale = self.chosen()
        from lab.devices import prepare_process

        prepare_process(host_devices=self.devices)
        from sweeps.launch import Launch, run_study, submit_study

        if self.on == "slurm":
            return submit_study(study, scale, self.root, self.slurm, self._task_arguments(scale.name), self.devices)
        return run_study(study, scale, self.root, Launch(self.packs, self.slots, self.track))

    def _task_arguments(self, scale: str) -> list[str]:
        """This command as a task of a cluster runs it, wherever that starts."""
        study = str(Path(self.study).resolve()) if self.study.endswith(".py") else self.study
        root = str(self.root.resolve())
        options = [f"--scale={scale}", f"--root={root}", f"--devices={self.devices}", "--packs=1"]
        options += [f"--slots={self.slots}"] if self.slots else []
        options += ["--seeds", *map(str, self.seeds)] if self.seeds else []
        return ["sweep", "run", study, *options, *(("--track", *self.track) if self.track else ())]


COMMANDS: dict[str, type] = {
    "list": List,
    "plan": Plan,
    "run": Run,
    "status": Status,
    "retry": Retry,
    "collect": Collect,
    "merge": Merge,
}
