"""The decoder against a second, plain reading of the papers, and its properties."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab import model
from lab.config import ModelConfig
from lab.errors import LabError

GPT2 = ModelConfig("gpt2", d_model=24, n_layers=2, n_heads=2, head_dim=8, d_ff=40, vocab=50, context=20)
LLAMA = dataclasses.replace(GPT2, family="llama")
FAMILIES = pytest.mark.parametrize("cfg", [GPT2, LLAMA], ids=["gpt2", "llama"])


init = jax.jit(model.init, static_argnums=0)
apply = jax.jit(model.apply, static_argnums=0, static_argnames="compute_dtype")


def random_params(cfg: ModelConfig) -> Any:
    """Parameters in which nothing is 0 or 1, so that no bias or scale can be forgotten."""
    shapes = jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32), shapes)


def tokens(cfg: ModelConfig, length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, cfg.vocab, (2, length)).astype(np.int32)


def reference_logits(cfg: ModelConfig, params: Any, tokens_T: np.ndarray) -> np.ndarray:
    """One sequence in float64 numpy, position by position, by the papers' words."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    gpt2 = cfg.family == "gpt2"

    def norm(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        if gpt2:
            x = x - x.mean()
            return x / np.sqrt(np.mean(x**2) + 1e-5) * w["scale"] + w["bias"]
        return x / np.sqrt(np.mean(x**2) + 1e-5) * w["scale"]

    def linear(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        return x @ w["kernel"] + (w["bias"] if gpt2 else 0)

    def rotate(x: np.ndarray, t: int) -> np.ndarray:
        half = len(x) // 2
        pairs = x[:half] + 1j * x[half:]
        turned = pairs * np.exp(1j * t * 10_000.0 ** (-np.arange(half) / half))
        return np.concatenate([turned.real, turned.imag])

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = p["embed"]["tokens"][tokens_T]
    if gpt2:
        x = x * math.sqrt(cfg.d_model) + p["embed"]["positions"][: len(tokens_T)]
    for i in range(cfg.n_layers):
        w = jax.tree.map(lambda a, i=i: a[i], p["layers"])
        h = [norm(r, w["norm1"]) for r in x]
        heads = {n: [linear(r, w["attn"][n]).reshape(cfg.n_heads, -1) for r in h] for n in "qkv"}
        if not gpt2:
            for n in "qk":
                heads[n] = [np.stack([rotate(r, t) for r in rows]) for t, rows in enumerate(heads[n])]
        x = x.copy()
        for t in range(len(x)):
            mixed = []
            for j in range(cfg.n_heads):
                score = np.array([heads["q"][t][j] @ heads["k"][s][j] for s in range(t + 1)]) / math.sqrt(cfg.head_dim)
                weight = np.exp(score - score.max())
                weight /= weight.sum()
                mixed.append(sum(a * heads["v"][s][j] for s, a in enumerate(weight)))
            x[t] = x[t] + linear(np.concatenate(mixed), w["attn"]["o"])
        for t in range(len(x)):
            h = norm(x[t], w["norm2"])
            if gpt2:
                inner = gelu(linear(h, w["mlp"]["in"]))
            else:
                gate = linear(h, w["mlp"]["gate"])
                inner = gate / (1 + np.exp(-gate)) * linear(h, w["mlp"]["in"])
            x[t] = x[t] + linear(inner, w["mlp"]["out"])
    return np.stack([norm(r, p["final_norm"]) for r in x]) @ p["head"]["kernel"]


@FAMILIES
def test_logits_are_those_of_a_plain_reading(cfg: ModelConfig) -> None:
    params, ids = random_params(cfg), tokens(cfg, 13)
    got = np.asarray(apply(cfg, params, ids, compute_dtype="float32"))
    for b in range(2):
        np.testing.assert_allclose(got[b], reference_logits(cfg, params, ids[b]), rtol=2e-4, atol=2e-4)


@FAMILIES
def test_initialisation_follows_the_paper(cfg: ModelConfig) -> None:
    big = dataclasses.replace(cfg, d_model=128, d_ff=256, vocab=300, n_heads=8, head_dim=16, n_layers=8)
    params = init(big, jax.random.key(3))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(k.key for k in path)
        assert leaf.dtype == jnp.float32
        if name.endswith("bias"):
            assert not leaf.any(), name
        elif name.endswith("scale"):
            assert (leaf == 1).all(), name
        else:
            rescaled = name == "layers/mlp/out/kernel" and cfg.family == "gpt2"
            want = 0.02 / math.sqrt(16) if rescaled else 0.02
            assert float(leaf.std()) == pytest.approx(want, rel=0.04), name
            assert abs(float(leaf.mean())) < 0.002, name
    layers = params["layers"]["attn"]["q"]["kernel"]
    assert layers.shape == (8, 128, 128)
    assert not np.allclose(layers[0], layers[1])


@FAMILIES
def test_scanned_unrolled_and_rematerialised_layers_agree(cfg: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    params, ids = random_params(cfg), tokens(cfg, 14)

    def gradients(remat: bool) -> Any:
        def loss(p: Any) -> jax.Array:
            return model.mean_nats(cfg, p, ids[:, :-1], ids[:, 1:], remat=remat, compute_dtype="float32")

        return jax.jit(jax.value_and_grad(loss))(params)

    unrolled, remat = gradients(False), gradients(True)
    monkeypatch.setattr(model, "UNROLL_UP_TO", 0)
    scanned, scanned_remat = gradients(False), gradients(True)
    assert jax.tree.structure(jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))) == jax.tree.structure(params)
    for other in (remat, scanned, scanned_remat):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), unrolled, other)


