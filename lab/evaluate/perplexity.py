"""Loss and perplexity of a model on a fixed token stream, by a window and a stride.

One rule covers both measures: windows of `window` tokens start every `stride` tokens, and each scores its last
`stride` targets. With stride = window every target is scored once (the plain loss). With a smaller stride each
target sees at least `window - stride` tokens of context, and the first `window - stride` targets of the stream are
never scored: the protocol of arXiv:2404.07982, which uses 512 and 128.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

PAD = 0
Array = np.ndarray
NatsFn = Callable[[Array, Array], Any]  # (tokens_BxW, the last S targets_BxS) -> nats_BxS, an array or a future one


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Windows of `window` tokens every `stride` tokens, scoring the last `stride` targets of each."""

    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise ValueError(f"stride {self.stride} must lie between 1 and the window, {self.window}")


def plain(context: int) -> Protocol:
    """Every target scored once."""
    return Protocol(context, context)


def sliding(context: int) -> Protocol:
    """The paper's proportions at this context: stride = window / 4."""
    return Protocol(context, max(1, context // 4))


@dataclasses.dataclass(frozen=True)
class Score:
    """Sums over the scored targets.

    Attributes:
      nats: negative log-likelihood.
      tokens: number of scored targets.
      bytes: bytes of exactly those targets (an end of document has none).
      document_nats, document_tokens: the same by document.
    """

    nats: float
    tokens: int
    bytes: int
    document_nats: tuple[float, ...]
    document_tokens: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def ppl(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (math.log(2) * self.bytes)


def window_starts(n_targets: int, protocol: Protocol, besides: Protocol | None = None) -> Array:
    """Where the windows start that score `n_targets` targets; those that `besides` has as well are left out."""
    window, stride = protocol.window, protocol.stride
    starts = np.arange(max(0, math.ceil((n_targets - (window - stride)) / stride))) * stride
    return starts if besides is None else starts[starts % besides.stride > 0]


def target_nats(nats_fn: NatsFn, stream: Array, protocol: Protocol, batch: int, whole_n: Array | None = None) -> Array:
    """Nats of every target of `stream` ([n + 1] ids; target i is stream[i + 1]); NaN where it is not scored.

    `nats_fn` is always called with `batch` windows and their scored targets, the last call filled up with padding.
    All calls are made before the first result is read, so that a device may work through them without a pause.

    Args:
      whole_n: what this function returned for `plain(protocol.window)`; its windows are not computed a second time.
    """
    window, stride = protocol.window, protocol.stride
    n_targets = len(stream) - 1
    starts = window_starts(n_targets, protocol, None if whole_n is None else plain(window))
    padded = np.full(n_targets + 2 * window, PAD, np.int32)
    padded[: len(stream)] = stream
    views = np.lib.stride_tricks.sliding_window_view(padded, window + 1)
    parts = []
    for first in range(0, len(starts), batch):
        full = np.full((batch, window + 1), PAD, np.int32)
        chunk = starts[first : first + batch]
        full[: len(chunk)] = views[chunk]
        parts.append(nats_fn(full[:, :-1], full[:, -stride:]))
    nats_n = np.full(n_targets + window, np.nan)  # the last window may reach past the end
    if whole_n is not None:
        shared = window_starts(n_targets, protocol)
        shared = shared[shared % window == 0, None] + np.arange(window - stride, window)
        nats_n[shared] = np.append(whole_n, np.full(window, np.nan))[shared]
    if parts:
        scored = np.concatenate([np.asarray(part).reshape(-1, stride) for part in parts])[: len(starts)]
        nats_n[starts[:, None] + np.arange(window - stride, window)] = scored
    nats_n = nats_n[:n_targets]
    nats_n[np.asarray(stream[1:]) == PAD] = np.nan
    return nats_n


def score(nats_n: Array, target_bytes_n: Array, target_document_n: Array, documents: int) -> Score:
    """Sums per-target nats over the targets that were scored, in all and by document."""
    seen = ~np.isnan(nats_n)
    by_document = np.bincount(target_document_n[seen], weights=nats_n[seen], minlength=documents)
    counts = np.bincount(target_document_n[seen], minlength=documents)
    return Score(
        nats=float(nats_n[seen].sum()),
        tokens=int(seen.sum()),
        bytes=int(target_bytes_n[seen].sum()),
        document_nats=tuple(float(v) for v in by_document),
        document_tokens=tuple(int(v) for v in counts),
    )
