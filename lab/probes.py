"""What probes say of trained runs: one table, `<root>/<study label>/probes.parquet`, a row a reading.

    prober = Prober(Settings(glue=Path("glue")))
    for unit in prober.units(subject, ("embedding", "hidden")):
        if not table.has(subject, unit):
            table.put(subject, unit, unit.measure())

The rows of a unit are written together; what the table has is not measured again. A unit that is measured on another
text (other parallel lines, another release of a task) replaces the rows of the one before.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from lab import lineage, model
from lab.config import RunConfig
from lab.data.labelled import Task, read_task
from lab.data.prepare import open_prepared
from lab.errors import LabError
from lab.evaluate import embeddings, finetune, gradients, hidden, shared_layer, word2vec
from lab.evaluate.embeddings import Mean
from lab.evaluate.paired import Paired, file_lines, is_clone, name_of, parallel_text, same_text, verse_lines
from lab.records import locked, one_line_io_errors
from lab.rundata import RunData, open_run

if TYPE_CHECKING:
    import pandas as pd

ProbeName = Literal["embedding", "hidden", "gradient", "word2vec", "finetune"]

# column -> (type, meaning)
COLUMNS: dict[str, tuple[str, str]] = {
    "run_id": ("string", "the trained run"),
    "study": ("string", "study that asked for it, as in the result table"),
    "arm": ("string", "arm of the study"),
    "seed_init": ("int64", "seed of the run's parameters"),
    "probe": ("string", "what was measured"),
    "place": ("string", "all; lower log10 edge of a bin of counts; layer from 1; tensor/layer; or task"),
    "language": ("string", "the second language of the pair; of fine-tuning, the language scored"),
    "condition": ("string", "pairs, or the control or baseline that the reading is of"),
    "value": ("float64", "a cosine; of fine-tuning a score or a share"),
    "n": ("int64", "pieces, sequences or texts that the value is a mean of"),
    "replicate": ("int64", "of fine-tuning: its seed; else 0"),
    "at": ("float64", "share of the run's updates that were made: 1 is its end"),
    "pair": ("string", "the two languages compared, with a space between"),
    "text": ("string", "what it was measured on, with a hash"),
}
# The rows that each probe makes.
READINGS: dict[ProbeName, tuple[str, ...]] = {
    "embedding": ("input embedding", "output embedding"),
    "hidden": ("hidden state",),
    "gradient": ("gradient",),
    "word2vec": ("word2vec input", "word2vec output", "word2vec shared input", "word2vec shared output"),
    "finetune": ("finetune", "finetune f1", "finetune matthews", "finetune cut"),
}
PROBES: tuple[ProbeName, ...] = get_args(ProbeName)
FINETUNE_SEEDS = (0, 1, 2)


class Reading(NamedTuple):
    """One row, apart from what its unit says."""

    probe: str
    place: str
    language: str
    condition: str
    value: float
    n: int
    replicate: int = 0


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is measured and written at once.

    Attributes:
      probe: which.
      text: what on.
      task: of fine-tuning.
      measure: does it; it may be told to call a function as it goes on.
    """

    probe: ProbeName
    text: str
    measure: Callable[[Callable[[], None]], list[Reading]] = dataclasses.field(repr=False)
    task: str | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """What probes are measured on, besides the run's own text.

    Attributes:
      parallel: two files of parallel lines, in place of the verses of embedded corpora.
      tasks: what to fine-tune on.
      glue: folder of the published files of those tasks.
      tuning: how long, and on how much.
    """

    parallel: tuple[Path, Path] | None = None
    tasks: tuple[str, ...] = ("CoLA", "MRPC", "SST-2")
    glue: Path | None = None
    tuning: finetune.Setting = dataclasses.field(default_factory=finetune.Setting)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A finished run after a share of its updates, and the two languages of it that are compared."""

    study: str
    arm: str
    run: RunConfig
    root: Path
    first: str
    second: str
    at: float = 1.0

    @property
    def pair(self) -> str:
        return f"{self.first} {self.second}"

    @functools.cached_property
    def clone(self) -> bool:
        return is_clone(self.run.mixture, self.first, self.second)

    @functools.cached_property
    def data(self) -> RunData:
        return open_run(self.run, self.root)

    @functools.cached_property
    def params(self) -> Any:
        return jax.device_put(lineage.kept_params(self.run, self.root, self.data.layout.hash, self.at))

    def training_tokens(self) -> Iterator[np.ndarray]:
        """The targets [batch, context] of every step so far, in ids of the total vocabulary."""
        for number in range(self.run.at(self.at)):
            yield self.data.stream.batch(number).tokens_BxT1[:, 1:]


class Prober:
    """Measures; keeps what several runs share."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._untrained: dict[Any, list[Reading]] = {}
        self._task = functools.cache(lambda name: read_task(name, settings.glue))

    def units(self, subject: Subject, probe: ProbeName) -> list[Unit]:
        """The units of a probe on a run; none where it does not apply: to two languages that are no clones.

        Raises:
          LabError: when the run lacks a language, or the text that the probe needs.
        """
        is_clone(subject.run.mixture, subject.first, subject.second)
        if probe in ("hidden", "gradient"):
            paired = self._paired(subject)
            compare = _hidden if probe == "hidden" else _gradient
            return [Unit(probe, paired.text, functools.partial(compare, subject, paired))]
        if not subject.clone:
            return []
        if probe == "finetune":
            tasks = [self._task(name) for name in self.settings.tasks]
            return [
                Unit(probe, f"{task.name} {task.hash}", functools.partial(self._finetune, subject, task), task.name)
                for task in tasks
            ]
        measure = _embedding if probe == "embedding" else _word2vec
        return [Unit(probe, "training text", functools.partial(measure, subject))]

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


