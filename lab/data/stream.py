"""What training reads: batches as a pure function of the step.

    stream = ExampleStream(mixture, {"embedded:en": store}, layout, context, batch, n_sequences, seed_data)
    stream.batch(step)            # Batch(tokens_BxT1, component_B, example_ids_B)
    stream.realised(step)         # tokens by language, epochs and unique tokens before that step
    consumed = chain(consumed, batch)   # running hash of everything consumed, for resume checks

Sequence j of the run is row `j % batch` of step `j // batch`. Its component comes from the mixture's plan. Components
of one source share one counter, unless they have one of their own, so each text is read once an epoch, by whichever
component the plan names. A longer run or a larger batch therefore sees the same sequences in the same order, and
resuming needs the step alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from lab.config import MixtureConfig, Source
from lab.data.mixture import ComponentPlan
from lab.data.order import ExampleOrder
from lab.data.store import TokenStore
from lab.data.vocabulary import LanguageLayout
from lab.errors import LabError

_BLOCK = 1 << 13
_BLOCKS_KEPT = 64


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step's examples.

    Attributes:
      tokens_BxT1: [batch, context + 1] int32 ids of the total vocabulary; targets are inputs shifted by one.
      component_B: [batch] int8 index into the mixture's components.
      example_ids_B: [batch] int64 window of the component's source.
    """

    tokens_BxT1: np.ndarray
    component_B: np.ndarray
    example_ids_B: np.ndarray


@dataclasses.dataclass(frozen=True)
class Realised:
    """What the first steps of a run consumed, by language.

    Attributes:
      tokens: target tokens seen.
      unique_tokens: target tokens of distinct windows seen in this language.
      epochs: passes over the language's source, by all languages that share its counter.
    """

    tokens: dict[str, int]
    unique_tokens: dict[str, int]
    epochs: dict[str, float]


