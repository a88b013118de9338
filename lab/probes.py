"""What probes say of trained runs: the units of each probe, to be measured one by one.

prober = Prober(Settings(glue=Path("glue")))
for unit in prober.units(subject, "embedding"):
    if not table.has(unit):
        table.put(unit, unit.measure(tick))
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lab import model
from lab.data.labelled import Task, read_task
from lab.data.prepare import open_prepared
from lab.errors import LabError
from lab.evaluate import embeddings, finetune, gradients, hidden, shared_layer, word2vec
from lab.evaluate.embeddings import Mean
from lab.evaluate.paired import Paired, file_lines, is_clone, name_of, parallel_text, same_text, verse_lines
from lab.probe_choices import Choices
from lab.probe_distance import Distances
from lab.probe_table import ProbeName, Reading, Subject, Unit

FINETUNE_SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What probes are measured on, besides the run's own text.

    Attributes:
      parallel: two files of parallel lines, in place of the verses of embedded corpora.
      tasks: what to fine-tune on.
      glue: folder of the published files of those tasks.
      tuning: how long, and on how much.
      suites: folders and archives of minimal pairs.
      spoken: the BCP 47 tag of a language of runs, or of a corpus, by name.
    """

    parallel: tuple[Path, Path] | None = None
    tasks: tuple[str, ...] = ("CoLA", "MRPC", "SST-2")
    glue: Path | None = None
    tuning: finetune.Setting = dataclasses.field(default_factory=finetune.Setting)
    suites: tuple[Path, ...] = ()
    spoken: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Prober:
    """Measures; keeps what several runs share."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._untrained: dict[Any, list[Reading]] = {}
        self._choices, self._distances = Choices(settings.suites, settings.spoken), Distances()
        self._task = functools.cache(lambda name: read_task(name, settings.glue))

    def units(self, subject: Subject, probe: ProbeName) -> Iterable[Unit]:
        """The units of a probe on a run; none where it does not apply: to one language, to two that are no clones.

        Raises:
          LabError: when the run lacks a language, or the text that the probe needs; of `choices`, after its units.
        """
        if probe == "choices":
            return self._choices.units(subject)
        if len(subject.languages) < 2:
            return []
        is_clone(subject.run.mixture, subject.first, subject.second)
        if probe == "distance":
            return self._distances.units(dataclasses.replace(subject, at=0.0))
        if probe in ("hidden", "gradient"):
            paired = self._paired(subject)
            compare = _hidden if probe == "hidden" else _gradient
            return [Unit(subject, probe, paired.text, functools.partial(compare, subject, paired), subject.languages)]
        if not subject.clone:
            return []
        if probe == "finetune":
            return [
                Unit(
                    subject,
                    probe,
                    f"{task.name} {task.hash}",
                    functools.partial(self._finetune, subject, task),
                    subject.languages,
                    task.name,
                )
                for task in (self._task(name) for name in self.settings.tasks)
            ]
        if probe == "word2vec" and subject.at == 0:
            raise LabError(
                "word2vec reads what a run has read, which is nothing at its beginning.", "Leave out --at 0."
            )
        measure = _embedding if probe == "embedding" else _word2vec
        return [Unit(subject, probe, "training text", functools.partial(measure, subject), subject.languages)]

    def _paired(self, subject: Subject) -> Paired:
        run, data, names = subject.run, subject.data, (subject.first, subject.second)
        sources = {c.language: c.source for c in run.mixture.components}
        context = run.model.context
        if self.settings.parallel is not None:
            text = name_of(*self.settings.parallel)
            return parallel_text(self._lines, data.layout, *names, context, text, subject.clone)
        if subject.clone:
            return same_text(data.evaluation[sources[subject.first]], data.layout, *names, context)
        prepared = open_prepared(tuple(sources[name] for name in names), subject.root)
        stores = tuple(prepared.stores[sources[name].corpus] for name in names)
        tokenizers = tuple(data.layout.tokenizers[name] for name in names)
        text = " and ".join(f"{s.manifest.corpus} {s.fingerprint}" for s in stores)
        return parallel_text(verse_lines(stores, tokenizers), data.layout, *names, context, f"verses of {text}")

    @functools.cached_property
    def _lines(self) -> list[tuple[str, str]]:
        assert self.settings.parallel is not None
        return file_lines(*self.settings.parallel)

    def _finetune(self, subject: Subject, task: Task, tick: Callable[[], None]) -> list[Reading]:
        run, setting = subject.run, self.settings.tuning
        names = (subject.first, subject.second)
        first, second = examples = [
            finetune.encode(task, subject.data.layout, name, setting, run.model.context) for name in names
        ]
        readings = [
            Reading("finetune cut", task.name, name, "model", e.cut, len(e.train.labels) + len(e.evaluation.labels))
            for name, e in zip(names, examples, strict=True)
        ]
        guess = finetune.majority(first.train.labels, len(first.evaluation.labels))
        for name in names:
            readings += _scores(task, name, "majority", guess, first.evaluation.labels, 0)

        def tuned(condition: str, params: Any, taught: finetune.Examples, scored: Sequence[int]) -> list[Reading]:
            found = []
            rate = run.optim.peak_lr * finetune.RATE
            for seed in FINETUNE_SEEDS:
                after = finetune.finetune(run.model, params, taught.train, task.classes, rate, seed, setting, tick)
                for i in scored:
                    tokens, labels = examples[i].evaluation
                    guesses = finetune.predict(run.model, after, tokens)
                    found += _scores(task, names[i], condition, guesses, labels, seed)
            return found

        readings += tuned("model", subject.params, first, (0, 1))
        readings += tuned("fine-tuned in the clone", subject.params, second, (1,))
        # Runs that differ in what they read alone share their untrained decoder.
        same = (run.model, run.seed_init, run.optim.peak_lr, subject.data.layout.hash, names, task.name)
        if same not in self._untrained:
            untrained = model.init(run.model, jax.random.key(np.uint32(run.seed_init)))
            self._untrained[same] = tuned("random init", untrained, first, (0, 1))
        return readings + self._untrained[same]


def _scores(
    task: Task, language: str, condition: str, guesses: np.ndarray, labels: np.ndarray, replicate: int
) -> list[Reading]:
    got = finetune.score(guesses, labels, task.classes)
    named = {"finetune": got.accuracy, "finetune f1": got.f1, "finetune matthews": got.matthews}
    return [
        Reading(probe, task.name, language, condition, value, len(labels), replicate)
        for probe, value in named.items()
        if not math.isnan(value)
    ]


def _embedding(subject: Subject, tick: Callable[[], None]) -> list[Reading]:
    vocab = subject.run.model.vocab
    counts = embeddings.token_counts(subject.training_tokens(), vocab)
    return [
        reading
        for name, rows in embeddings.embeddings(subject.params).items()
        for reading in _rows(subject, f"{name} embedding", rows, counts)
    ]


def _word2vec(subject: Subject, tick: Callable[[], None]) -> list[Reading]:
    class Sentences:
        def __iter__(self) -> Iterator[np.ndarray]:
            for batch in subject.training_tokens():
                yield from batch

    readings = []
    for name, cbow in (("word2vec", word2vec.cbow), ("word2vec shared", shared_layer.cbow)):
        vectors = cbow(Sentences(), subject.run.model.vocab, subject.run.model.d_model)
        readings += _rows(subject, f"{name} input", vectors.input, None)
        readings += _rows(subject, f"{name} output", vectors.output, None)
    return readings


def _rows(subject: Subject, probe: str, rows_VxD: np.ndarray, counts_V: np.ndarray | None) -> list[Reading]:
    """Readings of an embedding: the pairs' mean, the mean of all pairs, and of the pairs by frequency."""
    tables = [subject.data.layout.table(name) for name in (subject.first, subject.second)]
    apart = embeddings.distinct_pairs(*tables)
    first, second = (table[apart] for table in tables)
    pairs = embeddings.pair_cosines(rows_VxD, first, second)
    means = {
        ("all", "pairs"): Mean.of(pairs),
        ("all", "all pairs"): embeddings.mean_of_all_pairs(rows_VxD[np.unique(np.concatenate(tables))]),
    }
    if counts_V is not None:
        bins = embeddings.by_frequency(pairs, counts_V[first] + counts_V[second])
        means |= {(f"{edge:g}", "pairs"): mean for edge, mean in bins.items()}
    return [
        Reading(probe, place, subject.second, condition, mean.value, mean.n)
        for (place, condition), mean in means.items()
        if mean.n
    ]


