"""The table of probes, `<root>/<study label>/probes.parquet`: a row a reading, and what a reading is of.

The rows of a unit are written together; what the table has is not measured again. A unit that is measured on another
text (other parallel lines, another release of a task) replaces the rows of the one before.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from lab import lineage
from lab.config import RunConfig
from lab.errors import LabError
from lab.evaluate.paired import is_clone
from lab.records import locked, one_line_io_errors
from lab.rundata import RunData, open_run

if TYPE_CHECKING:
    import pandas as pd

ProbeName = Literal["embedding", "hidden", "gradient", "word2vec", "finetune", "choices", "distance"]

# column -> (type, meaning)
COLUMNS: dict[str, tuple[str, str]] = {
    "run_id": ("string", "the trained run"),
    "study": ("string", "study that asked for it, as in the result table"),
    "arm": ("string", "arm of the study"),
    "seed_init": ("int64", "seed of the run's parameters"),
    "probe": ("string", "what was measured"),
    "place": ("string", "all; lower log10 edge of a bin of counts; layer from 1; tensor/layer; task; suite; measure"),
    "language": ("string", "the second language of the pair; of fine-tuning and choices, the language scored"),
    "condition": ("string", "pairs or model, or the control or baseline that the reading is of"),
    "value": ("float64", "a cosine; of fine-tuning and choices a score or a share; of distance as its place says"),
    "n": ("int64", "pieces, sequences, texts or questions that the value is a mean of"),
    "replicate": ("int64", "of fine-tuning: its seed; else 0"),
    "at": ("float64", "share of the run's updates that were made: 1 is its end, 0 what it began with"),
    "pair": ("string", "the two languages compared, with a space between; the language alone where one is measured"),
    "text": ("string", "what it was measured on, with a hash"),
}
# The rows that each probe makes.
READINGS: dict[ProbeName, tuple[str, ...]] = {
    "embedding": ("input embedding", "output embedding"),
    "hidden": ("hidden state",),
    "gradient": ("gradient",),
    "word2vec": ("word2vec input", "word2vec output", "word2vec shared input", "word2vec shared output"),
    "finetune": ("finetune", "finetune f1", "finetune matthews", "finetune cut"),
    "choices": ("minimal pairs", "minimal pairs by phenomenon", "cloze"),
    "distance": ("distance",),
}
# Those that compare two languages; the others measure each by itself.
PAIRED: tuple[ProbeName, ...] = ("embedding", "hidden", "gradient", "word2vec", "finetune", "distance")


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
class Subject:
    """A run after a share of its updates, and the languages of it that are looked at: two, or its only one.

    At 0 it is what the run's trajectory began with: its parent's parameters, or random ones.
    """

    study: str
    arm: str
    run: RunConfig
    root: Path
    languages: tuple[str, ...]
    at: float = 1.0

    @property
    def first(self) -> str:
        return self.languages[0]

    @property
    def second(self) -> str:
        return self.languages[1]

    @functools.cached_property
    def clone(self) -> bool:
        return is_clone(self.run.mixture, self.first, self.second)

    @functools.cached_property
    def data(self) -> RunData:
        return open_run(self.run, self.root)

    @functools.cached_property
    def params(self) -> Any:
        if self.at == 0:
            return jax.device_put(lineage.begun_params(self.run, self.root, self.data.layout))
        return jax.device_put(lineage.kept_params(self.run, self.root, self.data.layout.hash, self.at))

    def training_tokens(self) -> Iterator[np.ndarray]:
        """The targets [batch, context] of every step so far, in ids of the total vocabulary."""
        for number in range(self.run.at(self.at) if self.at else 0):
            yield self.data.stream.batch(number).tokens_BxT1[:, 1:]


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is measured and written at once.

    Attributes:
      subject: of which run, and when.
      probe: which.
      text: what on.
      measure: does it; it may be told to call a function as it goes on.
      languages: the two that are compared, or the one that is measured.
      task: of fine-tuning and of choices: what their places begin with.
    """

    subject: Subject
    probe: ProbeName
    text: str
    measure: Callable[[Callable[[], None]], list[Reading]] = dataclasses.field(repr=False)
    languages: tuple[str, ...]
    task: str | None = None

    @property
    def pair(self) -> str:
        return " ".join(self.languages)


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

    def has(self, unit: Unit) -> bool:
        """Whether the unit was measured on the same text."""
        found = self.read()
        return bool((_of_unit(found, unit) & (found.text == unit.text)).any())

    def put(self, unit: Unit, readings: Sequence[Reading]) -> None:
        """Adds the unit's rows, in place of those that it had."""
        import pandas as pd

        shared = {
            "run_id": unit.subject.run.run_id,
            "study": unit.subject.study,
            "arm": unit.subject.arm,
            "seed_init": unit.subject.run.seed_init,
            "at": unit.subject.at,
            "pair": unit.pair,
            "text": unit.text,
        }
        new = pd.DataFrame([{**shared, **reading._asdict()} for reading in readings], columns=list(COLUMNS))
        with locked(self.path.parent, wait=True), one_line_io_errors(self.path):
            old = self.read()
            old = old[~_of_unit(old, unit)]
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


def _of_unit(rows: pd.DataFrame, unit: Unit) -> pd.Series:
    run_id, at = unit.subject.run.run_id, unit.subject.at
    mine = rows.run_id.eq(run_id) & rows.pair.eq(unit.pair) & rows["at"].eq(at)
    mine &= rows.probe.isin(READINGS[unit.probe])
    if unit.task is None:
        return mine
    return mine & (rows.place.eq(unit.task) | rows.place.str.startswith(f"{unit.task}/"))
