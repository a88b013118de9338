"""Tokenizers and the layout of several languages' ids in one vocabulary.

    tokenizer = train_tokenizer(texts, vocab_size=1024)      # or Tokenizer.load(folder)
    layout = build_layout(LayoutConfig.clones(("en", "en#1"), tokenizer.hash), {tokenizer.hash: tokenizer})
    layout.tables["en#1"][ids]                               # base ids -> total ids, int32

A `LanguageLayout` is one lookup table a language; clones, partly anchored clones, disjoint, merged and joint
vocabularies, and a language whose pieces have changed places, are only different tables, so nothing that uses a layout
asks which kind it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece

from lab.config import LanguageIds, LayoutConfig
from lab.data.files import replace_folder
from lab.data.order import permute
from lab.errors import LabError

PAD, UNK, EOD = 0, 1, 2
# Newline and tab are pieces by themselves, so that no word is learned once with and once without them.
_ALONE = ("\n", "\t")
_SMALLEST = 3 + 256 + len(_ALONE)
_SPACE = "\u2581"
_SEPARATORS = re.compile(f"(\n|{_SPACE})")
_SENTENCE_CHARACTERS = 2_000


class Tokenizer:
    """A lossless SentencePiece BPE with byte fallback: `decode(encode(text)) == text` for every text.

    Ids: 0 padding, 1 unknown (never produced), 2 end of document, then pieces. Pickles and compares by its hash.

    Attributes:
      pieces: piece of every id, in SentencePiece's spelling.
      piece_bytes: the UTF-8 bytes every id stands for; padding, unknown and end of document stand for none.
      byte_lengths: [V] int32, their lengths.
      counts: [V] int64, how often each id occurs in the text the tokenizer was trained on.
      hash: 16 hex digits over pieces, merge order and counts.
    """

    def __init__(self, model: bytes, counts: np.ndarray):
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        size = self._processor.vocab_size()
        if counts.shape != (size,):
            raise LabError(f"The tokenizer has {size} pieces but {counts.shape[0]} counts.", "Prepare the data again.")
        self.counts = counts.astype(np.int64)
        self.pieces: tuple[str, ...] = tuple(self._processor.id_to_piece(i) for i in range(size))
        self.piece_bytes: tuple[bytes, ...] = tuple(self._bytes_of(i) for i in range(size))
        self.byte_lengths = np.array([len(b) for b in self.piece_bytes], np.int32)
        scores = [self._processor.get_score(i) for i in range(size)]
        text = json.dumps([self.pieces, scores, self.counts.tolist()])
        self.hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._separator_ids = {
            "\n": [self._processor.piece_to_id("\n")],
            _SPACE: [self._processor.piece_to_id(f"<0x{b:02X}>") for b in _SPACE.encode()],
        }

    def _bytes_of(self, i: int) -> bytes:
        if self._processor.is_byte(i):
            return bytes([int(self.pieces[i][3:5], 16)])
        if self._processor.is_control(i) or self._processor.is_unknown(i):
            return b""
        return self.pieces[i].replace(_SPACE, " ").encode()

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without an end-of-document id."""
        # No piece crosses a line end, and short lines are encoded several times faster than one long text.
        # SentencePiece spells a space with U+2581, so that character itself must go by its bytes.
        parts = _SEPARATORS.split(text)
        lines = self._processor.encode(parts[::2], num_threads=1)
        ids: list[int] = lines[0]
        for separator, line in zip(parts[1::2], lines[1:], strict=True):
            ids += self._separator_ids[separator]
            ids += line
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; byte sequences that are no UTF-8, which only a model can produce, show as U+FFFD."""
        return b"".join(self.piece_bytes[i] for i in ids).decode("utf-8", errors="replace")

    def files(self) -> dict[str, bytes]:
        """The files that `load` reads, by name."""
        counts = io.BytesIO()
        np.save(counts, self.counts)
        return {"sentencepiece.model": self._model, "counts.npy": counts.getvalue()}

    def save(self, folder: Path) -> None:
        """Writes the tokenizer to a new folder, or not at all."""
        with replace_folder(folder) as new:
            for name, content in self.files().items():
                (new / name).write_bytes(content)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Raises LabError when the folder holds no complete tokenizer."""
        try:
            return cls((folder / "sentencepiece.model").read_bytes(), np.load(folder / "counts.npy"))
        except (OSError, ValueError, RuntimeError) as error:
            raise LabError(f"{folder} holds no complete tokenizer: {error}.", "Remove it and prepare again.") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes, np.ndarray]]:
        return Tokenizer, (self._model, self.counts)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-fallback BPE of exactly `vocab_size` ids on `texts`.

    The same texts in the same order give the same tokenizer.

    Raises:
      LabError: when the texts are empty, or too little for so many pieces, or the vocabulary is below its minimum.
    """
    if vocab_size <= _SMALLEST:
        raise LabError(f"A vocabulary of {vocab_size} is too small.", f"Byte fallback needs more than {_SMALLEST}.")
    sample = list(texts)
    if not any(text.strip() for text in sample):
        raise LabError("There is no text to train a tokenizer on.", "Is the corpus empty?")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(sample, _rare_characters(sample, vocab_size)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=list(_ALONE),
            pad_id=PAD,
            unk_id=UNK,
            eos_id=EOD,
            bos_id=-1,
            eos_piece="<eod>",
            max_sentence_length=8 * _SENTENCE_CHARACTERS,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise LabError(
            f"SentencePiece cannot make {vocab_size} pieces from this text ({str(error).splitlines()[-1][:200]}).",
            "Give a smaller vocabulary or more text.",
        ) from error
    blank = Tokenizer(model.getvalue(), np.zeros(vocab_size, np.int64))
    counts = np.zeros(vocab_size, np.int64)
    for text in sample:
        counts += np.bincount(np.asarray(blank.encode(text), np.int64), minlength=vocab_size)
    counts[EOD] = len(sample)
    return Tokenizer(model.getvalue(), counts)


def _sentences(texts: Iterable[str], rare: Iterable[str]) -> Iterator[str]:
    """Cuts texts at line ends and rare characters, and long lines at a space: the trainer drops long sentences."""
    # It also drops any sentence that holds one of its own marks or a zero.
    cut = {ord(c): "\n" for c in (*rare, _SPACE, "\u2585", "\0", "\t")}
    for text in texts:
        for line in text.translate(cut).split("\n"):
            start = 0
            while start < len(line):
                end = start + _SENTENCE_CHARACTERS
                if end < len(line) and (space := line.rfind(" ", start + 1, end)) > 0:
                    end = space
                yield line[start:end]
                start = end


def _rare_characters(texts: Sequence[str], vocab_size: int) -> list[str]:
    """Characters left to byte fallback: the rarest 0.05 % of the text (SentencePiece's usual coverage), and whatever
    would fill more than half of the free pieces with single characters."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    most = (vocab_size - _SMALLEST) // 2
    covered, rare = 0, []
    for rank, (character, count) in enumerate(counts.most_common()):
        if rank >= most or covered >= 0.9995 * counts.total():
            rare.append(character)
        covered += count
    return rare


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageLayout:
    """Where every language's ids lie in the total vocabulary.

    Attributes:
      config: the identity it was built from.
      tokenizers: the tokenizer of each language.
      tables: [V_language] int32 a language: its tokenizer's ids -> total ids; padding is 0 everywhere.
      v_total: size of the total vocabulary. Anchored clones leave the rows of their anchors unused, as
        arXiv:2404.07982 does.
    """

    config: LayoutConfig
    tokenizers: Mapping[str, Tokenizer]
    tables: Mapping[str, np.ndarray]
    v_total: int

    @property
    def languages(self) -> tuple[str, ...]:
        return self.config.names

    def table(self, language: str) -> np.ndarray:
        """Raises LabError for an unknown language."""
        if language not in self.tables:
            raise LabError(f"Unknown language {language!r}.", f"The vocabulary layout has {list(self.languages)}.")
        return self.tables[language]

    def base_ids(self, language: str, ids: Iterable[int]) -> np.ndarray:
        """[n] int32: the language's own ids that `table` sends to these total ids.

        Raises:
          LabError: for an unknown language, and for an id that is none of the language's.
        """
        table = self.table(language)
        inverse = np.full(self.v_total, -1, np.int32)
        inverse[table] = np.arange(len(table), dtype=np.int32)
        total = np.fromiter(ids, np.int64)
        inside = (total >= 0) & (total < self.v_total)
        base = inverse[np.where(inside, total, 0)]
        if len(foreign := total[~inside | (base < 0)]):
            raise LabError(f"The id {foreign[0]} is none of {language!r}.", "Is it text of another language?")
        return base

    @cached_property
    def hash(self) -> str:
        """16 hex digits over the languages, their tables and the total size."""
        digest = hashlib.sha256(json.dumps([self.v_total, *self.languages]).encode())
        for language in self.languages:
            digest.update(self.tables[language].astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """[V_total] int32: bytes that each total id stands for, whatever the language; unused ids have 0."""
        lengths = np.zeros(self.v_total, np.int32)
        for language, table in self.tables.items():
            lengths[table] = self.tokenizers[language].byte_lengths
        return lengths

    @cached_property
    def piece_bytes(self) -> tuple[bytes, ...]:
        """The bytes each total id stands for, in the first language that has it: in a later one with renamed pieces it
        may stand for others."""
        pieces = [b""] * self.v_total
        for language, table in reversed(tuple(self.tables.items())):
            for total, piece in zip(table.tolist(), self.tokenizers[language].piece_bytes, strict=True):
                pieces[total] = piece
        return tuple(pieces)

    def encode(self, language: str, text: str) -> np.ndarray:
        """Total ids of `text` in `language`, int32, without an end-of-document id."""
        table = self.table(language)
        return table[np.asarray(self.tokenizers[language].encode(text), np.int64)]

    def decode(self, ids: Iterable[int], language: str | None = None) -> str:
        """The text of total ids: of one language, or of several, as `piece_bytes` reads them.

        Raises:
          LabError: for ids that the language does not have.
        """
        if language is not None:
            return self.tokenizers[language].decode(self.base_ids(language, ids).tolist())
        return b"".join(self.piece_bytes[i] for i in ids).decode("utf-8", errors="replace")


def build_layout(config: LayoutConfig, tokenizers: Mapping[str, Tokenizer]) -> LanguageLayout:
    """Builds every language's table.

    Args:
      config: languages in the order in which they take their ids.
      tokenizers: by hash.

    Raises:
      LabError: when a tokenizer is missing.
    """
    tables: dict[str, np.ndarray] = {}
    first_table: dict[str, np.ndarray] = {}
    id_of_piece: dict[str, int] = {}
    v_total = 0
    for entry in config.languages:
        if entry.tokenizer not in tokenizers:
            raise LabError(
                f"The layout's tokenizer {entry.tokenizer} of {entry.language!r} is not among those prepared.",
                "Prepare the corpus with the vocabulary the run was made with.",
            )
        tokenizer = tokenizers[entry.tokenizer]
        table, v_total = _table(entry, tokenizer, first_table.get(entry.tokenizer), id_of_piece, v_total)
        tables[entry.language] = table
        first_table.setdefault(entry.tokenizer, table)
        for piece, total in zip(tokenizer.pieces, table.tolist(), strict=True):
            id_of_piece.setdefault(piece, total)
    by_language = {e.language: tokenizers[e.tokenizer] for e in config.languages}
    return LanguageLayout(config, by_language, tables, v_total)


def _table(
    entry: LanguageIds,
    tokenizer: Tokenizer,
    base: np.ndarray | None,
    id_of_piece: Mapping[str, int],
    v_total: int,
) -> tuple[np.ndarray, int]:
    """The language's table and the total size after it; `base` is the first table of the same tokenizer."""
    size = tokenizer.vocab_size
    if entry.sharing == "same":
        assert base is not None  # LayoutConfig refuses it otherwise
        return (base if entry.renamed is None else _renamed(base, tokenizer, entry.renamed)), v_total
    if entry.sharing == "pieces":
        table = np.empty(size, np.int32)
        for i, piece in enumerate(tokenizer.pieces):
            shared = id_of_piece.get(piece)
            table[i] = v_total if shared is None else shared
            v_total += shared is None
        return table, v_total
    table = np.arange(v_total, v_total + size, dtype=np.int32)
    table[PAD] = PAD
    if entry.anchored:
        assert base is not None
        anchors = _anchors(entry, tokenizer)
        table[anchors] = base[anchors]
    return table, v_total + size


def _renamed(base: np.ndarray, tokenizer: Tokenizer, share: float) -> np.ndarray:
    """[V] `base` with a share of the pieces' ids exchanged among themselves.

    Of the pieces that the tokenizer's training text uses, in a fixed random order, the first `share` are taken; among
    those of equal byte length each takes the id of the next, the last that of the first. None that is taken keeps its
    id, unless it is the only one of its length. Which are taken at a smaller share are so at a larger one.
    """
    size = tokenizer.vocab_size
    order = np.argsort(permute("renamed pieces", size, np.arange(size)))
    order = order[(order > EOD) & (tokenizer.counts[order] > 0)]
    taken = order[: round(share * len(order))]
    table = base.copy()
    for length in np.unique(tokenizer.byte_lengths[taken]):
        pieces = taken[tokenizer.byte_lengths[taken] == length]
        table[pieces] = base[np.roll(pieces, -1)]
    return table


def _anchors(entry: LanguageIds, tokenizer: Tokenizer) -> np.ndarray:
    """Which ids keep their first id: all but the int((1 - anchored) * V) that are cloned."""
    size = tokenizer.vocab_size
    # Rounded first, since (1 - .9) * V falls just below the integer that is meant.
    cloned = int(round((1 - entry.anchored) * size, 6))
    if entry.anchors == "frequent":
        order = np.argsort(-tokenizer.counts, kind="stable")
        return order[: size - cloned]
    order_list = list(range(size))
    random.Random(0).shuffle(order_list)
    return np.array(order_list[cloned:], np.int64)