class ProbeTable:
    """The table of one study, on disk; several processes may write to it."""

    def __init__(self, label: str, root: Path):
        self.path = root / label / "probes.parquet"

    def read(self) -> pd.DataFrame:
        """All rows; none where there is no table yet.

        Raises:
          LabError: when the file is no table of probes.
        """
        import pandas as pd

        if not self.path.exists():
            return pd.DataFrame({n: pd.Series(dtype=_DTYPES[kind]) for n, (kind, _) in COLUMNS.items()})
        try:
            found = pd.read_parquet(self.path)
        except (OSError, ValueError) as error:
            raise LabError(
                f"{self.path} is no parquet table ({str(error).splitlines()[0]}).", "Move it away."
            ) from None
        if list(found.columns) != list(COLUMNS):
            raise LabError(
                f"{self.path} was written by another version: its columns are {', '.join(found.columns)}.",
                "Move it away and probe again.",
            )
        return found

    def has(self, subject: Subject, unit: Unit) -> bool:
        """Whether the unit was measured on the same text."""
        found = self.read()
        return bool((_of_unit(found, subject, unit) & (found.text == unit.text)).any())

    def put(self, subject: Subject, unit: Unit, readings: Sequence[Reading]) -> None:
        """Adds the unit's rows, in place of those that it had."""
        import pandas as pd

        shared = {
            "run_id": subject.run.run_id,
            "study": subject.study,
            "arm": subject.arm,
            "seed_init": subject.run.seed_init,
            "at": subject.at,
            "pair": subject.pair,
            "text": unit.text,
        }
        new = pd.DataFrame([{**shared, **reading._asdict()} for reading in readings], columns=list(COLUMNS))
        with locked(self.path.parent, wait=True), one_line_io_errors(self.path):
            old = self.read()
            old = old[~_of_unit(old, subject, unit)]
            whole = pd.concat([old, new], ignore_index=True) if len(old) else new
            kinds = {name: _DTYPES[kind] for name, (kind, _) in COLUMNS.items()}
            order = ["arm", "run_id", "pair", "at", "probe", "place", "condition", "language", "replicate"]
            temporary = self.path.with_name(f".{self.path.name}.part")
            try:
                whole.astype(kinds).sort_values(order, kind="stable").to_parquet(temporary, index=False)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)


_DTYPES = {"string": "str", "int64": "int64", "float64": "float64"}


def _of_unit(rows: pd.DataFrame, subject: Subject, unit: Unit) -> pd.Series:
    mine = rows.run_id.eq(subject.run.run_id) & rows.pair.eq(subject.pair) & rows["at"].eq(subject.at)
    mine &= rows.probe.isin(READINGS[unit.probe])
    return mine if unit.task is None else mine & rows.place.eq(unit.task)
