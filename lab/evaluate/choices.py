"""Does a model prefer the right one of several texts? Accuracies without any training, and with a known chance level.

    by_phenomenon = minimal_pairs(cfg, params, encoded_pairs(suite, layout, "l1", cfg.context))
    cloze(cfg, params, cloze_items(evalset, cfg.context), layout.table("l1"))

*Minimal pairs* (BLiMP, arXiv:1912.00582; CLAMS, Mueller et al. 2020, arXiv:2005.00187): of two
sentences a model is right when it gives the grammatical one more probability as a whole, the product over its tokens.
The first token follows an end of document, and no end is scored. Chance is 1/2. The sentences are read as published;
those of CLAMS are lower case, spaced (`l' auteur`) and without a full stop, unlike running text.

*Cloze* is ours, after the idea of StoryCloze (arXiv:1604.01696), which asks for the right ending of a story; no file is
needed. Half a window of a held-out document goes on with the document's next 16 tokens, or with 16 tokens of one of
three other documents: 500 such questions. The model is right when it gives the true ones most probability; chance is
1/4. Cuts fall anywhere, within words as well, for the true text and the others alike.

What is equally probable shares the point: a model that says nothing is at chance exactly.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lab import model
from lab.config import ModelConfig
from lab.data.evalset import EvalSet
from lab.data.suites import Suite
from lab.data.vocabulary import EOD, LanguageLayout
from lab.errors import LabError

ITEMS = 500
OPTIONS = 4
CONTINUATION = 16
PAIR_CHANCE, CLOZE_CHANCE = 0.5, 1 / OPTIONS
_BATCH_TOKENS = 8_192
_SHORTEST = 16  # rows are 16, 32, 64 ... tokens long, up to the context: each length is compiled once


class Accuracy(NamedTuple):
    """The share of right answers among `n`."""

    value: float
    n: int


class Question(NamedTuple):
    """A text [tokens] and what may follow it [options, tokens], the right one first; ids of the total vocabulary."""

    context: np.ndarray
    options: Sequence[np.ndarray]


Tick = Callable[[], None]


def encoded_pairs(suite: Suite, layout: LanguageLayout, language: str, context: int) -> dict[str, list[Question]]:
    """The pairs of a suite by phenomenon, as a language of the model reads them; those longer than the context are out.

    Raises:
      LabError: when the model has no such language, or no pair of a phenomenon fits.
    """
    end = layout.table(language)[EOD : EOD + 1]
    found = {}
    for name, pairs in suite.phenomena.items():
        encoded = [[layout.encode(language, sentence) for sentence in pair] for pair in pairs]
        fitting = [Question(end, both) for both in encoded if max(map(len, both)) <= context]
        if not fitting:
            raise LabError(
                f"No pair of {suite.name} {name} fits a context of {context} tokens.", "Probe models with longer ones."
            )
        found[name] = fitting
    return found


def minimal_pairs(
    cfg: ModelConfig, params: Any, questions: Mapping[str, Sequence[Question]], tick: Tick = lambda: None
) -> dict[str, Accuracy]:
    """Accuracy by phenomenon.

    Args:
      cfg: shape of the decoder.
      params: of it.
      questions: of `encoded_pairs`.
      tick: called after each batch.
    """
    right_n = _right(cfg, params, [one for some in questions.values() for one in some], tick)
    ends = np.cumsum([len(some) for some in questions.values()])
    parts = np.split(right_n, ends[:-1])
    return {name: Accuracy(float(part.mean()), len(part)) for name, part in zip(questions, parts, strict=True)}


@dataclasses.dataclass(frozen=True, eq=False)
class ClozeItems:
    """Questions in the tokenizer's own ids.

    Attributes:
      contexts_NxC: what is read.
      options_Nx4xK: how it goes on: truly, and three times as other documents do.
      text: which text it is, for people and to tell it from another.
    """

    contexts_NxC: np.ndarray
    options_Nx4xK: np.ndarray
    text: str


def cloze_items(evalset: EvalSet, context: int) -> ClozeItems:
    """Questions on held-out text, the same ones for every model of this context: at most `ITEMS`.

    Contexts are half the model's, continuations `CONTINUATION` tokens or what is left of it; both lie within one
    document. Places are drawn evenly from all that fit, those of the wrong continuations from other documents.

    Raises:
      LabError: when fewer than two documents are long enough.
    """
    half = context // 2
    k = min(CONTINUATION, context - half)
    # A place is where a continuation begins, after `half` tokens and `k` before the end of document.
    ranges = [
        np.arange(start + half, end - k) for start, end in zip(evalset.offsets[:-1], evalset.offsets[1:], strict=True)
    ]
    places = np.concatenate(ranges)
    documents = np.repeat(np.arange(len(ranges)), [len(r) for r in ranges])
    if len(np.unique(documents)) < 2:
        raise LabError(
            f"The test text of {evalset.corpus} has no two documents of {half + k + 1} tokens or more.",
            "Give more text, or cut it into longer documents (`?split=`).",
        )
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(places))[:ITEMS]
    options_Nx4 = np.empty((len(chosen), OPTIONS), np.int64)
    options_Nx4[:, 0] = places[chosen]
    firsts = np.searchsorted(documents, np.arange(len(ranges) + 1))
    for row, document in zip(options_Nx4, documents[chosen], strict=True):
        first, last = firsts[document], firsts[document + 1]
        others = rng.integers(len(places) - (last - first), size=OPTIONS - 1)
        row[1:] = places[np.where(others < first, others, others + last - first)]
    return ClozeItems(
        evalset.ids[options_Nx4[:, :1] + np.arange(-half, 0)],
        evalset.ids[options_Nx4[:, :, None] + np.arange(k)],
        f"test text of {evalset.corpus} {evalset.hash}, {half} + {k} tokens",
    )


def cloze(cfg: ModelConfig, params: Any, items: ClozeItems, table: np.ndarray, tick: Tick = lambda: None) -> Accuracy:
    """Accuracy on cloze questions, read by a language's table (`LanguageLayout.table`)."""
    contexts, options = table[items.contexts_NxC], table[items.options_Nx4xK]
    right_n = _right(cfg, params, [Question(c, o) for c, o in zip(contexts, options, strict=True)], tick)
    return Accuracy(float(right_n.mean()), len(right_n))


