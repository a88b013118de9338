"""From corpora to token stores, once: what every command and sweep calls before it trains.

    prepared = prepare(["embedded:en", "embedded:enm"], vocab_size=1024, joint=False, root=Path("out"))
    prepared.stores["embedded:en"], prepared.tokenizers["embedded:en"]
    prepared.source("embedded:en"), prepared.layout(layout_config)

Everything lies under `<root>/data`: `tokenizers/` and `stores/`, each folder named by what it was made from, so that a
second call finds it, and a changed text makes a new one. When all stores exist, TensorFlow is not imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lab.config import LayoutConfig, Source, fingerprint
from lab.data import splits
from lab.data.corpora import Corpus, open_corpus
from lab.data.store import FORMAT, StoreHeader, TokenStore, write_store
from lab.data.vocabulary import LanguageLayout, Tokenizer, build_layout, train_tokenizer
from lab.errors import LabError

# A tokenizer sees at most so many characters of training text, an equal part from every corpus.
TOKENIZER_CHARACTERS = 16_000_000
# Stores written at once: each writer holds TensorFlow, most of a gigabyte.
MOST_WRITERS = 8


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Stores and tokenizers by corpus name.

    Attributes:
      stores: by corpus name.
      tokenizers: by corpus name; the same object for all when they are joint.
      names: the corpus name of each spec that was asked for (`text:/a/b.txt` is named `text:b.txt`).
    """

    stores: Mapping[str, TokenStore]
    tokenizers: Mapping[str, Tokenizer]
    names: Mapping[str, str]

    @property
    def by_hash(self) -> dict[str, Tokenizer]:
        """The tokenizers by hash, as `build_layout` wants them."""
        return {t.hash: t for t in self.tokenizers.values()}

    def store(self, spec: str) -> TokenStore:
        """The store of a spec or a corpus name. Raises LabError when it was not prepared."""
        name = self.names.get(spec, spec)
        if name not in self.stores:
            raise LabError(f"{spec} was not prepared.", f"Prepared are {', '.join(self.stores)}.")
        return self.stores[name]

    def tokenizer(self, spec: str) -> Tokenizer:
        """The tokenizer of a spec or a corpus name."""
        return self.tokenizers[self.store(spec).manifest.corpus]

    def source(self, spec: str) -> Source:
        """The store of a spec or a corpus name, as a run's config names it."""
        return self.store(spec).source

    def layout(self, config: LayoutConfig) -> LanguageLayout:
        """The layout's tables. Raises LabError when a tokenizer of it was not prepared."""
        return build_layout(config, self.by_hash)


def prepare(
    corpora: Sequence[str],
    vocab_size: int,
    joint: bool = False,
    root: Path = Path("out"),
    tokenizer_from: Sequence[str] = (),
) -> Prepared:
    """Trains the tokenizers and writes the token stores of some corpora, unless they exist.

    A language that a trained model goes on with must be read with that model's tokenizer. Where one model goes on with
    many languages, as along a dial of derived ones, a tokenizer joint with each would need a parent of each and would
    move with the dial: `tokenizer_from` the parent's corpus keeps one parent and one vocabulary for all of them.

    Args:
      corpora: specs, as `lab.data.corpora` describes them.
      vocab_size: ids of each tokenizer.
      joint: whether one tokenizer is trained over all the corpora, in place of one for each.
      root: the folder of all results.
      tokenizer_from: specs of the corpora over which one tokenizer for all `corpora` is trained; by default `joint`
        says which. `joint` is the same as naming all of them here.

    Raises:
      LabError: for an unknown or missing or empty corpus, a vocabulary that is too small or too large for the text,
        or a full disk.
    """
    if not corpora:
        raise LabError("There is no corpus to prepare.", "Name one, such as embedded:en.")
    if joint and tokenizer_from:
        raise LabError("A tokenizer is either joint over all corpora or trained from those named, not both.")
    every = {spec: open_corpus(spec) for spec in dict.fromkeys((*corpora, *tokenizer_from))}
    opened = {spec: every[spec] for spec in dict.fromkeys(corpora)}
    if len({(c.name, c.release) for c in every.values()}) > len({c.name for c in every.values()}):
        raise LabError("Two different corpora have the same name.", "Rename one of the files.")
    unique = list({c.name: c for c in opened.values()}.values())
    shared = tuple({every[s].name: every[s] for s in (corpora if joint else tokenizer_from)}.values())
    with _progress() as progress:
        if shared:
            tokenizer = _tokenizer(shared, vocab_size, root, progress)
            tokenizers = {c.name: tokenizer for c in unique}
        else:
            tokenizers = {c.name: _tokenizer([c], vocab_size, root, progress) for c in unique}
    folders = {spec: _folder(c, tokenizers[c.name], root) for spec, c in opened.items()}
    _write_missing({folder: (spec, tokenizers[opened[spec].name]) for spec, folder in folders.items()})
    stores = {c.name: TokenStore.open(folders[spec]) for spec, c in opened.items()}
    return Prepared(stores, tokenizers, {spec: c.name for spec, c in opened.items()})


