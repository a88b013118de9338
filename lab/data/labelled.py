"""Labelled text for fine-tuning: GLUE tasks from the files they were published in, or from TensorFlow Datasets.

    task = read_task("CoLA", folder)           # CoLA, MRPC or SST-2: files of a folder
    task = read_task("tfds:glue/rte")          # any TFDS set with texts and a `label`: its train and validation splits

Files, by task:
  CoLA   CoLA_in_domain_train.tsv; CoLA_in_domain_dev.tsv, CoLA_out_of_domain_dev.tsv
  MRPC   MRPC_msr_paraphrase_train.txt; MRPC_msr_paraphrase_test.txt
  SST-2  SST-2_train.tsv; SST-2_test.tsv
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from lab.data.corpora import tfds_examples
from lab.data.text_files import read_lines
from lab.errors import LabError


@dataclasses.dataclass(frozen=True)
class Labelled:
    """One or two texts with their class."""

    segments: tuple[str, ...]
    label: int


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
      name: such as `CoLA` or `tfds:glue/rte`.
      train: what is learned from.
      evaluation: what is scored.
      classes: number of classes; labels are 0 to `classes` - 1.
    """

    name: str
    train: tuple[Labelled, ...]
    evaluation: tuple[Labelled, ...]
    classes: int

    @property
    def hash(self) -> str:
        """16 hex digits over all texts and labels."""
        digest = hashlib.sha256()
        for part in (self.train, self.evaluation):
            for one in part:
                digest.update(repr((one.segments, one.label)).encode())
            digest.update(b"\0")
        return digest.hexdigest()[:16]


def checked(name: str, train: Iterable[Labelled], evaluation: Iterable[Labelled]) -> Task:
    """A task whose labels are all known.

    Raises:
      LabError: when it has no example, one class only, or an evaluation example of a class that no example teaches.
    """
    learned, scored = tuple(train), tuple(evaluation)
    for part, examples in (("training", learned), ("evaluation", scored)):
        if not examples:
            raise LabError(f"The task {name} has no {part} example.", "Is its file whole?")
    known = sorted({one.label for one in learned})
    if known != list(range(max(2, len(known)))):
        raise LabError(f"The training labels of {name} are {known}.", "They must be 0, 1, ... and at least two.")
    if odd := sorted({one.label for one in scored} - set(known)):
        raise LabError(
            f"The evaluation examples of {name} have the unknown label {odd[0]}; known are {known}.",
            "Labels that were withheld cannot be scored: give files with labels.",
        )
    return Task(name, learned, scored, len(known))


@dataclasses.dataclass(frozen=True)
class _Files:
    """How a task was published: columns of tab-separated lines, without quoting.

    Attributes:
      train, evaluation: names of the files.
      label: column of the label.
      segments: columns of the texts.
      columns: of every line.
      header: whether the first line names the columns.
    """

    train: str
    evaluation: tuple[str, ...]
    label: int
    segments: tuple[int, ...]
    columns: int
    header: bool


PUBLISHED = {
    "CoLA": _Files("in_domain_train.tsv", ("in_domain_dev.tsv", "out_of_domain_dev.tsv"), 1, (3,), 4, False),
    "MRPC": _Files("msr_paraphrase_train.txt", ("msr_paraphrase_test.txt",), 0, (3, 4), 5, True),
    "SST-2": _Files("train.tsv", ("test.tsv",), 1, (0,), 2, True),
}


def read_task(name: str, folder: Path | None = None) -> Task:
    """Reads a task by name.

    Args:
      name: `CoLA`, `MRPC`, `SST-2`, or `tfds:NAME`.
      folder: of the published files.

    Raises:
      LabError: for an unknown task, a missing or damaged file, or an unknown label.
    """
    if name.startswith("tfds:"):
        return checked(name, *(_tfds(name.removeprefix("tfds:"), split) for split in ("train", "validation")))
    if name not in PUBLISHED:
        raise LabError(f"Unknown task {name!r}.", f"Known: {', '.join(PUBLISHED)}, or tfds:NAME (tfds:glue/rte).")
    if folder is None:
        raise LabError(f"Where are the files of {name}?", "Name their folder: --glue FOLDER.")
    form = PUBLISHED[name]
    train = _read(folder / f"{name}_{form.train}", form)
    evaluation = [one for file in form.evaluation for one in _read(folder / f"{name}_{file}", form)]
    return checked(name, train, evaluation)


def _read(path: Path, form: _Files) -> list[Labelled]:
    found = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.removeprefix("\ufeff").split("\t")
        if (form.header and number == 1) or not line.strip():
            continue
        where = f"Line {number} of {path}"
        if len(fields) != form.columns:
            raise LabError(f"{where} has {len(fields)} columns, not {form.columns}.", "Give the file as published.")
        if fields[form.label] not in ("0", "1"):
            raise LabError(f"{where} has the unknown label {fields[form.label]!r}.", "Known are 0 and 1.")
        found.append(Labelled(tuple(fields[i] for i in form.segments), int(fields[form.label])))
    return found


# The order in which the texts of an example are read; others follow by name.
_SEGMENTS = ("premise", "question", "question1", "sentence", "sentence1")


def _tfds(name: str, split: str) -> list[Labelled]:
    found = []
    order: Callable[[str], tuple[bool, int, str]] = lambda f: (  # noqa: E731
        f not in _SEGMENTS,
        _SEGMENTS.index(f) if f in _SEGMENTS else 0,
        f,
    )
    for example in tfds_examples(name, split):
        texts = sorted((f for f, value in example.items() if isinstance(value, bytes)), key=order)
        if "label" not in example or not texts:
            raise LabError(f"The TFDS set {name} has no `label` or no text.", f"It has {sorted(example)}.")
        label = int(example["label"])
        if label < 0:
            raise LabError(f"The TFDS set {name} has an example of unknown label {label} in its {split} split.")
        found.append(Labelled(tuple(example[f].decode() for f in texts), label))
    return found
