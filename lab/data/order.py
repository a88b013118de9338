"""The order of examples: which window of a store is example i, as a pure function of (seed_data, source, i).

    order = ExampleOrder(store.ids("train"), context=128, source=store.fingerprint, seed_data=0)
    order.windows(start, stop)     # [stop - start] int64: windows that examples start..stop-1 read
    order.tokens(windows)          # [n, context + 1] of the store's integer type

Window w is tokens `w * context` to `(w + 1) * context` inclusive: inputs and their targets overlap by one token, so
that an epoch predicts every token but the first once. Every epoch permutes all windows anew. Randomness uses only
64-bit integer arithmetic, so that no library version can change the order of anybody's data.
"""

from __future__ import annotations

import hashlib

import numpy as np

from lab.config import fingerprint
from lab.errors import LabError

_ROUNDS = 6


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): a bijection of uint64 without visible structure."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _keys(key: str, count: int) -> np.ndarray:
    """[count] uint64 round keys."""
    digest = hashlib.shake_256(key.encode()).digest(8 * count)
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def uniform(key: str, index: np.ndarray) -> np.ndarray:
    """[n] float64 in [0, 1), a pure function of (key, index)."""
    first, second = _keys(key, 2)
    bits = _mix(_mix(index.astype(np.uint64) + first) ^ second)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(key: str, size: int, index: np.ndarray) -> np.ndarray:
    """[n] int64: where a random permutation of `size` things sends each index in [0, size).

    A Feistel network over the next even power of two, walked until it falls below `size`; no memory is needed.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64(2**half - 1)
    keys = _keys(key, _ROUNDS)
    out = index.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        x = out[todo]
        left, right = x >> shift, x & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        x = (left << shift) | right
        out[todo] = x
        todo = todo[x >= np.uint64(size)]
    return out.astype(np.int64)


class ExampleOrder:
    """The examples of one source.

    Args:
      ids: [tokens] the source's flat token ids.
      context: tokens a sequence.
      source: the store's fingerprint.
      seed_data: seed of the order; None reads the windows as they are stored.
      name: the corpus, for error messages.

    Raises:
      LabError: when the corpus is shorter than one window.
    """

    def __init__(self, ids: np.ndarray, context: int, source: str, seed_data: int | None, name: str = "the corpus"):
        if len(ids) < context + 1:
            raise LabError(
                f"{name} has {len(ids)} training tokens, fewer than one context of {context} and its last target.",
                "Give more text or a shorter context.",
            )
        self.context = context
        self.n_windows = (len(ids) - 1) // context
        stride = ids.strides[0]
        self._windows = np.lib.stride_tricks.as_strided(
            ids, (self.n_windows, context + 1), (context * stride, stride), writeable=False
        )
        self._source = source
        self._seed_data = seed_data

    def windows(self, start: int, stop: int) -> np.ndarray:
        """[stop - start] int64: the window of each example in [start, stop)."""
        parts = [np.zeros(0, np.int64)]
        while start < stop:
            epoch, begin = divmod(start, self.n_windows)
            count = min(stop - start, self.n_windows - begin)
            position = np.arange(begin, begin + count)
            if self._seed_data is not None:
                key = fingerprint(["order", self._seed_data, self._source, epoch], 64)
                position = permute(key, self.n_windows, position)
            parts.append(position)
            start += count
        return np.concatenate(parts)

    def tokens(self, windows: np.ndarray) -> np.ndarray:
        """[n, context + 1] token ids of the windows."""
        return self._windows[windows]
