"""How alike are the hidden states of the same text in two languages? (arXiv:2404.07982, Table 2; its code)

The state of layer l is the residual stream after block l, before the final norm. Of a clone, states are compared
position by position. Of two real languages, whose tokens do not correspond, each state is compared with the one it is
matched to: the maximum-weight full matching of the two sequences' states by their cosine averaged over layers, the
same for every layer. Values are means over positions, then over sequences.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from lab import model
from lab.config import ModelConfig
from lab.evaluate.paired import Paired, batches, padded

BATCH = 8


def layer_cosines(cfg: ModelConfig, params: Any, paired: Paired) -> np.ndarray:
    """[n_layers] float64 mean cosine of the hidden states of two languages, by layer.

    Args:
      cfg: shape of the decoder.
      params: of it.
      paired: the sequences, each of at most `cfg.context` tokens.
    """
    sums_L = np.zeros(cfg.n_layers)
    for batch in batches(paired, BATCH):
        first, second = (
            _unit_states(cfg, params, padded([*sequences, *_EMPTY[len(sequences) :]], cfg.context))
            for sequences in zip(*batch, strict=True)
        )
        for (a, b), x_LxTxD, y_LxTxD in zip(batch, first, second, strict=False):
            x_LxSxD, y_LxSxD = x_LxTxD[:, : len(a)], y_LxTxD[:, : len(b)]
            sums_L += (aligned_cosines if paired.aligned else matched_cosines)(x_LxSxD, y_LxSxD)
    return sums_L / len(paired.pairs)


def aligned_cosines(x_LxSxD: np.ndarray, y_LxSxD: np.ndarray) -> np.ndarray:
    """[L] mean over positions of the inner product of unit states at equal positions, up to the shorter's end."""
    n = min(x_LxSxD.shape[1], y_LxSxD.shape[1])
    cosines_L: np.ndarray = np.einsum("lsd,lsd->l", x_LxSxD[:, :n], y_LxSxD[:, :n]) / n
    return cosines_L


def matched_cosines(x_LxSxD: np.ndarray, y_LxSxD: np.ndarray) -> np.ndarray:
    """[L] mean over the min(S1, S2) matched pairs of the inner product of unit states."""
    cosines_LxSxS = np.einsum("lsd,ltd->lst", x_LxSxD, y_LxSxD, optimize=True)
    first, second = linear_sum_assignment(cosines_LxSxS.mean(axis=0), maximize=True)
    matched_L: np.ndarray = cosines_LxSxS[:, first, second].mean(axis=1)
    return matched_L


_EMPTY = [np.zeros(0, np.int32)] * BATCH  # so that every batch has one shape, and is compiled once


def _unit_states(cfg: ModelConfig, params: Any, tokens_BxT: np.ndarray) -> np.ndarray:
    """[B, L, T, D] float32 states divided by their norms."""
    return np.asarray(_states(cfg, params, tokens_BxT))


@functools.partial(jax.jit, static_argnums=0)
def _states(cfg: ModelConfig, params: Any, tokens_BxT: jax.Array) -> jax.Array:
    h_LxBxTxD = model.residual(cfg, params, tokens_BxT, compute_dtype=jnp.float32)
    h_LxBxTxD = h_LxBxTxD / jnp.linalg.norm(h_LxBxTxD, axis=-1, keepdims=True)
    return h_LxBxTxD.swapaxes(0, 1)
