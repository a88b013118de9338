"""How alike are the rows of two languages' tokens in an embedding? (arXiv:2404.07982, Figures 6 and 7)

    pairs_n = pair_cosines(rows_VxD, first_n, second_n)     # piece i of a language and of its clone
    mean_of_all_pairs(rows_NxD)                             # what cosines are without any alignment
    by_frequency(pairs_n, counts_n)                         # lower edge of a bin -> mean cosine and pieces

Rows are those of the input embedding, of the output head (its transposed kernel) or of word2vec. A row without a
direction (all zeros, or NaN where a token was never seen) has no cosine: NaN, left out of every mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

BINS_PER_DECADE = 4


class Mean(NamedTuple):
    """A mean and how many values it is of; NaN of none."""

    value: float
    n: int

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """The mean of those values that are numbers."""
        numbers = values[~np.isnan(values)]
        return cls(float(numbers.mean()) if numbers.size else math.nan, numbers.size)


def embeddings(params: Any) -> dict[str, np.ndarray]:
    """The rows [V, D] of both embeddings of a decoder, by name."""
    return {"input": np.asarray(params["embed"]["tokens"]), "output": np.asarray(params["head"]["kernel"]).T}


def distinct_pairs(first_V: np.ndarray, second_V: np.ndarray) -> np.ndarray:
    """[n] the tokenizer's ids whose rows in two languages of that tokenizer differ: padding and anchors share one."""
    return np.flatnonzero(first_V != second_V)


def pair_cosines(rows_VxD: np.ndarray, first_n: np.ndarray, second_n: np.ndarray) -> np.ndarray:
    """[n] float64 cosine of row `first_n[i]` and row `second_n[i]`."""
    cosines_n: np.ndarray = np.einsum("nd,nd->n", _unit(rows_VxD[first_n]), _unit(rows_VxD[second_n]))
    return cosines_n


def mean_of_all_pairs(rows_NxD: np.ndarray) -> Mean:
    """The mean of the whole N x N matrix of cosines, its diagonal included, as in the paper's control.

    It is |sum of the unit rows|^2 / N^2: the matrix itself is never made. `n` is N.
    """
    unit_NxD = _unit(rows_NxD)
    unit_NxD = unit_NxD[~np.isnan(unit_NxD).any(axis=1)]
    n = len(unit_NxD)
    return Mean(float(np.square(unit_NxD.sum(axis=0)).sum() / n**2) if n else math.nan, n)


def by_frequency(cosines_n: np.ndarray, counts_n: np.ndarray) -> dict[float, Mean]:
    """Mean cosine by log10 of the piece's count: four bins a decade, each named by its lower edge; no count, no bin."""
    seen = counts_n > 0
    # Rounded first, so that a count of exactly 10 does not fall below its own edge.
    bins = np.floor(np.round(np.log10(counts_n[seen]) * BINS_PER_DECADE, 9))
    means = {float(b / BINS_PER_DECADE): Mean.of(cosines_n[seen][bins == b]) for b in np.unique(bins)}
    return {edge: mean for edge, mean in means.items() if mean.n}


def token_counts(batches_BxT: Iterable[np.ndarray], vocab: int) -> np.ndarray:
    """[vocab] int64: how often each id occurs in the batches."""
    counts = np.zeros(vocab, np.int64)
    for batch in batches_BxT:
        counts += np.bincount(batch.ravel(), minlength=vocab)
    return counts


def _unit(rows_NxD: np.ndarray) -> np.ndarray:
    rows = rows_NxD.astype(np.float64)
    norms_N = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms_N, out=np.full_like(rows, np.nan), where=norms_N > 0)
