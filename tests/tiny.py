"""A tiny corpus in a token store, written without TensorFlow, and runs on it that train in seconds."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np

from lab.config import Component, LayoutConfig, MixtureConfig, ModelConfig, OptimConfig, RunConfig, Stage
from lab.data.prepare import Prepared
from lab.data.store import StoreHeader, write_store
from lab.data.vocabulary import EOD, train_tokenizer

CONTEXT, BATCH, VOCAB = 16, 4, 300


def documents(language: str, n: int = 60) -> list[str]:
    """Texts of made-up words with some structure to learn."""
    rng = random.Random(language)
    words = ["".join(rng.choice("abcdefghijklmnop") for _ in range(rng.randint(2, 6))) for _ in range(60)]
    follows = {w: rng.sample(words, 3) for w in words}
    texts = []
    for _ in range(n):
        word, text = rng.choice(words), []
        for _ in range(90):
            text.append(word)
            word = rng.choice(follows[word])
        texts.append(" ".join(text) + ".\n")
    return texts


def prepared(root: Path, languages: tuple[str, ...] = ("aa", "bb")) -> Prepared:
    """Writes a store for each language below `root`."""
    stores, tokenizers = {}, {}
    for language in languages:
        texts = documents(language)
        tokenizer = train_tokenizer(texts, VOCAB)
        corpus = f"tiny:{language}"
        header = StoreHeader(
            corpus=corpus,
            language=language,
            licence="none",
            release="1",
            parallel="",
            split_rule="every sixth document is for testing",
            tokenizer=tokenizer.hash,
            piece_bytes=tuple(tokenizer.byte_lengths.tolist()),
        )
        records = (
            ("test" if i % 6 == 0 else "train", f"{language} {i}", np.array([*tokenizer.encode(text), EOD]))
            for i, text in enumerate(texts)
        )
        stores[corpus] = write_store(root / "data" / "stores" / language, header, records, tokenizer.files())
        tokenizers[corpus] = tokenizer
    return Prepared(stores, tokenizers, {name: name for name in stores})


def run(data: Prepared, languages: tuple[str, ...] = ("aa",), steps: int = 40, **changes) -> RunConfig:
    """A run on equal shares of `languages`, in disjoint vocabularies."""
    sources = [data.source(f"tiny:{name.partition('#')[0]}") for name in languages]
    layout = LayoutConfig.disjoint(
        languages, tuple(data.tokenizer(f"tiny:{name.partition('#')[0]}").hash for name in languages)
    )
    mixture = MixtureConfig(
        tuple(Component(name, source) for name, source in zip(languages, sources, strict=True)),
        layout,
        (Stage(1.0, tuple(1 / len(languages) for _ in languages)),),
    )
    model = ModelConfig("gpt2", 16, 1, 1, 16, 32, data.layout(layout).v_total, CONTEXT)
    config = RunConfig(model, OptimConfig(1e-2, warmup=0.1), mixture, steps, BATCH)
    return dataclasses.replace(config, **changes)
