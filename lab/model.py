"""The decoder, behind pure functions of a frozen config and a float32 parameter tree.

    params       = init(cfg, key)
    logits_BxTxV = apply(cfg, params, tokens_BxT)
    loss         = mean_nats(cfg, params, tokens_BxT, targets_BxT)      # what training differentiates
    nats_BxS     = token_nats(cfg, params, tokens_BxT, targets_BxS)     # what evaluation sums
    h_LxBxTxD    = residual(cfg, params, tokens_BxT)                    # what probes look at

The tree is the same however the layers run: every leaf under `layers` has a leading axis of length `n_layers`.

    embed/{tokens VxD, positions TxD (gpt2)}
    layers/{norm1, attn/{q,k,v,o}, norm2, mlp/{in,out} or mlp/{gate,in,out} (llama)}
    final_norm, head/kernel DxV

Kernels are [inputs, outputs]. Target id 0 is padding: it costs 0 nats and does not count in the mean.

With `cfg.base_width` the decoder is in muP, in the form of arXiv:2203.03466, Table 8, relative to that width. With
m = d_model / base_width (heads and feed-forward are taken to grow in proportion):

                      standard deviation   multiplier        Adam's rate (`lab.optim`)
  embeddings          as in the standard   base, not d (a)   1
  biases and norms    as in the standard   1                 1
  hidden kernels      1 / sqrt(m)          1                 1 / m
  head                as in the standard   1 / m             1
  attention scores                         1 / head_dim      instead of 1 / sqrt(head_dim)

(a) gpt2 multiplies its token embeddings by sqrt(d_model), which would grow with width: by sqrt(base_width) in muP.
At m = 1 only the attention scores differ from the standard parametrisation.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

from lab import ops
from lab.config import ModelConfig
from lab.errors import LabError
from lab.sharding import gathered, spread_batch

Params: TypeAlias = dict[str, Any]

PAD = 0
NORM_EPS = 1e-5  # arXiv:2404.07982's code, and LLaMA-2
INIT_STD = 0.02
ROPE_BASE = 10_000.0
# On CPU unrolled layers train 25 % (4 layers of 64), 20 % (6 of 96), 11 % (10 of 160) faster than scanned ones, but
# from about 8 layers on they take four times as long to compile (10 layers: 17 s against 4 s).
UNROLL_UP_TO = 8


def init(cfg: ModelConfig, key: jax.Array) -> Params:
    """Draws the parameters (float32, one nested dict).

    gpt2 (arXiv:2404.07982, its code): every matrix and embedding N(0, 0.02), but the MLP's output
    N(0, 0.02 / sqrt(2 L)); the attention's output is not rescaled; biases 0, norm scales 1.
    llama: arXiv:2407.02118 names LLaMA-2 and no initialiser; every matrix and embedding N(0, 0.02), norm scales 1.
    muP: the same at the base width; hidden kernels shrink with the square root of the width.
    """
    decoder = _Decoder(cfg, jnp.float32, remat=False)
    params: Params = decoder.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
    return params


def apply(
    cfg: ModelConfig, params: Params, tokens_BxT: jax.Array, *, remat: bool = False, compute_dtype: Any = None
) -> jax.Array:
    """Logits [B, T, V] in float32 for the token after each position.

    Args:
      cfg: the shape.
      params: a tree that `init` made.
      tokens_BxT: ids in [0, cfg.vocab).
      remat: recompute each layer in the backward pass instead of storing its activations.
      compute_dtype: of activations and matmul operands; by default bfloat16 on accelerators, float32 on CPU.

    Raises:
      LabError: if T exceeds `cfg.context` and positions are learned.
    """
    h_BxTxD, head_DxV = _hidden(cfg, params, tokens_BxT, remat, compute_dtype)
    return ops.matmul(h_BxTxD, head_DxV, out_dtype=jnp.float32)


def token_nats(
    cfg: ModelConfig,
    params: Params,
    tokens_BxT: jax.Array,
    targets_BxS: jax.Array,
    *,
    remat: bool = False,
    compute_dtype: Any = None,
) -> jax.Array:
    """Negative log-likelihood in nats of the targets of the last S positions, [B, S] float32; 0 for padding."""
    h_BxTxD, head_DxV = _hidden(cfg, params, tokens_BxT, remat, compute_dtype)
    h_BxSxD = h_BxTxD[:, h_BxTxD.shape[1] - targets_BxS.shape[1] :]
    nats_N = ops.cross_entropy(h_BxSxD.reshape(-1, cfg.d_model), head_DxV, targets_BxS.reshape(-1))
    return jnp.where(targets_BxS == PAD, 0.0, nats_N.reshape(targets_BxS.shape))


def mean_nats(
    cfg: ModelConfig,
    params: Params,
    tokens_BxT: jax.Array,
    targets_BxT: jax.Array,
    *,
    remat: bool = False,
    compute_dtype: Any = None,
) -> jax.Array:
    """Mean nats a target, padding left out: the training loss, a float32 scalar (0 if all targets are padding)."""
    h_BxTxD, head_DxV = _hidden(cfg, params, tokens_BxT, remat, compute_dtype)
    scored_N = (targets_BxT != PAD).reshape(-1).astype(jnp.float32)
    weights_N = scored_N / jnp.maximum(scored_N.sum(), 1.0)
    return ops.weighted_cross_entropy(h_BxTxD.reshape(-1, cfg.d_model), head_DxV, targets_BxT.reshape(-1), weights_N)


def residual(cfg: ModelConfig, params: Params, tokens_BxT: jax.Array, *, compute_dtype: Any = None) -> jax.Array:
    """The residual stream after every block, before the final norm: [L, B, T, D] in the compute type."""
    _, kept = _decode(cfg, params, tokens_BxT, False, compute_dtype, mutable=["intermediates"])
    outputs: jax.Array = kept["intermediates"]["layers"]["residual"][0]
    return outputs


def _hidden(
    cfg: ModelConfig, params: Params, tokens_BxT: jax.Array, remat: bool, compute_dtype: Any
) -> tuple[jax.Array, jax.Array]:
    h_BxTxD, head_DxV = _decode(cfg, params, tokens_BxT, remat, compute_dtype)
    return h_BxTxD, head_DxV


def _decode(
    cfg: ModelConfig, params: Params, tokens_BxT: jax.Array, remat: bool, compute_dtype: Any, **options: Any
) -> Any:
    if cfg.family == "gpt2" and tokens_BxT.shape[1] > cfg.context:
        raise LabError(f"Sequences of {tokens_BxT.shape[1]} tokens exceed the model's context of {cfg.context}.")
    dtype = ops.compute_dtype() if compute_dtype is None else jnp.dtype(compute_dtype)
    return _Decoder(cfg, dtype, remat).apply({"params": params}, tokens_BxT, **options)


_normal = nn.initializers.normal


def _hidden_std(cfg: ModelConfig) -> float:
    return INIT_STD / math.sqrt(cfg.width_ratio)


class _Linear(nn.Module):
    features: int
    use_bias: bool
    std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _normal(self.std), (x.shape[-1], self.features))
        y = ops.matmul(x, kernel)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y


class _Norm(nn.Module):
    """LayerNorm with bias (gpt2) or RMSNorm (llama); statistics in float32."""

    centred: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = x.astype(jnp.float32)
        if self.centred:
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + NORM_EPS)
        y = y * self.param("scale", nn.initializers.ones, (width,))
        if self.centred:
            y = y + self.param("bias", nn.initializers.zeros, (width,))
        return y.astype(x.dtype)


class _Attention(nn.Module):
    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        cfg, (B, T, D) = self.cfg, x_BxTxD.shape
        bias, width, std = cfg.family == "gpt2", cfg.n_heads * cfg.head_dim, _hidden_std(cfg)
        q, k, v = (
            _Linear(width, bias, std, name=name)(x_BxTxD).reshape(B, T, cfg.n_heads, cfg.head_dim) for name in "qkv"
        )
        if cfg.family == "llama":
            q, k = _rotate(q), _rotate(k)
        if cfg.base_width is not None:
            q = q * cfg.head_dim**-0.5  # on top of the 1 / sqrt(head_dim) of `causal_attention`
        y_BxTxHxC = ops.causal_attention(q, k, v)
        return _Linear(D, bias, std, name="o")(y_BxTxHxC.reshape(B, T, width))


class _Mlp(nn.Module):
    cfg: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        D, F, std = self.cfg.d_model, self.cfg.d_ff, _hidden_std(self.cfg)
        if self.cfg.family == "llama":
            hidden = jax.nn.silu(_Linear(F, False, std, name="gate")(x)) * _Linear(F, False, std, name="in")(x)
            return _Linear(D, False, std, name="out")(hidden)
        hidden = jax.nn.gelu(_Linear(F, True, std, name="in")(x), approximate=True)
        return _Linear(D, True, std / math.sqrt(2 * self.cfg.n_layers), name="out")(hidden)


class _Block(nn.Module):
    cfg: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        centred = self.cfg.family == "gpt2"
        x = x + _Attention(self.cfg, name="attn")(_Norm(centred, name="norm1")(x))
        x = x + _Mlp(self.cfg, name="mlp")(_Norm(centred, name="norm2")(x))
        x = spread_batch(x)
        self.sow("intermediates", "residual", x)  # nothing, unless `residual` asks for it
        return x, None


class _Embed(nn.Module):
    cfg: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        cfg = self.cfg
        table_VxD = self.param("tokens", _normal(INIT_STD), (cfg.vocab, cfg.d_model))
        x_BxTxD = gathered(table_VxD)[tokens_BxT]
        if cfg.family == "gpt2":
            positions = self.param("positions", _normal(INIT_STD), (cfg.context, cfg.d_model))
            x_BxTxD = x_BxTxD * math.sqrt(cfg.base_width or cfg.d_model) + positions[: tokens_BxT.shape[1]]
        return spread_batch(x_BxTxD.astype(self.dtype))


class _Decoder(nn.Module):
    """Returns the normalised last hidden state [B, T, D], times the head's multiplier, and the head's kernel [D, V]."""

    cfg: ModelConfig
    dtype: Any
    remat: bool

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
        cfg = self.cfg
        x_BxTxD = _Embed(cfg, self.dtype, name="embed")(tokens_BxT)
        block = nn.remat(_Block, prevent_cse=cfg.n_layers <= UNROLL_UP_TO) if self.remat else _Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=cfg.n_layers,
            unroll=cfg.n_layers if cfg.n_layers <= UNROLL_UP_TO else 1,
        )(cfg, name="layers")
        x_BxTxD, _ = layers(x_BxTxD, None)
        x_BxTxD = _Norm(cfg.family == "gpt2", name="final_norm")(x_BxTxD)
        if cfg.base_width is not None:
            x_BxTxD = x_BxTxD / cfg.width_ratio  # the head's multiplier
        return x_BxTxD, _Head(cfg, name="head")()


class _Head(nn.Module):
    cfg: ModelConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        kernel: jax.Array = self.param("kernel", _normal(INIT_STD), (self.cfg.d_model, self.cfg.vocab))
        return kernel


def _rotate(x_BxTxHxC: jax.Array) -> jax.Array:
    """Rotary positions (arXiv:2104.09864, eq. 34), with the two halves of a head as the pairs."""
    T, C = x_BxTxHxC.shape[1], x_BxTxHxC.shape[3]
    frequency = ROPE_BASE ** (-jnp.arange(0, C, 2, dtype=jnp.float32) / C)
    angle_TxC2 = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency
    cos, sin = jnp.cos(angle_TxC2)[:, None, :], jnp.sin(angle_TxC2)[:, None, :]
    a, b = jnp.split(x_BxTxHxC.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxHxC.dtype)
