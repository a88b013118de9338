"""word2vec with one thing that all languages share: does alignment need shared parameters?

Plain word2vec has none, since every language has rows of its own, and its clones did not align in arXiv:2404.07982.
Here the mean of a context's rows passes through one layer, relu(h W + b), before it is compared with output rows: CBOW
with negative sampling in all else, with the settings of `lab.evaluate.word2vec`. Rows learn by plain SGD from the sum
of a sequence's gradients, as if its positions came one by one; the layer, which every position moves, from their mean.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lab.evaluate.embeddings import token_counts
from lab.evaluate.word2vec import MIN_RATE, NEGATIVES, RATE, SAMPLE, WINDOW, Vectors

CHUNK = 64  # sequences a dispatch


class _State(NamedTuple):
    input: jax.Array  # [V, D]
    output: jax.Array  # [V, D]
    kernel: jax.Array  # [D, D]
    bias: jax.Array  # [D]


def cbow(sentences_T: Iterable[np.ndarray], vocab: int, width: int, seed: int = 0) -> Vectors:
    """Trains for one epoch.

    Args:
      sentences_T: token ids of each training sequence, all of one length; iterated over twice.
      vocab: ids in all.
      width: of the vectors.
      seed: of everything that is drawn.

    Returns:
      Rows by id; NaN for ids that were never seen.
    """
    n = 0

    def counted() -> Iterable[np.ndarray]:
        nonlocal n
        for n, ids in enumerate(sentences_T, 1):  # noqa: B007 (the last number is how many there are)
            yield ids

    counts_V = token_counts(counted(), vocab)
    share_V = counts_V / counts_V.sum()
    ratio_V = np.divide(SAMPLE, share_V, out=np.zeros(vocab), where=share_V > 0)
    keep_V = jnp.asarray(np.minimum(np.sqrt(ratio_V) + ratio_V, 1.0), jnp.float32)
    cumulative_V = jnp.asarray(np.cumsum(counts_V**0.75) / (counts_V**0.75).sum(), jnp.float32)

    key = jax.random.key(seed)
    uniform = functools.partial(jax.random.uniform, shape=(vocab, width), minval=-0.5 / width, maxval=0.5 / width)
    kernel = jax.random.normal(jax.random.fold_in(key, 1), (width, width)) * math.sqrt(2 / width)
    state = _State(uniform(jax.random.fold_in(key, 0)), jnp.zeros((vocab, width)), kernel, jnp.zeros(width))
    sentences = iter(sentences_T)
    for first in range(0, n, CHUNK):
        rows = np.stack(list(itertools.islice(sentences, CHUNK)))
        rates = RATE - (RATE - MIN_RATE) * np.arange(first, first + len(rows), dtype=np.float32) / n
        keys = jax.random.split(jax.random.fold_in(key, 2 + first), len(rows))
        state = _learn(state, rows, rates, keys, keep_V, cumulative_V)
    unseen = counts_V == 0
    return Vectors(*(np.where(unseen[:, None], np.nan, np.asarray(rows)) for rows in (state.input, state.output)))


@functools.partial(jax.jit, donate_argnums=0)
def _learn(
    state: _State,
    rows_KxT: jax.Array,
    rates_K: jax.Array,
    keys_K: jax.Array,
    keep_V: jax.Array,
    cumulative_V: jax.Array,
) -> _State:
    def one(state: _State, given: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[_State, None]:
        tokens_T, rate, key = given
        thin, shrink, draw = jax.random.split(key, 3)
        T = len(tokens_T)
        kept_T = jax.random.uniform(thin, (T,)) < keep_V[tokens_T]
        # Words that are left out make room: the window is over those that are kept.
        order_T = jnp.argsort(~kept_T, stable=True)
        tokens_T, kept_T = tokens_T[order_T], kept_T[order_T]
        window_T = jax.random.randint(shrink, (T,), 1, WINDOW + 1)
        offsets_C = jnp.array([o for o in range(-WINDOW, WINDOW + 1) if o])
        places_TxC = jnp.arange(T)[:, None] + offsets_C
        inside_TxC = (places_TxC >= 0) & (places_TxC < T) & (jnp.abs(offsets_C) <= window_T[:, None])
        context_TxC = tokens_T[jnp.clip(places_TxC, 0, T - 1)]
        inside_TxC &= kept_T[jnp.clip(places_TxC, 0, T - 1)]
        negatives_TxN = jnp.searchsorted(cumulative_V, jax.random.uniform(draw, (T, NEGATIVES)))
        targets_TxM = jnp.concatenate([tokens_T[:, None], jnp.minimum(negatives_TxN, len(keep_V) - 1)], axis=1)
        scored_TxM = (kept_T & inside_TxC.any(axis=1))[:, None] & jnp.concatenate(
            [jnp.ones((T, 1), bool), targets_TxM[:, 1:] != tokens_T[:, None]], axis=1
        )

        def loss(parts: _State) -> jax.Array:
            """`parts`: the rows that the sequence uses, [T, C, D] and [T, M, D], and the layer."""
            size_T = jnp.maximum(inside_TxC.sum(axis=1), 1)
            mean_TxD = jnp.where(inside_TxC[..., None], parts.input, 0.0).sum(axis=1) / size_T[:, None]
            h_TxD = jax.nn.relu(mean_TxD @ parts.kernel + parts.bias)
            logits_TxM = jnp.einsum("td,tmd->tm", h_TxD, parts.output)
            right_TxM = jnp.arange(targets_TxM.shape[1]) == 0
            nats_TxM = jax.nn.softplus(jnp.where(right_TxM, -logits_TxM, logits_TxM))
            return jnp.where(scored_TxM, nats_TxM, 0.0).sum()

        used = _State(state.input[context_TxC], state.output[targets_TxM], state.kernel, state.bias)
        slope = jax.grad(loss)(used)
        positions = jnp.maximum(scored_TxM[:, 0].sum(), 1)
        return _State(
            # Each row of a context takes the whole slope of their mean, as word2vec's own code has it.
            state.input.at[context_TxC].add(-rate * slope.input * inside_TxC.sum(axis=1)[:, None, None]),
            state.output.at[targets_TxM].add(-rate * slope.output),
            state.kernel - rate * slope.kernel / positions,
            state.bias - rate * slope.bias / positions,
        ), None

    return jax.lax.scan(one, state, (rows_KxT, rates_K, keys_K))[0]
