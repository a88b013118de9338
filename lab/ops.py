"""Matmul, causal attention and cross-entropy, each chosen for the platform in this one place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def compute_dtype() -> Any:
    """float32 on CPU, which has no fast bfloat16 in XLA; bfloat16 on accelerators."""
    return jnp.dtype(jnp.float32 if on_cpu() else jnp.bfloat16)


def matmul(x: jax.Array, kernel_KxN: jax.Array, out_dtype: Any = None) -> jax.Array:
    """`x [..., K] @ kernel` in the type of x, or in `out_dtype`.

    Rows are flattened first: on CPU the weight gradient of a 3-D input takes three times as long.
    """
    y = jax.lax.dot(
        x.reshape(-1, x.shape[-1]),
        kernel_KxN.astype(x.dtype),
        preferred_element_type=out_dtype or x.dtype,
    )
    return y.reshape(*x.shape[:-1], kernel_KxN.shape[1])


def causal_attention(q_BxTxHxC: jax.Array, k_BxTxHxC: jax.Array, v_BxTxHxC: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q_BxTxHxC, k_BxTxHxC, v_BxTxHxC, is_causal=True)


def cross_entropy(h_NxD: jax.Array, head_DxV: jax.Array, targets_N: jax.Array) -> jax.Array:
    logits = matmul(h_NxD, head_DxV, out_dtype=jnp.float32)
    picked = jnp.take_along_axis(logits, targets_N[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - picked


def weighted_cross_entropy(
    h_NxD: jax.Array, head_DxV: jax.Array, targets_N: jax.Array, weights_N: jax.Array
) -> jax.Array:
    return jnp.sum(cross_entropy(h_NxD, head_DxV, targets_N) * weights_N)