class ExampleStream:
    """The training examples of one run, addressed by step.

    Args:
      mixture: components, shares and sampling.
      stores: by corpus name, as the mixture's sources name them.
      layout: the tables of `mixture.layout`.
      context: tokens a sequence.
      batch: sequences a step.
      n_sequences: sequences of the whole run, of which the stages are fractions.
      seed_data: seed of the order; None reads every source as it is stored.

    Raises:
      LabError: when a store is missing, is not the one the mixture names, does not match the layout's tokenizer, or
        is shorter than a context.
    """

    def __init__(
        self,
        mixture: MixtureConfig,
        stores: Mapping[str, TokenStore],
        layout: LanguageLayout,
        context: int,
        batch: int,
        n_sequences: int,
        seed_data: int | None,
        split: str = "train",
    ):
        self.mixture = mixture
        self.context, self.batch_size, self.n_sequences = context, batch, n_sequences
        self.languages = tuple(c.language for c in mixture.components)
        self._plan = ComponentPlan(mixture, n_sequences, seed_data or 0)
        starts = {c.reading: c.start or 0 for c in mixture.components}
        readings = list(starts)
        self._orders = [
            ExampleOrder(_store_of(s, stores).ids(split), context, s.store, seed_data, s.corpus) for s, _ in readings
        ]
        self._starts = np.array(list(starts.values()), np.int64)
        self._reading_of = np.array([readings.index(c.reading) for c in mixture.components])
        tables = [layout.table(language) for language in self.languages]
        for component, table in zip(mixture.components, tables, strict=True):
            _check_vocabulary(component.language, stores[component.source.corpus], layout, table)
        self._width = max(len(t) for t in tables)
        self._tables = np.zeros((len(tables), self._width), np.int32)
        for c, table in enumerate(tables):
            self._tables[c, : len(table)] = table
        # Sequences that each component got before each block, so that any block can be found from integers alone.
        self._before = [np.zeros(len(tables), np.int64)]
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def batch(self, step: int) -> Batch:
        """The examples of step `step`, counted from 0."""
        component, windows = self._sequences(step * self.batch_size, (step + 1) * self.batch_size)
        raw = self._raw(component, windows)
        if len(self._tables) == 1:
            tokens = self._tables[0].take(raw)
        else:
            tokens = self._tables.ravel().take(raw + (component.astype(np.int64) * self._width)[:, None])
        return Batch(tokens, component, windows)

    def realised(self, step: int) -> Realised:
        """What steps 0 to `step` - 1 consumed."""
        n = step * self.batch_size
        counts = self._counts(n)
        by_reading = np.bincount(self._reading_of, weights=counts, minlength=len(self._orders)).astype(np.int64)
        tokens, unique, epochs = {}, {}, {}
        for c, language in enumerate(self.languages):
            r = self._reading_of[c]
            windows = self._orders[r].n_windows
            into = int(self._starts[r]) % windows
            if into + by_reading[r] <= windows:
                distinct = int(counts[c])
            elif into == 0 and counts[c] == by_reading[r]:
                distinct = min(int(counts[c]), windows)
            else:
                distinct = self._distinct(c, n)
            tokens[language] = int(counts[c]) * self.context
            unique[language] = distinct * self.context
            epochs[language] = float(by_reading[r] / windows)
        return Realised(tokens, unique, epochs)

    def _raw(self, component: np.ndarray, windows: np.ndarray) -> np.ndarray:
        if len(self._orders) == 1:
            return self._orders[0].tokens(windows)
        reading = self._reading_of[component]
        raw = np.empty((len(windows), self.context + 1), np.uint32)
        for r, order in enumerate(self._orders):
            rows = np.flatnonzero(reading == r)
            if len(rows):
                raw[rows] = order.tokens(windows[rows])
        return raw

    def _sequences(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for block in range(start // _BLOCK, (stop - 1) // _BLOCK + 1):
            component, windows = self._block(block)
            inside = slice(max(0, start - block * _BLOCK), stop - block * _BLOCK)
            parts.append((component[inside], windows[inside]))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Component and window of the block's sequences."""
        if block in self._blocks:
            return self._blocks[block]
        component = self._plan.components(block * _BLOCK, (block + 1) * _BLOCK)
        counts = np.bincount(self._reading_of, weights=self._counts(block * _BLOCK), minlength=len(self._orders))
        before = self._starts + counts.astype(np.int64)
        windows = np.empty(_BLOCK, np.int64)
        reading = self._reading_of[component]
        for r, order in enumerate(self._orders):
            rows = np.flatnonzero(reading == r)
            windows[rows] = order.windows(int(before[r]), int(before[r]) + len(rows))
        self._blocks[block] = component, windows
        if len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return component, windows

    def _counts(self, n: int) -> np.ndarray:
        """[components] int64: how many of the first `n` sequences each component got."""
        k = len(self.languages)
        while len(self._before) <= n // _BLOCK:
            b = len(self._before) - 1
            block = self._plan.components(b * _BLOCK, (b + 1) * _BLOCK)
            self._before.append(self._before[-1] + np.bincount(block, minlength=k))
        rest = self._plan.components(n // _BLOCK * _BLOCK, n)
        return self._before[n // _BLOCK] + np.bincount(rest, minlength=k)

    def _distinct(self, c: int, n: int) -> int:
        seen = np.zeros(self._orders[self._reading_of[c]].n_windows, bool)
        for start in range(0, n, _BLOCK):
            component, windows = self._sequences(start, min(n, start + _BLOCK))
            seen[windows[component == c]] = True
        return int(seen.sum())


def chain(previous: str, batch: Batch) -> str:
    """The running hash of consumed examples after `batch`; it starts from the empty string.

    It does not depend on how the run was cut into resumptions, and does depend on the batch size.
    """
    digest = hashlib.sha256(previous.encode())
    digest.update(np.ascontiguousarray(batch.component_B, "<i1").data)
    digest.update(np.ascontiguousarray(batch.example_ids_B, "<i8").data)
    return digest.hexdigest()


def _store_of(source: Source, stores: Mapping[str, TokenStore]) -> TokenStore:
    if source.corpus not in stores:
        raise LabError(f"There is no token store of {source.corpus}.", f"Run `lab data prepare {source.corpus}`.")
    store = stores[source.corpus]
    if store.fingerprint != source.store:
        raise LabError(
            f"The store of {source.corpus} is {store.fingerprint}, but the run was made with {source.store}.",
            "Its text, tokenizer or splits have changed: prepare the original again, or start a new run.",
        )
    return store


def _check_vocabulary(language: str, store: TokenStore, layout: LanguageLayout, table: np.ndarray) -> None:
    expected = layout.tokenizers[language].hash
    if store.manifest.tokenizer != expected:
        raise LabError(
            f"The store of {store.manifest.corpus} was written with tokenizer {store.manifest.tokenizer}, but the "
            f"layout reads {language!r} with {expected}.",
            "Prepare the corpus with the vocabulary of this run.",
        )
    if len(table) != store.manifest.vocab_size:
        raise LabError(
            f"The table of {language!r} has {len(table)} ids for a vocabulary of {store.manifest.vocab_size}."
        )
