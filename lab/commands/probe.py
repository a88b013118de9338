"""`lab probe`: looks into the trained models of a study."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lab.commands.sweep_options import StudyOptions
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.probes import Subject
    from sweeps.study import Arm


@dataclasses.dataclass(frozen=True)
class Probe(StudyOptions):
    """Measure how alike two languages are inside a study's finished models; one table, <root>/<study>/probes.parquet.

    Every run of two languages or more is probed, its first language against its second. What the table has is not
    measured again, so the same command goes on where it was stopped.

      embedding  cosine of a piece's row and its clone's, in the input embedding and the output head, by frequency
      hidden     cosine of hidden states after every block; of two real languages on parallel text
      gradient   cosine of the two languages' gradients, by tensor and layer
      word2vec   the first probe on word2vec in place of a decoder, plain (needs gensim) and with one shared layer
      finetune   accuracy on tasks learned in the first language, in it and, zero-shot, in its clone: minutes a run

      lab probe imbalance --scale nano
      lab probe imbalance --scale nano --parallel bible_en.txt.xz bible_fr.txt.xz --arms "l2 50 %, merged, 1 T, nano-4"
      lab probe imbalance --scale nano --probes finetune --glue ~/glue
    """

    probes: tuple[Literal["embedding", "hidden", "gradient", "word2vec", "finetune"], ...] = (
        "embedding",
        "hidden",
        "gradient",
    )
    """What to measure."""
    pair: tuple[str, str] | None = None
    """Two languages to compare (l1 clone1) in place of each run's first two."""
    arms: tuple[str, ...] = ()
    """Arms to probe, by name; all by default."""
    at: float = 1.0
    """After which share of their updates runs are probed: 1 is their end; a study's arms say which others they keep."""
    parallel: tuple[Path, Path] | None = None
    """Two text files whose lines are parallel, in the first and the second language, where the study's own corpora are
    not parallel; of a clone, the first file is read in both."""
    glue: Path | None = None
    """Folder of the published files of CoLA, MRPC and SST-2."""
    tasks: tuple[str, ...] = ("CoLA", "MRPC", "SST-2")
    """Tasks to fine-tune on: of the folder, or any classification set by TFDS name (tfds:glue/rte)."""

    def run(self) -> int:
        from lab.devices import prepare_process

        prepare_process()
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from lab.probes import Prober, ProbeTable, Settings

        label, arms = self.labelled_arms()
        subjects = self._subjects(label, arms)
        prober, table = Prober(Settings(self.parallel, self.tasks, self.glue)), ProbeTable(label, self.root)
        refused: dict[str, int] = {}
        measured = kept = 0
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("", total=len(subjects) * len(self.probes))
            for subject in subjects:
                for probe in self.probes:
                    try:
                        for unit in prober.units(subject, probe):
                            what = f"{subject.arm}, seed {subject.run.seed_init}: {unit.task or probe}"
                            if table.has(subject, unit):
                                kept += 1
                                continue
                            progress.update(bar, description=what)
                            part = progress.add_task(f"  {unit.text}", total=None)
                            table.put(subject, unit, unit.measure(functools.partial(progress.advance, part)))
                            progress.remove_task(part)
                            measured += 1
                    except LabError as error:
                        refused[str(error)] = refused.get(str(error), 0) + 1
                    progress.advance(bar)
        print(f"{table.path}: {measured} measured in {len(subjects)} runs, {kept} were there")
        for problem, times in refused.items():
            print(f"error: {problem}" + (f" ({times} times)" if times > 1 else ""), file=sys.stderr)
        return 1 if refused else 0

    def _subjects(self, label: str, arms: tuple[Arm, ...]) -> list[Subject]:
        """The finished runs that read the languages asked for.

        Raises:
          LabError: when there is none.
        """
        from lab.probes import Subject
        from lab.records import RunDir

        if unknown := sorted(set(self.arms) - {arm.name for arm in arms}):
            raise LabError(f"{label} has no arm {unknown[0]!r}.", f"`lab sweep status {self.study}` shows its arms.")
        chosen = [arm for arm in arms if not self.arms or arm.name in self.arms]
        if self.at != 1:
            shares = sorted({share for arm in chosen for share in arm.probed})
            chosen = [arm for arm in chosen if self.at in arm.probed]
            if not chosen:
                kept = f"They are after {', '.join(f'{share:g}' for share in (*shares, 1))}."
                raise LabError(f"No model of {label} is kept after a share of {self.at:g} of its run.", kept)
        found, languages = [], set()
        for arm in chosen:
            names = [c.language for c in arm.run.mixture.components]
            languages.update(names)
            if len(names) > 1 and set(self.pair or ()) <= set(names):
                found.append((arm, *(self.pair or names[:2])))
        if not found:
            asked = f"reads both {' and '.join(self.pair)}" if self.pair else "reads two languages"
            raise LabError(f"No model of {label} {asked}.", f"Its arms read {', '.join(sorted(languages))}.")
        finished = []
        for arm, first, second in found:
            result = RunDir(self.root, arm.run.run_id).result()
            if result is not None and result["run"]["status"] == "done":
                finished.append(Subject(label, arm.name, arm.run, self.root, first, second, self.at))
        if not finished:
            raise LabError(
                f"No run of {label} with two languages is finished below {self.root}.",
                f"Run `lab sweep run {self.study}` first.",
            )
        return finished
