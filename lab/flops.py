"""Parameter and FLOP counts under every convention in use, exact for both families.

    counts = count(cfg)               # from the shape alone; equal to the real tree's
    counts.total, counts.nonembedding
    flops  = flops_per_token(cfg)     # of one training token
    flops.six_n, flops.exact

Conventions for "N":
  total         every parameter (Hoffmann et al., arXiv:2203.15556).
  nonembedding  total less the token embedding and the head: what arXiv:2404.07982 prints; learned positions count.
  layers        the layers and the final norm only: Kaplan et al., arXiv:2001.08361, who also leave out positions.
  tied          nonembedding and the head, as if embedding and head were one: the lookup costs nothing, the head does
                (Porian et al., arXiv:2406.19146).
"""

from __future__ import annotations

import dataclasses

from lab.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ParamCount:
    """Numbers of parameters; the four fields add up to `total`."""

    embedding: int
    positions: int
    layers: int  # with the final norm
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.positions + self.layers + self.head

    @property
    def nonembedding(self) -> int:
        return self.positions + self.layers

    @property
    def tied(self) -> int:
        return self.nonembedding + self.head


def count(cfg: ModelConfig) -> ParamCount:
    """Counts the parameters of `lab.model.init(cfg, ...)` without making them."""
    d, width, ff = cfg.d_model, cfg.n_heads * cfg.head_dim, cfg.d_ff
    if cfg.family == "gpt2":
        attention = 4 * d * width + 3 * width + d
        mlp = 2 * d * ff + ff + d
        norm = 2 * d
        positions = cfg.context * d
    else:
        attention = 4 * d * width
        mlp = 3 * d * ff
        norm = d
        positions = 0
    layers = cfg.n_layers * (attention + mlp + 2 * norm) + norm
    return ParamCount(embedding=cfg.vocab * d, positions=positions, layers=layers, head=cfg.vocab * d)


@dataclasses.dataclass(frozen=True)
class TokenFlops:
    """FLOPs to train on one token (forward, and backward as twice the forward), by part.

    Attributes:
      six_n: 6 N with N = `ParamCount.tied`, the estimate of C = 6 N D.
      matmuls: weight matmuls of the layers.
      attention: scores and values, with half the square as causal attention needs.
      head: logits.
    """

    six_n: int
    matmuls: int
    attention: int
    head: int

    @property
    def exact(self) -> int:
        """All matmuls; norms, biases, activations, embedding lookup and optimiser left out."""
        return self.matmuls + self.attention + self.head


def flops_per_token(cfg: ModelConfig, context: int | None = None) -> TokenFlops:
    """FLOPs of one training token in sequences of `context` tokens (by default the model's)."""
    length = cfg.context if context is None else context
    d, width = cfg.d_model, cfg.n_heads * cfg.head_dim
    mlp_kernels = 3 if cfg.family == "llama" else 2
    return TokenFlops(
        six_n=6 * count(cfg).tied,
        matmuls=3 * cfg.n_layers * 2 * (4 * d * width + mlp_kernels * d * cfg.d_ff),
        attention=3 * cfg.n_layers * 4 * width * length // 2,
        head=3 * 2 * d * cfg.vocab,
    )
