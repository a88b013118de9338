"""Counts from the shape alone agree with the trees and programs they describe."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from lab import flops, model
from lab.config import ModelConfig
from lab.presets import names, preset

SHAPES = [
    ModelConfig(family, d_model=24, n_layers=3, n_heads=heads, head_dim=head, d_ff=40, vocab=50, context=16)
    for family in ("gpt2", "llama")
    for heads, head in ((3, 8), (2, 6))  # the second is narrower than the model
]


def sizes(cfg: ModelConfig) -> dict[str, int]:
    tree = jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in tree.items()}


@pytest.mark.parametrize("cfg", [*SHAPES, *(preset(n, 512, 64) for n in names() if n < "cpt-9" or n > "l")], ids=str)
def test_counts_are_those_of_the_tree(cfg: ModelConfig) -> None:
    tree, counts = sizes(cfg), flops.count(cfg)
    assert counts.total == sum(tree.values())
    assert counts.embedding + counts.positions == tree["embed"]
    assert counts.layers == tree["layers"] + tree["final_norm"]
    assert counts.head == tree["head"]
    assert counts.nonembedding == counts.total - 2 * cfg.vocab * cfg.d_model
    assert counts.tied == counts.total - counts.embedding


@pytest.mark.parametrize("name, millions", [("mini", 10.8), ("small", 85.4), ("medium", 303)])
def test_languini_sizes_are_the_papers(name: str, millions: float) -> None:
    counts = flops.count(preset(f"languini-{name}", vocab=16_384, context=512))
    assert counts.nonembedding / 1e6 == pytest.approx(millions, rel=5e-3)


@pytest.mark.parametrize("cfg", SHAPES, ids=str)
def test_forward_flops_are_those_of_the_compiled_program(cfg: ModelConfig) -> None:
    """XLA counts every matmul of plain attention over the full square; the rest of its count is not matmuls."""
    layers = cfg.n_layers
    wide = ModelConfig(
        cfg.family, 16 * cfg.d_model, layers, 16 * cfg.n_heads, cfg.head_dim, 16 * cfg.d_ff, 16 * cfg.vocab, 16
    )
    params = jax.eval_shape(lambda: model.init(wide, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    analysis = jax.jit(lambda p, t: model.apply(wide, p, t)).lower(params, tokens).compile().cost_analysis()
    counted = flops.flops_per_token(wide)
    square = counted.exact + counted.attention  # both triangles
    assert analysis["flops"] / (2 * 16) == pytest.approx(square / 3, rel=0.02)


def test_flops_by_hand() -> None:
    """The formula of the docstring written out for one layer."""
    cfg = ModelConfig("llama", d_model=8, n_layers=1, n_heads=2, head_dim=4, d_ff=24, vocab=10, context=6)
    per_token = flops.flops_per_token(cfg)
    assert per_token.matmuls == 3 * 2 * (4 * 8 * 8 + 3 * 8 * 24)
    assert per_token.attention == 3 * 4 * 8 * 6 // 2
    assert per_token.head == 3 * 2 * 8 * 10
    assert per_token.six_n == 6 * (4 * 8 * 8 + 3 * 8 * 24 + 3 * 8 + 80)
    assert flops.flops_per_token(cfg, context=12).attention == 2 * per_token.attention
