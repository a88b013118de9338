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
    from lab.probe_table import Subject
    from sweeps.study import Arm

ProbeName = Literal["embedding", "hidden", "gradient", "word2vec", "finetune", "choices", "distance"]


@dataclasses.dataclass(frozen=True)
class Probe(StudyOptions):
    """Measure what is inside a study's finished models; one table, <root>/<study>/probes.parquet.

    Most probes compare two languages: every run of two or more is probed, its first language against its second.
    `choices` measures each language by itself, of runs of one language as well. What the table has is not measured
    again, so the same command goes on where it was stopped.

      embedding  cosine of a piece's row and its clone's, in the input embedding and the output head, by frequency
      hidden     cosine of hidden states after every block; of two real languages on parallel text
      gradient   cosine of the two languages' gradients, by tensor and layer
      word2vec   the first probe on word2vec in place of a decoder, plain (needs gensim) and with one shared layer
      finetune   accuracy on tasks learned in the first language, in it and, zero-shot, in its clone: minutes a run
      choices    accuracy on minimal pairs of grammatical and other sentences (--suites), and on cloze questions made
                 from the held-out text; nothing is trained
      distance   overlap and divergence of the languages' tokens, and the cosine of their gradients at the parent

      lab probe imbalance --scale nano
      lab probe imbalance --scale nano --parallel bible_en.txt.xz bible_fr.txt.xz --arms "l2 50 %, merged, 1 T, nano-4"
      lab probe imbalance --scale nano --probes finetune --glue ~/glue
      lab probe continual --scale nano --probes choices distance --suites blimp.tar.xz clams.tar.xz
      lab probe continual --scale nano --probes choices --suites clams --suite-language source=en target=fr --at 0
    """

    probes: tuple[ProbeName, ...] = ("embedding", "hidden", "gradient")
    """What to measure."""
    pair: tuple[str, str] | None = None
    """Two languages to look at (l1 clone1) in place of each run's first two."""
    arms: tuple[str, ...] = ()
    """Arms to probe, by name; all by default."""
    at: float = 1.0
    """After which share of their updates runs are probed: 1 is their end, 0 what they began with (a parent's
    parameters, or random ones); a study's arms say which others they keep."""
    parallel: tuple[Path, Path] | None = None
    """Two text files whose lines are parallel, in the first and the second language, where the study's own corpora are
    not parallel; of a clone, the first file is read in both."""
    glue: Path | None = None
    """Folder of the published files of CoLA, MRPC and SST-2."""
    tasks: tuple[str, ...] = ("CoLA", "MRPC", "SST-2")
    """Tasks to fine-tune on: of the folder, or any classification set by TFDS name (tfds:glue/rte)."""
    suites: tuple[Path, ...] = ()
    """Folders or archives of minimal pairs as published: BLiMP, CLAMS."""
    suite_language: tuple[str, ...] = ()
    """Which language (BCP 47) a language of the models is, or a corpus, where the corpus does not say it: target=fr,
    or text:fr.txt.xz?split=blank2=fr where it is another one in every arm."""

    def run(self) -> int:
        from lab.devices import prepare_process

        prepare_process()
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from lab.probe_table import ProbeTable
        from lab.probes import Prober, Settings

        label, arms = self.labelled_arms()
        subjects = self._subjects(label, arms)
        settings = Settings(
            self.parallel, self.tasks, self.glue, suites=self.suites, spoken=_spoken(self.suite_language, arms)
        )
        prober, table = Prober(settings), ProbeTable(label, self.root)
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
                            if table.has(unit):
                                kept += 1
                                continue
                            progress.update(bar, description=what)
                            part = progress.add_task(f"  {unit.text}", total=None)
                            table.put(unit, unit.measure(functools.partial(progress.advance, part)))
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
        from lab.probe_table import PAIRED, Subject
        from lab.records import RunDir

        if unknown := sorted(set(self.arms) - {arm.name for arm in arms}):
            raise LabError(f"{label} has no arm {unknown[0]!r}.", f"`lab sweep status {self.study}` shows its arms.")
        chosen = [arm for arm in arms if not self.arms or arm.name in self.arms]
        if self.at not in (0, 1):
            shares = sorted({share for arm in chosen for share in arm.probed})
            chosen = [arm for arm in chosen if self.at in arm.probed]
            if not chosen:
                kept = f"They are after {', '.join(f'{share:g}' for share in (0, *shares, 1))}."
                raise LabError(f"No model of {label} is kept after a share of {self.at:g} of its run.", kept)
        alone = self.pair is None and not set(self.probes) <= set(PAIRED)
        found: list[tuple[Arm, tuple[str, ...]]] = []
        languages: set[str] = set()
        for arm in chosen:
            names = tuple(c.language for c in arm.run.mixture.components)
            languages.update(names)
            if (len(names) > 1 or alone) and set(self.pair or ()) <= set(names):
                found.append((arm, self.pair or names[:2]))
        if not found:
            asked = f"reads both {' and '.join(self.pair)}" if self.pair else "reads two languages"
            raise LabError(f"No model of {label} {asked}.", f"Its arms read {', '.join(sorted(languages))}.")
        finished = []
        for arm, compared in found:
            result = RunDir(self.root, arm.run.run_id).result()
            if result is not None and result["run"]["status"] == "done":
                finished.append(Subject(label, arm.name, arm.run, self.root, compared, self.at))
        if not finished:
            which = "" if alone else " with two languages"
            raise LabError(
                f"No run of {label}{which} is finished below {self.root}.", f"Run `lab sweep run {self.study}` first."
            )
        return finished


def _spoken(said: tuple[str, ...], arms: tuple[Arm, ...]) -> dict[str, str]:
    """BCP 47 tags by language or corpus, as the user says them.

    Raises:
      LabError: for another form, and a language or corpus that no arm has.
    """
    known = {name for arm in arms for name in arm.run.mixture.layout.names}
    known |= {c.source.corpus for arm in arms for c in arm.run.mixture.components}
    tags = {}
    for one in said:
        name, _, tag = one.rpartition("=")
        if not (name and tag):
            raise LabError(f"{one!r} does not say which language is which.", "Say it as target=fr.")
        if name not in known:
            raise LabError(f"No model has a language or corpus {name!r}.", f"They have {', '.join(sorted(known))}.")
        tags[name] = tag
    return tags