@FAMILIES
def test_losses_come_from_the_logits_and_skip_padding(cfg: ModelConfig) -> None:
    params, ids = random_params(cfg), tokens(cfg, 14)
    inputs, targets = ids[:, :-1], ids[:, 1:].copy()
    targets[0, 5:] = model.PAD
    log_p = jax.nn.log_softmax(apply(cfg, params, inputs, compute_dtype="float32"))
    want = -np.take_along_axis(np.asarray(log_p), targets[..., None], axis=2)[..., 0] * (targets != 0)
    losses = jax.jit(lambda p, x, y: (model.token_nats(cfg, p, x, y), model.mean_nats(cfg, p, x, y)))
    nats, mean = losses(params, inputs, targets)
    np.testing.assert_allclose(nats, want, rtol=1e-4, atol=1e-5)
    last = model.token_nats(cfg, params, inputs, targets[:, -3:], compute_dtype="float32")
    np.testing.assert_allclose(last, want[:, -3:], rtol=1e-4, atol=1e-5)
    assert float(mean) == pytest.approx(want.sum() / (targets != 0).sum(), rel=1e-5)
    assert float(losses(params, inputs, np.zeros_like(targets))[1]) == 0


@FAMILIES
def test_no_position_sees_its_future(cfg: ModelConfig) -> None:
    params, ids = random_params(cfg), tokens(cfg, 12)
    changed = ids.copy()
    changed[:, 7] = (changed[:, 7] + 1) % cfg.vocab
    before, after = (np.asarray(apply(cfg, params, x)) for x in (ids, changed))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert not np.allclose(before[:, 7:], after[:, 7:])


@FAMILIES
def test_bfloat16_stays_near_float32(cfg: ModelConfig) -> None:
    params, ids = init(cfg, jax.random.key(0)), tokens(cfg, 14)

    def loss(p: Any, dtype: str) -> jax.Array:
        return model.mean_nats(cfg, p, ids[:, :-1], ids[:, 1:], compute_dtype=dtype)

    full, half = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, t) for t in ("float32", "bfloat16"))
    assert float(half[0]) == pytest.approx(float(full[0]), rel=2e-3)
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(half[1]))


def test_learned_positions_end_with_the_context() -> None:
    with pytest.raises(LabError, match="21 tokens exceed the model's context of 20"):
        model.apply(GPT2, {}, np.ones((1, 21), np.int32))
