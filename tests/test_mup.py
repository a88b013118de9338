"""muP: at the base width the standard model, elsewhere activations that move alike at every width."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab import model
from lab.config import ModelConfig, OptimConfig, canonical, from_json, to_json
from lab.errors import LabError
from lab.optim import adamw, hyper_of, stack
from lab.sharding import make_mesh
from lab.step import Program, init_state, train_steps

BASE, WIDTHS = 64, (64, 128, 256, 512)
FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama"])
INIT, APPLY = (jax.jit(f, static_argnums=0) for f in (model.init, model.apply))


def shape(width: int, family: Any = "gpt2", base: int | None = BASE) -> ModelConfig:
    return ModelConfig(family, width, 1, width // 16, 16, 2 * width, vocab=48, context=12, base_width=base)


@functools.partial(jax.jit, static_argnums=0)
def activations(cfg: ModelConfig, params: Any, ids_BxT: np.ndarray) -> dict[str, jax.Array]:
    """Output of the embedding and of every block (in the residual stream), and the logits."""
    x = model._Embed(cfg, jnp.float32).apply({"params": params["embed"]}, ids_BxT)
    found = {"embed": x}
    for i in range(cfg.n_layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        x, _ = model._Block(cfg).apply({"params": layer}, x)
        found[f"block {i}"] = x
    found["logits"] = model.apply(cfg, params, ids_BxT, compute_dtype="float32")
    return found


def movement(cfg: ModelConfig, rate: float, updates: int = 5) -> dict[str, float]:
    """Root mean square change of every activation over a few updates at a constant rate."""
    program = Program(cfg, make_mesh(), compute_dtype="float32")
    ids = np.random.default_rng(0).integers(1, cfg.vocab, (1, 1, 8, cfg.context + 1), np.int32)  # [K, R, B, T + 1]
    state = init_state(program, [3])
    before = activations(cfg, jax.tree.map(lambda x: x[0], state.params), ids[0, 0, :, :-1])
    hyper = stack([hyper_of(OptimConfig(rate, "constant", warmup=0), 100)])
    state, metrics = train_steps(program, state, np.tile(ids, (updates, 1, 1, 1)), hyper)
    assert metrics.applied.all()
    after = activations(cfg, jax.tree.map(lambda x: x[0], state.params), ids[0, 0, :, :-1])
    return {name: float(np.sqrt(np.mean((after[name] - before[name]) ** 2))) for name in before}


def growth(widths: tuple[int, ...], family: str, base: int | None) -> dict[str, float]:
    """Exponent s of movement ~ width^s for every activation."""
    moved = [movement(shape(width, family, base), rate=2e-3) for width in widths]
    logs = {name: np.log([m[name] for m in moved]) for name in moved[0]}
    return {name: float(np.polyfit(np.log(widths), y, 1)[0]) for name, y in logs.items()}


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_coordinates_move_alike_at_every_width_in_mup_alone(family: str) -> None:
    """The coordinate check of arXiv:2203.03466, appendix D.1, on all activations, over widths 64 to 512."""
    for name, exponent in growth(WIDTHS, family, BASE).items():
        assert abs(exponent) < 0.2, f"{name} moves as width^{exponent:.2f} in muP"
    standard = growth((WIDTHS[0], WIDTHS[-1]), family, None)
    for name in ("block 0", "logits"):
        assert standard[name] > 0.5, f"{name} moves as width^{standard[name]:.2f} in the standard parametrisation"


def test_the_standard_model_is_untouched() -> None:
    """None is left out of the identity, and the base width differs from the standard in the attention's scale alone."""
    standard = shape(BASE, base=None)
    assert "base_width" not in canonical(standard) and from_json(to_json(standard)) == standard
    assert from_json(to_json(shape(128))) == shape(128)
    ids = np.random.default_rng(1).integers(1, 48, (2, 8))
    params = INIT(shape(BASE), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, INIT(standard, jax.random.key(0)))
    assert not np.array_equal(APPLY(standard, params, ids), APPLY(shape(BASE), params, ids))
    params["layers"]["attn"]["q"] = jax.tree.map(lambda x: x * 4, params["layers"]["attn"]["q"])  # sqrt(head_dim)
    scaled = APPLY(shape(BASE), params, ids)
    params["layers"]["attn"]["q"] = jax.tree.map(lambda x: x / 4, params["layers"]["attn"]["q"])
    np.testing.assert_allclose(scaled, APPLY(standard, params, ids), rtol=1e-4, atol=1e-6)


@FAMILIES
def test_initialisation_follows_the_table(family: Any) -> None:
    """arXiv:2203.03466, Table 8: only hidden kernels shrink, with the square root of the width."""
    cfg = dataclasses.replace(shape(256, family), n_layers=2)
    params = INIT(cfg, jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(k.key for k in path)
        if name.endswith(("bias", "scale")):
            continue
        want = 0.02 / np.sqrt(4 if name.startswith("layers") else 1)
        want /= np.sqrt(4) if name == "layers/mlp/out/kernel" and family == "gpt2" else 1
        assert float(leaf.std()) == pytest.approx(want, rel=0.05), name


@FAMILIES
def test_one_update_moves_hidden_kernels_less_and_decays_them_alike(family: Any) -> None:
    """Adam's first step is its rate whatever the gradient; decay is rate * decay * weight at every width."""
    cfg, decay, rate = shape(256, family), 0.5, 1e-2
    params = jax.tree.map(lambda x: jnp.ones_like(x) * 2, INIT(cfg, jax.random.key(0)))
    step = adamw(hyper_of(OptimConfig(rate, weight_decay=decay), 10), rate, cfg.width_ratio)
    updates, _ = step.update(jax.tree.map(jnp.ones_like, params), step.init(params), params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        name = "/".join(k.key for k in path)
        hidden = name.startswith("layers") and name.endswith("kernel")
        shrinks = 0 if name.endswith(("bias", "scale")) else decay * 2
        np.testing.assert_allclose(leaf, -rate * ((1 / 4 if hidden else 1) + shrinks), rtol=1e-5, err_msg=name)


def test_a_base_width_below_one_is_refused() -> None:
    with pytest.raises(LabError, match="base_width of at least 1"):
        shape(64, base=0)
