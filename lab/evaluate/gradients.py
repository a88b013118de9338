"""Do two languages pull a decoder's tensors in the same direction? (arXiv:2404.07982, Figures 11 to 13)

    got = tensor_cosines(cfg, params, paired)
    got.pairs_KxL        # gradients of the same sequence in two languages, as in the paper

Gradients are those of the mean loss of one sequence, in float32, and a cosine is taken of each block tensor of each
layer by itself. The paper's macro mean is the mean over all tensors and layers; embeddings, positions, the final norm
and the head are left out.

Three more numbers say how to read it, for the same tensors:
  random pairs  a sequence in one language with an unrelated sequence in the other: what text has in common anyway.
  split halves  the mean gradient of half of the sequences with that of the other half, in one language (mean of both
                languages): the cosine that two languages would reach, pooled, if they were one.
  pooled pairs  the same halves, one in each language: to be read against the split halves.

A cosine of gradients of a single sequence has no noise ceiling of its own: noise enters with the choice of text.

The bias of the keys has no gradient: it adds the same to all scores of a query, which softmax ignores. What is measured
there is rounding, and it is one sixteenth of the paper's macro mean.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab import model
from lab.config import ModelConfig
from lab.evaluate.paired import Paired, padded

Tree = dict[str, jax.Array]  # tensor -> [n_layers, size]


@dataclasses.dataclass(frozen=True)
class TensorCosines:
    """Cosines of the gradients of K block tensors in L layers, each [K, L] float64; NaN where a gradient is zero.

    Attributes:
      tensors: names, such as `attn.q.kernel`.
      pairs_KxL, random_KxL, halves_KxL, pooled_KxL: as the module says.
      n: sequences.
    """

    tensors: tuple[str, ...]
    pairs_KxL: np.ndarray
    random_KxL: np.ndarray
    halves_KxL: np.ndarray
    pooled_KxL: np.ndarray
    n: int


def tensor_cosines(
    cfg: ModelConfig, params: Any, paired: Paired, tick: Callable[[], None] = lambda: None
) -> TensorCosines:
    """Compares the gradients of two languages, sequence by sequence.

    Args:
      cfg: shape of the decoder.
      params: of it.
      paired: at least two sequences of two languages, each of at most `cfg.context` tokens.
      tick: called after each sequence.

    Raises:
      LabError: for a single sequence.
    """
    unrelated = paired.unrelated()  # also says that there are two
    n = len(paired.pairs)
    # Neighbours tell of the same things, so the halves are drawn by lot.
    order = np.random.default_rng(0).permutation(n)
    first_NxT, second_NxT, other_NxT = (
        padded(ids, cfg.context + 1)
        for ids in (
            (paired.pairs[i][0] for i in order),
            (paired.pairs[i][1] for i in order),
            (unrelated.pairs[i][1] for i in order),
        )
    )
    sums = jax.tree.map(lambda x: jnp.zeros((2, 2, *x.shape)), jax.eval_shape(_blocks, params["layers"]))
    pairs, random = [], []
    for i in range(n):
        sums, pair, control = _compare(cfg, params, sums, i % 2, first_NxT[i], second_NxT[i], other_NxT[i])
        pairs.append(pair)
        random.append(control)
        tick()
    halves = [_cosines(_part(sums, a, 0), _part(sums, a, 1)) for a in (0, 1)]
    pooled = [_cosines(_part(sums, 0, a), _part(sums, 1, 1 - a)) for a in (0, 1)]
    return TensorCosines(
        tuple(sorted(sums)), _nan_mean(pairs), _nan_mean(random), _nan_mean(halves), _nan_mean(pooled), n
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _compare(
    cfg: ModelConfig,
    params: Any,
    sums: Tree,
    half: jax.Array,
    first_T: jax.Array,
    second_T: jax.Array,
    other_T: jax.Array,
) -> tuple[Tree, jax.Array, jax.Array]:
    """Adds a sequence's gradients to the sums [language, half, L, size]; cosines [K, L] with its pair and another."""

    def gradient(tokens_T: jax.Array) -> Tree:
        def loss(layers: Any) -> jax.Array:
            whole = {**params, "layers": layers}
            return model.mean_nats(cfg, whole, tokens_T[None, :-1], tokens_T[None, 1:], compute_dtype=jnp.float32)

        return _blocks(jax.grad(loss)(params["layers"]))

    three = jax.lax.map(gradient, jnp.stack([first_T, second_T, other_T]))  # compiled once
    first, second, other = (jax.tree.map(lambda x, i=i: x[i], three) for i in range(3))
    sums = jax.tree.map(lambda s, a, b: s.at[0, half].add(a).at[1, half].add(b), sums, first, second)
    return sums, _cosines(first, second), _cosines(first, other)


def _blocks(layers: Any) -> Tree:
    leaves = jax.tree_util.tree_leaves_with_path(layers)
    return {".".join(key.key for key in path): leaf.reshape(leaf.shape[0], -1) for path, leaf in leaves}


def _cosines(a: Tree, b: Tree) -> jax.Array:
    """[K, L] cosine of each tensor's gradient in each layer; NaN where either is zero. Sorted by the tensor's name."""

    def cosine(x_LxS: jax.Array, y_LxS: jax.Array) -> jax.Array:
        norms_L = jnp.linalg.norm(x_LxS, axis=1) * jnp.linalg.norm(y_LxS, axis=1)
        return (x_LxS * y_LxS).sum(axis=1) / jnp.where(norms_L > 0, norms_L, jnp.nan)

    return jnp.stack([cosine(a[name], b[name]) for name in sorted(a)])


def _part(sums: Tree, language: int, half: int) -> Tree:
    return {name: x[language, half] for name, x in sums.items()}


def _nan_mean(cosines_KxL: list[jax.Array]) -> np.ndarray:
    values_NxKxL = np.asarray(jax.device_get(cosines_KxL), np.float64)
    seen = ~np.isnan(values_NxKxL)
    total, count = np.where(seen, values_NxKxL, 0).sum(axis=0), seen.sum(axis=0)
    mean_KxL: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean_KxL
