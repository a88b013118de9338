"""The window-and-stride loss against direct definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.evaluate.perplexity import Protocol, plain, score, sliding, target_nats, window_starts


def last_token_nats(tokens, targets):
    """A 'model' whose loss shows where in its window a target stood and what it was."""
    position = np.arange(tokens.shape[1])[None, -targets.shape[1] :]
    return np.where(targets == 0, 0.0, targets + position / 1000)


@settings(max_examples=60)
@given(st.integers(2, 200), st.integers(1, 12), st.data())
def test_every_target_is_scored_at_most_once_and_with_enough_context(length, window, data):
    stride = data.draw(st.integers(1, window))
    batch = data.draw(st.integers(1, 5))
    stream = np.random.default_rng(length).integers(1, 50, length).astype(np.int32)
    nats = target_nats(last_token_nats, stream, Protocol(window, stride), batch)
    assert nats.shape == (length - 1,)
    for i, value in enumerate(nats):
        if i < window - stride:
            assert math.isnan(value)
        else:
            k, within = divmod(i - (window - stride), stride)
            assert value == pytest.approx(stream[i + 1] + (window - stride + within) / 1000)
            assert k >= 0


def test_plain_loss_scores_every_target_once():
    stream = np.arange(1, 38, dtype=np.int32)
    nats = target_nats(last_token_nats, stream, plain(8), batch=3)
    assert not np.isnan(nats).any()
    assert np.floor(nats).astype(int).tolist() == stream[1:].tolist()


@settings(max_examples=60)
@given(st.integers(2, 200), st.integers(1, 12), st.integers(1, 5))
def test_windows_of_the_plain_loss_are_not_computed_again(length, window, batch):
    stream = np.random.default_rng(length).integers(0, 50, length).astype(np.int32)
    calls = 0

    def counted(tokens, targets):
        nonlocal calls
        calls += 1
        return last_token_nats(tokens, targets)

    whole = target_nats(last_token_nats, stream, plain(window), batch)
    again = target_nats(counted, stream, sliding(window), batch, whole)
    np.testing.assert_array_equal(again, target_nats(last_token_nats, stream, sliding(window), batch))
    assert calls == math.ceil(len(window_starts(length - 1, sliding(window), plain(window))) / batch)


def test_paper_proportions():
    assert sliding(512) == Protocol(512, 128)


def test_padding_targets_are_never_scored():
    stream = np.array([5, 6, 0, 7, 8], np.int32)
    nats = target_nats(last_token_nats, stream, plain(4), batch=1)
    assert np.isnan(nats).tolist() == [False, True, False, False]


def test_bits_per_byte_uses_the_bytes_of_exactly_the_scored_targets():
    nats = np.array([np.nan, 2.0, 3.0, 1.0])
    got = score(nats, np.array([100, 4, 3, 0]), np.array([0, 0, 1, 1]), documents=2)
    assert got.tokens == 3
    assert got.bytes == 7
    assert got.bits_per_byte == pytest.approx(6 / (7 * math.log(2)))
    assert got.loss == pytest.approx(2.0)
    assert got.ppl == pytest.approx(math.exp(2.0))
    assert got.document_nats == (2.0, 4.0)
    assert got.document_tokens == (1, 2)


def test_uniform_model_has_the_vocabulary_as_perplexity():
    stream = np.random.default_rng(0).integers(1, 64, 1000).astype(np.int32)

    def uniform(tokens, targets):
        return np.where(targets == 0, 0.0, math.log(64))

    for protocol in (plain(32), sliding(32)):
        nats = target_nats(uniform, stream, protocol, batch=4)
        assert score(nats, np.ones(999, int), np.zeros(999, int), 1).ppl == pytest.approx(64)