def _right(cfg: ModelConfig, params: Any, questions: Sequence[Question], tick: Tick) -> np.ndarray:
    """[questions] 1 where the right option is the only most probable one, a share of it where it is one of several."""
    texts = [(one.context, option) for one in questions for option in one.options]
    nats = iter(summed_nats(cfg, params, texts, tick))
    right = []
    for one in questions:
        costs = np.array([next(nats) for _ in one.options])
        best = costs == costs.min()
        right.append(best[0] / best.sum())
    return np.array(right)


def summed_nats(
    cfg: ModelConfig, params: Any, texts: Sequence[tuple[np.ndarray, np.ndarray]], tick: Tick = lambda: None
) -> np.ndarray:
    """[texts] float64 nats of each continuation, summed over its tokens, given what it follows.

    Args:
      cfg: shape of the decoder.
      params: of it.
      texts: (context, continuation), ids of the total vocabulary; together at most one more than `cfg.context`.
      tick: called after each batch.
    """
    lengths = np.array([len(context) + len(text) - 1 for context, text in texts])
    widths = np.minimum(_SHORTEST * 2 ** np.ceil(np.log2(np.maximum(lengths / _SHORTEST, 1))).astype(int), cfg.context)
    nats_n = np.zeros(len(texts))
    for width in np.unique(widths):
        rows, size = np.flatnonzero(widths == width), max(1, _BATCH_TOKENS // int(width))
        waiting = []  # so that a device may work through all of them without a pause
        for first in range(0, len(rows), size):
            tokens_BxT, targets_BxT = np.zeros((2, size, width), np.int32)
            for row, i in enumerate(rows[first : first + size]):
                context, text = texts[i]
                whole = np.concatenate([context, text])
                tokens_BxT[row, : len(whole) - 1] = whole[:-1]
                targets_BxT[row, len(context) - 1 : len(whole) - 1] = text
            waiting.append(_summed(cfg, params, tokens_BxT, targets_BxT))
            tick()
        nats_n[rows] = np.concatenate([np.asarray(part) for part in waiting])[: len(rows)]
    return nats_n


@functools.partial(jax.jit, static_argnums=0)
def _summed(cfg: ModelConfig, params: Any, tokens_BxT: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    # Targets that are padding cost nothing: what is only read, and what fills the row.
    return model.token_nats(cfg, params, tokens_BxT, targets_BxT, compute_dtype=jnp.float32).sum(axis=1)
