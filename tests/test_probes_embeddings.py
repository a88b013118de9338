"""Cosines of rows against closed forms and brute force; word2vec against what its text says."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import LabError
from lab.evaluate import shared_layer, word2vec
from lab.evaluate.embeddings import (
    Mean,
    by_frequency,
    distinct_pairs,
    mean_of_all_pairs,
    pair_cosines,
    token_counts,
)

N = 5
FIRST, SECOND = np.arange(N), np.arange(N, 2 * N)


def test_identical_rows_have_cosine_1_and_opposite_ones_minus_1():
    base = np.random.default_rng(0).normal(size=(N, 7))
    # Neither length matters.
    np.testing.assert_allclose(pair_cosines(np.vstack([base, 3 * base]), FIRST, SECOND), 1)
    np.testing.assert_allclose(pair_cosines(np.vstack([base, -base / 9]), FIRST, SECOND), -1)


def test_orthogonal_rows_have_cosine_0():
    np.testing.assert_allclose(pair_cosines(np.eye(2 * N), FIRST, SECOND), 0)
    # Of the identity only the diagonal counts: N' ones among N'^2.
    assert mean_of_all_pairs(np.eye(2 * N)) == pytest.approx((1 / (2 * N), 2 * N))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 6))
def test_the_mean_of_all_pairs_is_that_of_the_whole_matrix(seed, rows, width):
    x = np.random.default_rng(seed).normal(size=(rows, width)) + 0.3
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert mean_of_all_pairs(x).value == pytest.approx(float((unit @ unit.T).mean()), abs=1e-12)


def test_rows_without_a_direction_are_left_out():
    rows = np.random.default_rng(0).normal(size=(2 * N, 3))
    rows[1], rows[N + 2] = 0.0, np.nan
    cosines = pair_cosines(rows, FIRST, SECOND)
    assert list(np.isnan(cosines)) == [False, True, True, False, False]
    assert Mean.of(cosines) == (pytest.approx(np.nanmean(cosines)), 3)
    whole = np.delete(rows, [1, N + 2], axis=0)
    assert mean_of_all_pairs(rows) == pytest.approx(mean_of_all_pairs(whole))
    assert Mean.of(np.full(3, np.nan)).n == 0


def test_bins_are_quarter_decades_and_tokens_never_seen_have_none():
    cosines = np.array([0.1, 0.2, 0.4, 0.6, 0.9, 0.5, np.nan])
    counts = np.array([1, 1, 10, 17, 18, 0, 1000])
    got = by_frequency(cosines, counts)
    # log10 17 = 1.23 and log10 18 = 1.26; the row of the count 1000 has no cosine.
    assert got == {0.0: (pytest.approx(0.15), 2), 1.0: (pytest.approx(0.5), 2), 1.25: (pytest.approx(0.9), 1)}


def test_counts_are_over_all_batches():
    batches = [np.array([[0, 1, 1]]), np.array([[1, 3, 3]])]
    assert token_counts(batches, 5).tolist() == [1, 3, 0, 2, 0]


def test_padding_and_anchors_are_no_pairs():
    assert distinct_pairs(np.array([0, 1, 2, 3]), np.array([0, 5, 2, 7])).tolist() == [1, 3]


@pytest.mark.parametrize("cbow", [word2vec.cbow, shared_layer.cbow], ids=["gensim", "shared layer"])
def test_word2vec_aligns_words_that_are_used_alike(cbow):
    if cbow is word2vec.cbow:
        pytest.importorskip("gensim", reason="gensim comes with the extra `probes`")
    # Ids 1 and 11 are used alike, as are 2 and 12: they share their contexts. Id 20 is never seen.
    rng = np.random.default_rng(0)
    groups = {1: (3, 4), 11: (3, 4), 2: (5, 6), 12: (5, 6)}

    def sentence() -> np.ndarray:
        word = rng.choice(list(groups))
        return np.array([x for _ in range(10) for x in (word, rng.choice(groups[word]))])

    sentences = [sentence() for _ in range(1500)]
    vectors = cbow(sentences, vocab=21, width=8)
    assert vectors.input.shape == vectors.output.shape == (21, 8)
    assert np.isnan(vectors.input[20]).all() and not np.isnan(vectors.output[12]).any()
    alike = pair_cosines(vectors.output, np.array([1, 2]), np.array([11, 12]))
    apart = pair_cosines(vectors.output, np.array([1, 2]), np.array([12, 11]))
    assert alike.min() > apart.max()
    again = cbow(sentences, vocab=21, width=8)
    np.testing.assert_array_equal(vectors.input, again.input)


def test_a_word_that_is_always_alone_teaches_nothing():
    # No position has a context, so no row moves: outputs stay zero.
    vectors = shared_layer.cbow([np.array([k % 3]) for k in range(30)], vocab=4, width=5)
    assert not vectors.output[:3].any() and np.isnan(vectors.output[3]).all()


def test_word2vec_without_gensim_says_how_to_get_it(monkeypatch):
    whole = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("gensim"):
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LabError, match=r"scaling-lab\[probes\]"):
        word2vec.cbow([np.array([1, 2])], 3, 2)
