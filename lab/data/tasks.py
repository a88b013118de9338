"""Corpora as seqio Tasks and mixtures as seqio Mixtures.

    base = register_corpus(corpus, tokenizer)               # "lab:embedded:en:<tokenizer>"
    for split, key, ids in run_task(base): ...              # what the token store is written from
    mixture = register_mixture(mixture_config, layout, corpora)    # and a Task for each of its languages

A base Task yields `key` and `targets`, the document's ids with an end-of-document id. The Task of a language, clone or
not, is its base Task plus one preprocessor that maps ids through the layout's table. All languages of a layout share
one vocabulary, which seqio requires to compare equal.

Importing seqio imports TensorFlow and takes seconds, so it happens inside these functions, when data is prepared.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lab.config import MixtureConfig, fingerprint
from lab.data.corpora import Corpus
from lab.data.store import SPLITS
from lab.data.vocabulary import EOD, UNK, LanguageLayout, Tokenizer
from lab.errors import LabError


def register_corpus(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """Registers the corpus as a base Task, unless it is one already, and returns its name."""
    seqio = _seqio()
    name = f"lab:{_plain(corpus.name)}:{_plain(corpus.release)}:{tokenizer.hash}"
    if name not in seqio.TaskRegistry.names():
        vocabulary = _vocabulary_class()(tokenizer.hash, tokenizer.vocab_size, tokenizer.encode, tokenizer.decode)
        seqio.TaskRegistry.add(
            name,
            source=_source(corpus),
            preprocessors=[_tokenise(tokenizer, corpus.reorder)],
            output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
        )
    return name


def register_language(language: str, corpus: Corpus, layout: LanguageLayout) -> str:
    """Registers the Task of one language of a layout, read from `corpus`, and returns its name."""
    seqio = _seqio()
    table = layout.table(language)
    tokenizer = layout.tokenizers[language]
    name = f"lab:{_plain(corpus.name)}:{_plain(corpus.release)}:{_plain(language)}:{layout.hash}"
    if name not in seqio.TaskRegistry.names():
        base = seqio.TaskRegistry.get(register_corpus(corpus, tokenizer))
        first = layout.languages[0]
        vocabulary = _vocabulary_class()(
            layout.hash, layout.v_total, lambda text: layout.encode(first, text).tolist(), layout.decode
        )
        seqio.TaskRegistry.add(
            name,
            source=base.source,
            preprocessors=[*base.preprocessors, _map_ids(table)],
            output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
        )
    return name


def register_mixture(mixture: MixtureConfig, layout: LanguageLayout, corpora: Mapping[str, Corpus]) -> str:
    """Registers a seqio Mixture with the mixture's languages at their shares of the whole run; returns its name.

    seqio mixes whole documents by random sampling; training mixes sequences exactly (`lab.data.mixture`).

    Args:
      mixture: its components' corpora must be in `corpora`.
      layout: built from `mixture.layout`.
      corpora: by name.
    """
    seqio = _seqio()
    name = f"lab:mixture:{fingerprint(mixture)}"
    if name not in seqio.MixtureRegistry.names():
        shares = np.sum([np.array(stage.shares) * stage.fraction for stage in mixture.stages], axis=0)
        tasks = [register_language(c.language, corpora[c.source.corpus], layout) for c in mixture.components]
        rates = [(task, float(share)) for task, share in zip(tasks, shares, strict=True) if share > 0]
        seqio.MixtureRegistry.add(name, rates)
    return name


def run_task(name: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """Runs a base Task once, unshuffled: (split, key, ids with end of document), split by split."""
    task = _seqio().get_mixture_or_task(name)
    for split in SPLITS:
        dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
        for example in dataset.as_numpy_iterator():
            yield split, example["key"].decode(), example["targets"]


def texts_of_task(name: str, module: str, feature: str, split: str) -> Iterator[str]:
    """The texts of somebody's own seqio Task: `feature` as text, or decoded by the Task's vocabulary.

    Raises:
      LabError: when the Task, its feature or its split does not exist.
    """
    seqio = _seqio()
    if module:
        importlib.import_module(module)
    if name not in seqio.TaskRegistry.names():
        raise LabError(f"No seqio Task {name!r} is registered.", "Name the module that does: `?module=my.tasks`.")
    task = seqio.TaskRegistry.get(name)
    if split not in task.splits:
        raise LabError(f"The seqio Task {name!r} has no split {split!r}.", f"It has {list(task.splits)}.")
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    raw = f"{feature}_pretokenized"
    if raw not in dataset.element_spec and feature not in task.output_features:
        raise LabError(f"The seqio Task {name!r} has no feature {feature!r}.", f"It has {list(task.output_features)}.")
    for example in dataset.as_numpy_iterator():
        if raw in example:
            yield example[raw].decode()
            continue
        ids = np.asarray(example[feature]).tolist()
        vocabulary = task.output_features[feature].vocabulary
        text = vocabulary.decode([i for i in ids if i != vocabulary.eos_id])
        if not isinstance(text, str):
            raise LabError(f"The vocabulary of the seqio Task {name!r} does not decode to text.")
        yield text


@cache
def _seqio() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _without_stderr():
            import seqio
            import tensorflow as tf

            # Data is prepared on the CPU; TensorFlow must not take the accelerator's memory from training.
            tf.config.set_visible_devices([], "GPU")
    except ImportError as error:
        raise LabError(f"Preparing data needs {error.name}.", "pip install 'scaling-lab[train]'.") from error
    logging.getLogger("absl").setLevel(logging.WARNING)
    return seqio


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keeps off the terminal what TensorFlow's libraries write there when loaded, whatever their log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _plain(name: str) -> str:
    """`name` in the characters that seqio allows in names."""
    return re.sub(r"[^\w.:#]", "_", name)


def _source(corpus: Corpus) -> Any:
    """A seqio source with this repository's splits; the probe split yields verses."""
    import tensorflow as tf

    def of_split(split: str) -> Iterator[tuple[str, str]]:
        for document in corpus.documents():
            if corpus.split_of(document) != split:
                continue
            if split == "probe" and document.verses:
                yield from document.verses
            else:
                yield document.key, document.text

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        if shuffle_files:
            raise ValueError("shuffling is done by example, not by file")
        text = tf.TensorSpec((), tf.string)
        dataset = tf.data.Dataset.from_generator(lambda: of_split(split), output_signature=(text, text))
        return dataset.map(lambda key, text: {"key": key, "text": text})

    return _seqio().FunctionDataSource(dataset_fn, splits=SPLITS)


