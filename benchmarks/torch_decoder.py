"""The gpt2-family decoder in PyTorch, for comparison: as `lab.model` has it, written the way PyTorch is fast.

Needs nothing but PyTorch, so that it runs in an environment of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp_in, self.mlp_out = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, D))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x)), approximate="tanh"))


class Decoder(nn.Module):
    def __init__(self, d: int, layers: int, heads: int, vocab: int, context: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, d), nn.Embedding(context, d)
        self.blocks, self.norm = nn.ModuleList(Block(d, heads) for _ in range(layers)), nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / (2 * layers) ** 0.5 if "mlp_out" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Nats of the targets of the last positions, as many as `targets` has; id 0 is padding."""
        x = self.tokens(tokens) * self.tokens.embedding_dim**0.5 + self.positions.weight
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x[:, x.shape[1] - targets.shape[1] :]))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0, reduction=reduction)


def adamw(decoder: Decoder, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(decoder.parameters(), lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
