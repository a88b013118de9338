"""The token store: a corpus as flat token ids on disk, read memory-mapped and without TensorFlow.

    write_store(folder, header, records)      # records: (split, key, ids) in the order of the corpus
    store = TokenStore.open(folder)
    store.ids("train")                        # [tokens] uint16 or uint32, documents end with id 2
    store.offsets("train")                    # [documents + 1] int64, where each document starts
    store.keys("train")                       # the documents' keys

A store is a folder: `manifest.json`, `piece_bytes.npy` (bytes of every id), for each split `S.ids`, `S.offsets.npy`
and `S.keys.json`, and the tokenizer's files. It is written to a temporary folder and renamed, so it is whole or absent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lab.config import Source, fingerprint
from lab.data.files import replace_folder
from lab.errors import LabError

SPLITS = ("train", "validation", "test", "probe")
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class StoreHeader:
    """What is known of a store before its text is read.

    Attributes:
      corpus: the corpus by name (`embedded:en`).
      language: BCP 47 tag of its language.
      licence: of the text.
      release: which text: a package's version, or a digest of the files.
      parallel: the group of corpora it is parallel to, whose documents share keys; or "".
      split_rule: how documents were put into splits.
      tokenizer: the tokenizer's hash.
      piece_bytes: bytes of every id.
    """

    corpus: str
    language: str
    licence: str
    release: str
    parallel: str
    split_rule: str
    tokenizer: str
    piece_bytes: tuple[int, ...] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """Documents, tokens (ends of documents included) and UTF-8 bytes of one split, and the SHA-256 of its ids."""

    documents: int
    tokens: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a store holds; `text_hash` is over the keys and ids of all splits, so it also pins the tokenizer's work."""

    format: int
    corpus: str
    language: str
    licence: str
    release: str
    parallel: str
    split_rule: str
    tokenizer: str
    vocab_size: int
    dtype: str
    text_hash: str
    splits: dict[str, SplitCounts]

    @property
    def fingerprint(self) -> str:
        """The store's identity: its text, tokenizer and split rule, whatever it is called and wherever it lies."""
        return fingerprint([self.format, self.text_hash, self.tokenizer, self.split_rule])

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Manifest:
        splits = {name: SplitCounts(**counts) for name, counts in form["splits"].items()}
        return cls(**{**form, "splits": splits})