def _tokenise(tokenizer: Tokenizer, reorder: Callable[[np.ndarray, str], np.ndarray] | None) -> Callable[[Any], Any]:
    import tensorflow as tf

    def encode(text: bytes, key: bytes) -> np.ndarray:
        ids = np.array([*tokenizer.encode(text.decode()), EOD], np.int32)
        return ids if reorder is None else reorder(ids, key.decode())

    def tokenise(example: dict[str, Any]) -> dict[str, Any]:
        encoded = tf.numpy_function(encode, [example["text"], example["key"]], tf.int32)
        targets = tf.ensure_shape(encoded, [None])
        return {"key": example["key"], "targets": targets}

    return lambda dataset: dataset.map(tokenise)


def _map_ids(table: np.ndarray) -> Callable[[Any], Any]:
    import tensorflow as tf

    def to_language(example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "targets": tf.gather(tf.constant(table), example["targets"])}

    return lambda dataset: dataset.map(to_language)


@cache
def _vocabulary_class() -> Any:
    """A `seqio.Vocabulary` of a tokenizer or of a whole layout; equal when their hashes are."""
    import tensorflow as tf

    class LabVocabulary(_seqio().Vocabulary):  # type: ignore[misc]
        def __init__(
            self, identity: str, size: int, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]
        ):
            super().__init__()
            self.identity, self._size, self._to_ids, self._to_text = identity, size, encode, decode

        @property
        def eos_id(self) -> int:
            return EOD

        @property
        def unk_id(self) -> int:
            return UNK

        @property
        def _base_vocab_size(self) -> int:
            return self._size

        def _encode(self, s: str) -> list[int]:
            return self._to_ids(s)

        def _decode(self, ids: list[int]) -> str:
            return self._to_text(ids)

        def _encode_tf(self, s: Any) -> Any:
            def encode(text: Any) -> np.ndarray:
                # Eagerly it is an array of one object, in a graph it is bytes.
                return np.array(self._to_ids(np.asarray(text).item().decode()), np.int32)

            return tf.ensure_shape(tf.numpy_function(encode, [s], tf.int32), [None])

        def _decode_tf(self, ids: Any) -> Any:
            return tf.numpy_function(lambda i: self._to_text(i.tolist()).encode(), [ids], tf.string)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, LabVocabulary) and self.identity == other.identity

        def __hash__(self) -> int:
            return hash(self.identity)

    return LabVocabulary
