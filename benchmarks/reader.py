"""Speed of the training reader in tokens a second: `python benchmarks/reader.py`.

Reads batches of random text as training does (memory-mapped store, vocabulary table, shuffled order) for several
shapes and mixtures, and prints the median over repetitions. The reader is to deliver 20 million tokens a second.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lab.config import Component, LayoutConfig, MixtureConfig, Stage
from lab.data.store import StoreHeader, TokenStore, write_store
from lab.data.stream import ExampleStream
from lab.data.vocabulary import Tokenizer, build_layout, train_tokenizer

TOKENS = 20_000_000
REPETITIONS = 7


def main() -> None:
    tokenizer = train_tokenizer([" ".join(str(i) for i in range(5000))], 400)
    table = Table("mixture", "batch x context", "M tokens/s, median", "lowest", "us a batch")
    with tempfile.TemporaryDirectory() as folder:
        stores = [_store(Path(folder), name, tokenizer, seed) for seed, name in enumerate(("bench:a", "bench:b"))]
        for batch, context in ((32, 128), (16, 256), (128, 512)):
            for name, stream in _streams(stores, tokenizer, batch, context).items():
                rates = _rates(stream, batch * context)
                median = statistics.median(rates)
                row = (f"{median / 1e6:.0f}", f"{min(rates) / 1e6:.0f}", f"{batch * context / median * 1e6:.0f}")
                table.add_row(name, f"{batch} x {context}", *row)
    Console().print(table)


def _store(folder: Path, name: str, tokenizer: Tokenizer, seed: int) -> TokenStore:
    rng = np.random.default_rng(seed)

    def records() -> Iterator[tuple[str, str, np.ndarray]]:
        for d in range(20):
            yield "train", str(d), rng.integers(3, tokenizer.vocab_size, TOKENS // 20)

    header = StoreHeader(
        name, "en", "none", "1", "", "all train", tokenizer.hash, tuple(tokenizer.byte_lengths.tolist())
    )
    return write_store(folder / name.replace(":", "-"), header, records())


def _streams(stores: list[TokenStore], tokenizer: Tokenizer, batch: int, context: int) -> dict[str, ExampleStream]:
    """One language, ten clones of one source, and two sources."""
    by_corpus = {s.manifest.corpus: s for s in stores}
    cases = {
        "one language": ([stores[0]], (1.0,)),
        "10 clones": ([stores[0]] * 10, (0.1,) * 10),
        "2 sources 90/10": (stores, (0.9, 0.1)),
    }
    streams = {}
    for name, (sources, shares) in cases.items():
        languages = tuple(f"l{i}" for i in range(len(sources)))
        layout = LayoutConfig.clones(languages, tokenizer.hash)
        components = tuple(Component(*pair) for pair in zip(languages, (s.source for s in sources), strict=True))
        mixture = MixtureConfig(components, layout, (Stage(1.0, shares),))
        built = build_layout(layout, {tokenizer.hash: tokenizer})
        streams[name] = ExampleStream(mixture, by_corpus, built, context, batch, 10**7, seed_data=0)
    return streams


def _rates(stream: ExampleStream, tokens_a_step: int) -> list[float]:
    steps = max(1, 2_000_000 // tokens_a_step)
    rates = []
    for repetition in range(REPETITIONS):
        start = time.perf_counter()
        for step in range(repetition * steps, (repetition + 1) * steps):
            stream.batch(step)
        rates.append(steps * tokens_a_step / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    main()