class TokenStore:
    """A readable store. Cheap to open; ids are memory-mapped, so nothing is read before it is used."""

    def __init__(
        self,
        manifest: Manifest,
        piece_bytes: np.ndarray,
        ids: Mapping[str, np.ndarray],
        offsets: Mapping[str, np.ndarray],
        keys: Mapping[str, Sequence[str] | Path],
        folder: Path | None = None,
    ):
        self.manifest = manifest
        self.piece_bytes = piece_bytes
        self.folder = folder
        self._ids, self._offsets, self._keys = ids, offsets, keys

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def source(self) -> Source:
        """The store as a run's config names it."""
        return Source(self.manifest.corpus, self.fingerprint)

    def ids(self, split: str = "train") -> np.ndarray:
        """[tokens] uint16 or uint32 token ids of the split, memory-mapped."""
        return self._ids[_known(split)]

    def offsets(self, split: str = "train") -> np.ndarray:
        """[documents + 1] int64: document d is `ids[offsets[d] : offsets[d + 1]]`."""
        return self._offsets[_known(split)]

    def keys(self, split: str = "train") -> Sequence[str]:
        """The key of every document of the split."""
        keys = self._keys[_known(split)]
        return json.loads(keys.read_text()) if isinstance(keys, Path) else keys

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Opens the store in `folder`.

        Raises:
          LabError: when there is none, or when a file of it is missing or cut short.
        """
        folder = Path(folder)
        mend = "Remove the folder and run `lab data prepare` again."
        try:
            manifest = Manifest.from_json(json.loads((folder / "manifest.json").read_text()))
            piece_bytes = np.load(folder / "piece_bytes.npy")
            offsets = {s: np.load(folder / f"{s}.offsets.npy") for s in SPLITS}
            ids = {}
            for split in SPLITS:
                path, counts = folder / f"{split}.ids", manifest.splits[split]
                dtype = np.dtype(manifest.dtype)
                if path.stat().st_size != counts.tokens * dtype.itemsize:
                    raise LabError(f"The token store {folder} is damaged: {path.name} has a wrong length.", mend)
                # A memory map of nothing is refused by the system; the plain view is faster to slice than memmap.
                ids[split] = np.asarray(np.memmap(path, dtype, "r")) if counts.tokens else np.zeros(0, dtype)
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise LabError(f"{folder} is not a whole token store: {missing} is missing.", mend) from error
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise LabError(f"The token store {folder} is damaged ({error}).", mend) from error
        keys = {s: folder / f"{s}.keys.json" for s in SPLITS}
        return cls(manifest, piece_bytes, ids, offsets, keys, folder)

    @classmethod
    def in_memory(cls, header: StoreHeader, records: Iterable[tuple[str, str, np.ndarray]]) -> TokenStore:
        """The store that `write_store` would write, kept in memory."""
        dtype = _dtype(header)
        parts: dict[str, list[np.ndarray]] = {s: [] for s in SPLITS}
        tally = _Tally(header)
        for split, key, ids in records:
            parts[_known(split)].append(tally.add(split, key, ids, dtype))
        flat = {s: np.concatenate([*parts[s], np.zeros(0, dtype)]) for s in SPLITS}
        offsets = {s: np.array(tally.offsets[s], np.int64) for s in SPLITS}
        return cls(tally.manifest(), tally.piece_bytes, flat, offsets, tally.keys)

    def verify(self) -> None:
        """Reads all ids and compares them with the manifest. Raises LabError when they differ."""
        for split, counts in self.manifest.splits.items():
            if hashlib.sha256(self.ids(split).data).hexdigest() != counts.sha256:
                raise LabError(
                    f"The {split} ids of the token store {self.folder} are not those it was written with.",
                    "Remove the folder and run `lab data prepare` again.",
                )


def write_store(
    folder: Path,
    header: StoreHeader,
    records: Iterable[tuple[str, str, np.ndarray]],
    files: Mapping[str, bytes] | None = None,
) -> TokenStore:
    """Writes a store from (split, key, token ids with end of document) and opens it.

    Args:
      folder: takes the store's place; an older store there is replaced.
      header: what is known before.
      records: documents in the order of the corpus.
      files: more files for the folder, by name (the tokenizer's).

    Raises:
      LabError: when the training split stays empty, or the disk is full; `folder` is then as it was before.
    """
    dtype = _dtype(header)
    tally = _Tally(header)
    with replace_folder(folder) as new:
        for name, content in (files or {}).items():
            (new / name).write_bytes(content)
        streams: dict[str, BinaryIO] = {}
        try:
            for split in SPLITS:
                streams[split] = (new / f"{split}.ids").open("wb")
            for split, key, ids in records:
                streams[_known(split)].write(tally.add(split, key, ids, dtype).tobytes())
        finally:
            for stream in streams.values():
                stream.close()
        if len(tally.keys["train"]) == 0:
            raise LabError(
                f"The corpus {header.corpus} is empty: no document fell into its training split.",
                "Does it have text, and is it cut into enough documents?",
            )
        for split in SPLITS:
            np.save(new / f"{split}.offsets.npy", np.array(tally.offsets[split], np.int64))
            (new / f"{split}.keys.json").write_text(json.dumps(tally.keys[split]))
        np.save(new / "piece_bytes.npy", tally.piece_bytes)
        (new / "manifest.json").write_text(json.dumps(dataclasses.asdict(tally.manifest()), indent=1))
    return TokenStore.open(folder)


class _Tally:
    """Counts and hashes records as they pass."""

    def __init__(self, header: StoreHeader):
        self.header = header
        self.piece_bytes = np.array(header.piece_bytes, np.int32)
        self.offsets: dict[str, list[int]] = {s: [0] for s in SPLITS}
        self.keys: dict[str, list[str]] = {s: [] for s in SPLITS}
        self._bytes = dict.fromkeys(SPLITS, 0)
        self._hashes = {s: hashlib.sha256() for s in SPLITS}

    def add(self, split: str, key: str, ids: np.ndarray, dtype: np.dtype) -> np.ndarray:
        if len(ids) and not 0 <= int(np.min(ids)) <= int(np.max(ids)) < len(self.piece_bytes):
            raise LabError(f"Document {key!r} of {self.header.corpus} has ids outside its vocabulary.")
        compact = np.ascontiguousarray(ids, dtype)
        self.keys[split].append(key)
        self.offsets[split].append(self.offsets[split][-1] + len(compact))
        self._bytes[split] += int(self.piece_bytes[compact].sum())
        self._hashes[split].update(compact.data)
        return compact

    def manifest(self) -> Manifest:
        splits = {
            s: SplitCounts(len(self.keys[s]), self.offsets[s][-1], self._bytes[s], self._hashes[s].hexdigest())
            for s in SPLITS
        }
        parts = [[s, self.keys[s], self.offsets[s], splits[s].sha256] for s in SPLITS]
        known = {f.name: getattr(self.header, f.name) for f in dataclasses.fields(StoreHeader)}
        del known["piece_bytes"]
        return Manifest(
            format=FORMAT,
            **known,
            vocab_size=len(self.piece_bytes),
            dtype=_dtype(self.header).name,
            text_hash=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16],
            splits=splits,
        )


def _dtype(header: StoreHeader) -> np.dtype:
    return np.dtype(np.uint16 if len(header.piece_bytes) <= 2**16 else np.uint32)


@cache
def _known(split: str) -> str:
    if split not in SPLITS:
        raise LabError(f"Unknown split {split!r}.", f"A token store has {list(SPLITS)}.")
    return split
