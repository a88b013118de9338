"""Matmul, causal attention and cross-entropy, each chosen for the platform in this one place.

XLA on CPU is slow at three things that a decoder does all the time; the forms here compute the same values:
  - the weight gradient: inputs are flattened to two axes, and the narrower factor is the one that is transposed;
  - attention, whose masked half it computes and whose probabilities it stores: a custom gradient works on query
    chunks, skips the masked chunks and recomputes the probabilities from their log-sum-exp;
  - cross-entropy, whose [tokens, vocabulary] logits it passes through memory many times: a custom gradient works
    on chunks of tokens and forms the gradients while a chunk's logits are at hand, in the forward pass.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

ATTENTION_CHUNK = 64
LOGIT_BYTES = 2**23  # of one chunk of cross-entropy on CPU: about what stays in the cache
LOGIT_BYTES_ACCELERATOR = 2**29


_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """What is traced inside takes the forms of `platform` (cpu, gpu, tpu), whatever this process computes on."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def on_cpu() -> bool:
    return (_platform.get() or jax.default_backend()) == "cpu"


def compute_dtype() -> Any:
    """float32 on CPU, which has no fast bfloat16 in XLA; bfloat16 on accelerators."""
    return jnp.dtype(jnp.float32 if on_cpu() else jnp.bfloat16)


def matmul(x: jax.Array, kernel_KxN: jax.Array, out_dtype: Any = None) -> jax.Array:
    """`x [..., K] @ kernel` in the type of x, or in `out_dtype`."""
    x_MxK, kernel = x.reshape(-1, x.shape[-1]), kernel_KxN.astype(x.dtype)
    y = _matmul(x_MxK, kernel) if out_dtype is None else _dot(x_MxK, kernel, (1, 0), out_dtype)
    return y.reshape(*x.shape[:-1], kernel_KxN.shape[1])


@jax.custom_vjp
def _matmul(x_MxK: jax.Array, kernel_KxN: jax.Array) -> jax.Array:
    return _dot(x_MxK, kernel_KxN, (1, 0), x_MxK.dtype)


