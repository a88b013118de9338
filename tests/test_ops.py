"""The forms made for CPU compute what plain JAX computes, gradients included."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import ops


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    scores = jnp.einsum("bthc,bshc->bhts", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(np.tri(q.shape[1], dtype=bool), scores, -jnp.inf)
    return jnp.einsum("bhts,bshc->bthc", jax.nn.softmax(scores, axis=-1), v)


def plain_cross_entropy(h: jax.Array, head: jax.Array, targets: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(h @ head), targets[:, None], axis=1)[:, 0]


def close(got: object, want: object) -> None:
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5)


@settings(max_examples=8)
@given(
    length=st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 128, 150, 193])),
    heads=st.integers(1, 3),
    width=st.sampled_from([4, 10, 16]),
    seed=st.integers(0, 1000),
)
def test_causal_attention(length: int, heads: int, width: int, seed: int) -> None:
    q, k, v, weight = (normal(seed + i, 2, length, heads, width) for i in range(4))

    @jax.jit
    def both(*qkv: jax.Array) -> list[object]:
        out = []
        for attention in (ops.causal_attention, plain_attention):
            y, pull = jax.vjp(attention, *qkv)
            out.append((y, pull(weight)))
        return out

    close(*both(q, k, v))


def test_attention_of_large_scores_stays_finite() -> None:
    q, k, v = (100 * normal(i, 1, 70, 1, 8) for i in range(3))
    close(ops.causal_attention(q, k, v) / 100, plain_attention(q, k, v) / 100)
    grads = jax.jit(jax.grad(lambda *qkv: ops.causal_attention(*qkv).sum(), (0, 1, 2)))(q, k, v)
    assert all(bool(jnp.isfinite(g).all()) for g in grads)


def test_long_contexts_keep_the_program_small() -> None:
    chunks = ops._query_chunks(5000)
    assert len(chunks) <= 16
    assert chunks[0][0] == 0 and chunks[-1][1] == 5000
    assert all(a[1] == b[0] for a, b in itertools.pairwise(chunks))


@settings(max_examples=8)
@given(
    tokens=st.integers(1, 50),
    width=st.sampled_from([1, 6]),
    vocab=st.integers(2, 40),
    chunk_bytes=st.sampled_from([64, 500, 2**20]),
    seed=st.integers(0, 1000),
)
def test_cross_entropy(tokens: int, width: int, vocab: int, chunk_bytes: int, seed: int) -> None:
    h, head = normal(seed, tokens, width), normal(seed + 1, width, vocab)
    rng = np.random.default_rng(seed)
    targets = jnp.asarray(rng.integers(0, vocab, tokens), jnp.int32)
    weights = jnp.asarray(rng.uniform(size=tokens) * (rng.uniform(size=tokens) < 0.8), jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "LOGIT_BYTES", chunk_bytes)  # so that small cases have several chunks, and a partial one
        patch.setattr(ops, "LOGIT_BYTES_ACCELERATOR", chunk_bytes)
        nats = jax.jit(ops.cross_entropy)(h, head, targets)
        close(nats, plain_cross_entropy(h, head, targets))

        def fused(h: jax.Array, head: jax.Array) -> jax.Array:
            return 3 * ops.weighted_cross_entropy(h, head, targets, weights)

        def plain(h: jax.Array, head: jax.Array) -> jax.Array:
            return 3 * jnp.sum(weights * plain_cross_entropy(h, head, targets))

        got, want = jax.jit(lambda *a: [jax.value_and_grad(f, (0, 1))(*a) for f in (fused, plain)])(h, head)
    close(got, want)


@settings(max_examples=8)
@given(tokens=st.integers(1, 20), inputs=st.integers(1, 9), outputs=st.integers(1, 9), seed=st.integers(0, 1000))
def test_gradients_of_matmul(tokens: int, inputs: int, outputs: int, seed: int) -> None:
    x, kernel, weight = normal(seed, 2, tokens, inputs), normal(seed + 1, inputs, outputs), normal(seed + 2, outputs)

    def gradients(matmul: Callable[..., jax.Array]) -> object:
        return jax.grad(lambda x, kernel: jnp.sum(jnp.tanh(matmul(x, kernel)) * weight), (0, 1))(x, kernel)

    close(gradients(jax.jit(ops.matmul)), gradients(jnp.matmul))


def test_matmul_flattens_and_keeps_types() -> None:
    x, kernel = normal(0, 2, 3, 4), normal(1, 4, 5)
    close(ops.matmul(x, kernel), x @ kernel)
    half = ops.matmul(x.astype(jnp.bfloat16), kernel)
    assert half.dtype == jnp.bfloat16 and half.shape == (2, 3, 5)
    assert ops.matmul(x.astype(jnp.bfloat16), kernel, jnp.float32).dtype == jnp.float32