def open_prepared(sources: Sequence[Source], root: Path = Path("out")) -> Prepared:
    """The stores that a run's config names, found under `root` by their fingerprints, and their tokenizers.

    Raises:
      LabError: when one is not there.
    """
    found = {store.fingerprint: store for store in stores_under(root)}
    stores, tokenizers = {}, {}
    for source in sources:
        if source.store not in found:
            raise LabError(
                f"The token store {source.store} of {source.corpus} is not under {root / 'data'}.",
                "Prepare the same text with the same vocabulary size.",
            )
        store = found[source.store]
        assert store.folder is not None
        stores[source.corpus], tokenizers[source.corpus] = store, Tokenizer.load(store.folder)
    return Prepared(stores, tokenizers, {name: name for name in stores})


def stores_under(root: Path) -> list[TokenStore]:
    """All whole stores under `root`, by folder name; damaged ones are left out, since `prepare` makes them anew."""
    stores = []
    for folder in sorted((root / "data" / "stores").glob("[!.]*")):
        try:
            stores.append(TokenStore.open(folder))
        except LabError:
            continue
    return stores


def _tokenizer(corpora: Sequence[Corpus], vocab_size: int, root: Path, progress: Progress) -> Tokenizer:
    made_from = [[c.name, c.release] for c in corpora]
    # The order in which joint corpora are named makes no difference to what they are; a corpus that is split in
    # another way than usual has another name.
    key = fingerprint([sorted(made_from), vocab_size, str(splits.USUAL), TOKENIZER_CHARACTERS])
    folder = root / "data" / "tokenizers" / key
    if folder.exists():
        try:
            return Tokenizer.load(folder)
        except LabError:
            progress.console.print(f"{folder} is damaged and made anew.")
    names = ", ".join(c.name for c in corpora)
    task = progress.add_task(f"{names}: training a tokenizer of {vocab_size} pieces", total=None)
    texts = [
        text
        for corpus in sorted(corpora, key=lambda c: (c.name, c.release))
        for text in _sample(corpus, TOKENIZER_CHARACTERS // len(corpora))
    ]
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save(folder)
    progress.remove_task(task)
    progress.console.print(f"{names}: trained tokenizer {tokenizer.hash}, {vocab_size} pieces")
    return tokenizer


def _sample(corpus: Corpus, characters: int) -> Iterator[str]:
    """Training texts of about so many characters: all of them, or those whose keys hash lowest."""
    training = [d for d in corpus.documents() if corpus.split_of(d) == "train"]
    if not training:
        raise LabError(
            f"The corpus {corpus.name} is empty: it has no training document.",
            "Does it have text, cut into several documents (`?split=`)?",
        )
    if sum(len(d.text) for d in training) > characters:
        training.sort(key=lambda d: hashlib.sha256(f"sample {d.key}".encode()).digest())
    for document in training:
        if characters <= 0:
            return
        yield document.text[:characters]
        characters -= len(document.text)


def _folder(corpus: Corpus, tokenizer: Tokenizer, root: Path) -> Path:
    """Where the store of a corpus in a tokenizer's ids lies."""
    key = fingerprint([corpus.name, corpus.release, tokenizer.hash, str(corpus.rule), FORMAT])
    slug = re.sub(r"\W+", "-", corpus.name).strip("-")[:60]
    return root / "data" / "stores" / f"{slug}-{key}"


def _whole(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        TokenStore.open(folder)
    except LabError as error:
        Console(stderr=True).print(f"{error.problem} It is written anew.")
        return False
    return True


def _write_missing(wanted: Mapping[Path, tuple[str, Tokenizer]]) -> None:
    """Writes the stores that are not there, several at once, each given by its folder."""
    missing = [(spec, tokenizer, folder) for folder, (spec, tokenizer) in wanted.items() if not _whole(folder)]
    if not missing:
        return
    if "tensorflow" in sys.modules:
        for one in missing:
            _write(*one, alone=True)
        return
    # TensorFlow takes most of a gigabyte for good: in a process of its own, it is gone before training begins.
    writers = min(len(missing), os.cpu_count() or 1, MOST_WRITERS)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(writers, context) as apart, _progress(live=writers > 1) as progress:
        progress.add_task(f"writing {len(missing)} token stores, {writers} at once", total=None)
        for job in as_completed([apart.submit(_write, *one, alone=writers == 1) for one in missing]):
            job.result()


def _write(spec: str, tokenizer: Tokenizer, folder: Path, alone: bool) -> None:
    """Runs the corpus's seqio Task into the store `folder`; one that is written alone says how far it is."""
    with _progress(alone) as progress:
        corpus = open_corpus(spec)
        task = progress.add_task(f"{corpus.name}: loading TensorFlow", total=None)
        from lab.data.tasks import register_corpus, run_task

        header = StoreHeader(
            corpus=corpus.name,
            language=corpus.language,
            licence=corpus.licence,
            release=corpus.release,
            parallel=corpus.parallel,
            split_rule=str(corpus.rule),
            tokenizer=tokenizer.hash,
            piece_bytes=tuple(tokenizer.byte_lengths.tolist()),
        )

        def records() -> Iterator[tuple[str, str, np.ndarray]]:
            tokens = 0
            for split, key, ids in run_task(register_corpus(corpus, tokenizer)):
                tokens += len(ids)
                progress.update(task, description=f"{corpus.name}: {tokens:,} tokens")
                yield split, key, ids

        store = write_store(folder, header, records(), tokenizer.files())
        progress.remove_task(task)
        total = sum(counts.tokens for counts in store.manifest.splits.values())
        progress.console.print(f"{corpus.name}: wrote {total:,} tokens to {folder}")


def _progress(live: bool = True) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not live)