def _matmul_fwd(x_MxK: jax.Array, kernel_KxN: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _matmul(x_MxK, kernel_KxN), (x_MxK, kernel_KxN)


def _matmul_bwd(saved: tuple[jax.Array, jax.Array], dy_MxN: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_MxK, kernel_KxN = saved
    return _dot(dy_MxN, kernel_KxN, (1, 1), x_MxK.dtype), _weight_gradient(x_MxK, dy_MxN, kernel_KxN.dtype)


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def _weight_gradient(x_MxK: jax.Array, dy_MxN: jax.Array, dtype: Any) -> jax.Array:
    """x^T dy, [K, N].

    XLA on CPU contracts the first axes of both factors at half its speed or less. The barriers keep it from undoing
    the remedy: a narrow x is transposed in memory first; for a wide one dy^T x is formed, and the result transposed.
    """
    if not on_cpu():
        return _dot(x_MxK, dy_MxN, (0, 0), dtype)
    if x_MxK.shape[1] <= dy_MxN.shape[1]:
        return _dot(lax.optimization_barrier(x_MxK.T), dy_MxN, (1, 0), dtype)
    return lax.optimization_barrier(_dot(dy_MxN, x_MxK, (0, 0), dtype)).T


def causal_attention(q_BxTxHxC: jax.Array, k_BxTxHxC: jax.Array, v_BxTxHxC: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(C)) v over the positions up to each query's own, [B, T, H, C] in the type of q."""
    if not on_cpu():
        return jax.nn.dot_product_attention(q_BxTxHxC, k_BxTxHxC, v_BxTxHxC, is_causal=True)
    B, T, H, C = q_BxTxHxC.shape

    def fold(x: jax.Array) -> jax.Array:
        return x.transpose(0, 2, 1, 3).reshape(B * H, T, C)

    y_NxTxC = chunked_causal_attention(fold(q_BxTxHxC), fold(k_BxTxHxC), fold(v_BxTxHxC))
    return y_NxTxC.reshape(B, H, T, C).transpose(0, 2, 1, 3)


def cross_entropy(h_NxD: jax.Array, head_DxV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Nats of each target, [N] float32, without ever holding all logits. Not meant to be differentiated."""

    def chunk(_: None, args: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        h_MxD, targets_M = args
        logits_MxV = matmul(h_MxD, head_DxV, jnp.float32)
        picked = jnp.take_along_axis(logits_MxV, targets_M[:, None], axis=1)[:, 0]
        return None, jax.nn.logsumexp(logits_MxV, axis=1) - picked

    h_KxMxD, targets_KxM = _chunks(head_DxV.shape[1], h_NxD, targets_N)
    _, nats_KxM = lax.scan(chunk, None, (h_KxMxD, targets_KxM), unroll=_unroll(len(h_KxMxD)))
    return nats_KxM.reshape(-1)[: len(targets_N)]


@jax.custom_vjp
def weighted_cross_entropy(
    h_NxD: jax.Array, head_DxV: jax.Array, targets_N: jax.Array, weights_N: jax.Array
) -> jax.Array:
    """sum_n weights_n * nats_n, a float32 scalar; differentiable by h and head (targets and weights are constants)."""
    return jnp.sum(weights_N * cross_entropy(h_NxD, head_DxV, targets_N))


def _weighted_cross_entropy_fwd(
    h_NxD: jax.Array, head_DxV: jax.Array, targets_N: jax.Array, weights_N: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    head = head_DxV.astype(h_NxD.dtype)

    def chunk(
        carry: tuple[jax.Array, jax.Array], args: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (total, dhead_DxV), (h_MxD, targets_M, weights_M) = carry, args
        logits_MxV = _dot(h_MxD, head, (1, 0), jnp.float32)
        top_M = logits_MxV.max(axis=1, keepdims=True)
        exp_MxV = jnp.exp(logits_MxV - top_M)
        sum_M = exp_MxV.sum(axis=1, keepdims=True)
        picked_M = jnp.take_along_axis(logits_MxV, targets_M[:, None], axis=1)
        nats_M = (jnp.log(sum_M) + top_M - picked_M)[:, 0]
        hot_MxV = lax.broadcasted_iota(jnp.int32, exp_MxV.shape, 1) == targets_M[:, None]
        dlogits_MxV = exp_MxV * (weights_M[:, None] / sum_M) - jnp.where(hot_MxV, weights_M[:, None], 0.0)
        dlogits_MxV = dlogits_MxV.astype(head.dtype)
        dh_MxD = _dot(dlogits_MxV, head, (1, 1), head.dtype)
        dhead_DxV = dhead_DxV + _weight_gradient(h_MxD, dlogits_MxV, jnp.float32)
        return (total + jnp.sum(weights_M * nats_M), dhead_DxV), dh_MxD

    args = _chunks(head.shape[1], h_NxD, targets_N, weights_N)
    zero = (jnp.float32(0), jnp.zeros(head.shape, jnp.float32))
    (total, dhead_DxV), dh_KxMxD = lax.scan(chunk, zero, args, unroll=_unroll(len(args[0])))
    dh_NxD = dh_KxMxD.reshape(-1, h_NxD.shape[1])[: len(h_NxD)]
    return total, (dh_NxD, dhead_DxV.astype(head_DxV.dtype))


def _weighted_cross_entropy_bwd(
    gradients: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    dh_NxD, dhead_DxV = gradients
    return dh_NxD * g.astype(dh_NxD.dtype), dhead_DxV * g.astype(dhead_DxV.dtype), None, None


weighted_cross_entropy.defvjp(_weighted_cross_entropy_fwd, _weighted_cross_entropy_bwd)


def _chunks(vocab: int, *arrays_N: jax.Array) -> tuple[jax.Array, ...]:
    """Cuts arrays into equal chunks of tokens [K, M, ...] whose logits are small, padding the end with zeros."""
    n = len(arrays_N[0])
    k = max(1, math.ceil(n * vocab * 4 / (LOGIT_BYTES if on_cpu() else LOGIT_BYTES_ACCELERATOR)))
    m = math.ceil(n / k)
    return tuple(jnp.pad(a, [(0, k * m - n)] + [(0, 0)] * (a.ndim - 1)).reshape(k, m, *a.shape[1:]) for a in arrays_N)


def _unroll(n: int) -> int:
    return n if n <= 8 else 1


@jax.custom_vjp
def chunked_causal_attention(q_NxTxC: jax.Array, k_NxTxC: jax.Array, v_NxTxC: jax.Array) -> jax.Array:
    """Causal attention of N independent heads, by chunks of queries against the keys before their end."""
    return _attention_fwd(q_NxTxC, k_NxTxC, v_NxTxC)[0]


def _attention_fwd(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    out, lse = [], []
    for start, stop in _query_chunks(q.shape[1]):
        scores = _scores(q, k, start, stop)
        top = scores.max(axis=2, keepdims=True)
        p = jnp.exp(scores - top)
        total = p.sum(axis=2, keepdims=True)
        out.append(_bdot(p, v[:, :stop], (2, 1)) / total)
        lse.append(top + jnp.log(total))
    y = jnp.concatenate(out, axis=1)
    return y, (q, k, v, y, jnp.concatenate(lse, axis=1))


def _attention_bwd(saved: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, y, lse = saved
    scale = 1 / math.sqrt(q.shape[2])
    mean = (dy * y).sum(axis=2, keepdims=True)
    dq: list[jax.Array] = []
    # [N, C, T] accumulators: their matmuls are faster than those of [N, T, C] ones.
    q_t, dy_t = q.swapaxes(1, 2), dy.swapaxes(1, 2)
    dk_t = dv_t = jnp.zeros_like(q_t)
    for start, stop in reversed(_query_chunks(q.shape[1])):
        p = jnp.exp(_scores(q, k, start, stop) - lse[:, start:stop])
        dp = _bdot(dy[:, start:stop], v[:, :stop], (2, 2))
        ds = p * (dp - mean[:, start:stop]) * scale
        dq.append(_bdot(ds, k[:, :stop], (2, 1)))
        dk_t = dk_t.at[:, :, :stop].add(_bdot(q_t[:, :, start:stop], ds, (2, 1)))
        dv_t = dv_t.at[:, :, :stop].add(_bdot(dy_t[:, :, start:stop], p, (2, 1)))
    return jnp.concatenate(dq[::-1], axis=1), dk_t.swapaxes(1, 2), dv_t.swapaxes(1, 2)


chunked_causal_attention.defvjp(_attention_fwd, _attention_bwd)


def _query_chunks(length: int) -> list[tuple[int, int]]:
    """At most 16 chunks, so that the program stays small for long contexts."""
    size = ATTENTION_CHUNK * math.ceil(length / (16 * ATTENTION_CHUNK))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _scores(q: jax.Array, k: jax.Array, start: int, stop: int) -> jax.Array:
    scores = _bdot(q[:, start:stop], k[:, :stop], (2, 2)) * (1 / math.sqrt(q.shape[2]))
    query = lax.broadcasted_iota(jnp.int32, scores.shape, 1) + start
    key = lax.broadcasted_iota(jnp.int32, scores.shape, 2)
    return jnp.where(key <= query, scores, -jnp.inf)


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int], dtype: Any) -> jax.Array:
    return lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=dtype)


def _bdot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    return lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((0,), (0,))))
