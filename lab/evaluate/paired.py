"""The same text in two languages of a model, as sequences: what hidden states and gradients are compared on.

    same_text(evalset, layout, "l1", "clone1", context)             # a clone: token by token
    parallel_text(lines, layout, "l1", "l2", context, text="...")   # two real languages: line by line

By the protocol of arXiv:2404.07982 (`compare_representations.py`): at most 500 sequences; parallel sequences are
consecutive lines that are joined until either side would exceed the context, and count if both sides fill a quarter
of it. A line that is longer than the context by itself is left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lab.config import MixtureConfig
from lab.data.evalset import EvalSet, parallel_verses
from lab.data.store import TokenStore
from lab.data.text_files import read_lines
from lab.data.vocabulary import EOD, LanguageLayout, Tokenizer
from lab.errors import LabError

SEQUENCES = 500
_PARALLEL = "Give two text files of parallel lines: --parallel A B."


@dataclasses.dataclass(frozen=True)
class Paired:
    """Sequences of two languages.

    Attributes:
      pairs: the ids of the total vocabulary in the first and in the second language, [length] int32 each.
      aligned: whether position t says the same in both: a clone.
      text: which text it is, for people and to tell it from another.
    """

    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]
    aligned: bool
    text: str

    def unrelated(self) -> Paired:
        """Every first with the second of another sequence, half of all sequences further on: a control.

        Raises:
          LabError: when there is only one sequence.
        """
        n = len(self.pairs)
        if n < 2:
            raise LabError(f"{self.text} makes only {n} sequence of the context's length.", "Give more text.")
        seconds = [self.pairs[(i + n // 2) % n][1] for i in range(n)]
        pairs = tuple((first, second) for (first, _), second in zip(self.pairs, seconds, strict=True))
        return dataclasses.replace(self, pairs=pairs)


def same_text(evalset: EvalSet, layout: LanguageLayout, first: str, second: str, context: int) -> Paired:
    """The windows of an evaluation set, read in a language and in its clone."""
    n = min(SEQUENCES, len(evalset.ids) // context)
    windows = evalset.ids[: n * context].reshape(n, context)
    a, b = layout.table(first), layout.table(second)
    text = f"test text of {evalset.corpus} {evalset.hash}"
    return _checked(Paired(tuple((a[w], b[w]) for w in windows), True, text))


def unrelated_text(
    evalset: EvalSet, other: EvalSet, layout: LanguageLayout, first: str, second: str, context: int
) -> Paired:
    """Windows of two evaluation sets that have nothing to do with each other, for what is compared pooled.

    Raises:
      LabError: when one is shorter than a window.
    """
    n = min(SEQUENCES, len(evalset.ids) // context, len(other.ids) // context)
    sides = [
        table[one.ids[: n * context].reshape(n, context)]
        for one, table in ((evalset, layout.table(first)), (other, layout.table(second)))
    ]
    text = f"test text of {evalset.corpus} {evalset.hash} and of {other.corpus} {other.hash}"
    return _checked(Paired(tuple(zip(*sides, strict=True)), False, text))


def parallel_text(
    lines: Iterable[tuple[str, str]],
    layout: LanguageLayout,
    first: str,
    second: str,
    context: int,
    text: str,
    clone: bool = False,
) -> Paired:
    """Parallel lines as sequences of two languages; of a language and its clone, the first line read in both.

    Args:
      lines: (line in the first language, the same in the second).
      layout: of the model.
      first, second: languages of it.
      context: of the model, tokens.
      text: names the lines.
      clone: whether the second is a clone of the first.

    Raises:
      LabError: when no sequence fills a quarter of the context on both sides.
    """
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def close() -> None:
        a, b = (np.concatenate(p) if p else np.zeros(0, np.int32) for p in parts)
        if min(len(a), len(b)) >= context / 4:
            pairs.append((a, b))
        for part in parts:
            part.clear()

    for line in lines:
        if len(pairs) == SEQUENCES:
            break
        sides = (line[0], line[0] if clone else line[1])
        # Words of a line that follows another begin with a space.
        joined, alone = (
            [layout.encode(language, lead + side) for language, side in zip((first, second), sides, strict=True)]
            for lead in (" ", "")
        )
        if max(len(ids) for ids in alone) > context:
            continue
        if not parts[0] or max(sum(map(len, p)) + len(ids) for p, ids in zip(parts, joined, strict=True)) > context:
            close()
            joined = alone
        for part, ids in zip(parts, joined, strict=True):
            part.append(ids)
    if len(pairs) < SEQUENCES:
        close()
    return _checked(Paired(tuple(pairs), clone, text))


def verse_lines(stores: Sequence[TokenStore], tokenizers: Sequence[Tokenizer]) -> list[tuple[str, str]]:
    """The probe verses of two parallel corpora, which are in no training set, read in the corpora's own tokenizers.

    Raises:
      LabError: when the corpora are not parallel, or have no verse in common.
    """
    first, second = stores
    try:
        verses = parallel_verses(first, second)
    except LabError as error:
        raise LabError(f"{error.problem} Hidden states and gradients need parallel text.", _PARALLEL) from None
    if not verses:
        raise LabError(f"{first.manifest.corpus} and {second.manifest.corpus} have no verse in common.", _PARALLEL)

    def text(tokenizer: Tokenizer, ids: np.ndarray) -> str:
        return tokenizer.decode(i for i in ids.tolist() if i != EOD)

    return [(text(tokenizers[0], a), text(tokenizers[1], b)) for _, a, b in verses]


def file_lines(first: Path, second: Path) -> list[tuple[str, str]]:
    """Line i of one file with line i of another (plain, .gz or .xz); pairs with an empty side are left out.

    Raises:
      LabError: when a file cannot be read, or they are not of one length.
    """
    a, b = list(read_lines(first)), list(read_lines(second))
    if len(a) != len(b):
        raise LabError(
            f"{first} has {len(a):,} lines and {second} has {len(b):,}: they are not parallel.",
            "Line i of one must be the translation of line i of the other.",
        )
    return [pair for pair in zip(a, b, strict=True) if pair[0].strip() and pair[1].strip()]


def name_of(first: Path, second: Path) -> str:
    """Names two files by name and content."""
    digest = hashlib.sha256()
    for path in (first, second):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{first.name} and {second.name} {digest.hexdigest()[:16]}"


def is_clone(mixture: MixtureConfig, first: str, second: str) -> bool:
    """Whether two languages of a model read the same source: the same text, in other ids.

    Raises:
      LabError: when the model has not read one of them.
    """
    sources = {c.language: c.source for c in mixture.components}
    for language in (first, second):
        if language not in sources:
            raise LabError(
                f"The model has no language {language!r}: it has read {', '.join(sources)}.",
                "Ask for one of these, or train an arm that has it.",
            )
    return sources[first] == sources[second]


def padded(sequences: Iterable[np.ndarray], length: int) -> np.ndarray:
    """[n, length] int32, filled with padding at the end."""
    rows = list(sequences)
    tokens = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


def batches(paired: Paired, size: int) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], ...]]:
    """The pairs in batches of at most `size`."""
    for start in range(0, len(paired.pairs), size):
        yield paired.pairs[start : start + size]


def _checked(paired: Paired) -> Paired:
    if not paired.pairs:
        raise LabError(f"{paired.text} makes no sequence that fills a quarter of the context.", "Give more text.")
    return paired