def _hidden(subject: Subject, paired: Paired, tick: Callable[[], None]) -> list[Reading]:
    readings = []
    for condition, sequences in (("pairs", paired), ("random pairs", paired.unrelated())):
        cosines_L = hidden.layer_cosines(subject.run.model, subject.params, sequences)
        readings += [
            Reading("hidden state", str(layer), subject.second, condition, float(value), len(sequences.pairs))
            for layer, value in enumerate(cosines_L, 1)
        ]
    return readings


def _gradient(subject: Subject, paired: Paired, tick: Callable[[], None]) -> list[Reading]:
    got = gradients.tensor_cosines(subject.run.model, subject.params, paired, tick)
    conditions = {
        "pairs": got.pairs_KxL,
        "random pairs": got.random_KxL,
        "split halves": got.halves_KxL,
        "pooled pairs": got.pooled_KxL,
    }
    return [
        Reading("gradient", place, subject.second, condition, value, got.n)
        for condition, cosines_KxL in conditions.items()
        for place, value in [
            ("all", Mean.of(cosines_KxL.ravel()).value),
            *(
                (f"{tensor}/{layer}", float(value))
                for tensor, cosines_L in zip(got.tensors, cosines_KxL, strict=True)
                for layer, value in enumerate(cosines_L, 1)
            ),
        ]
        if not math.isnan(value)
    ]
