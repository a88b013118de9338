"""Perplexity as a falling function of tokens, read both ways: the token law, and a local curve through its points.

Both hold one function or R draws of it, so that an interval needs no loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from analysis.equivalence import Bounded, Kind
from analysis.laws.tokens import REFERENCE_TOKENS

# Within this share of the pole, tokens say only that the perplexity is worse than any number of them explains.
AT_POLE = 1e-3
KINDS: dict[int, Kind] = {-1: "at most", 0: "exact", 1: "at least"}


@dataclasses.dataclass(frozen=True, eq=False)
class Worth:
    """Equivalent tokens, or bounds on them.

    Attributes:
      tokens: any shape, finite.
      bound: -1 where the tokens are at most the value, 1 where at least, 0 where exactly.
    """

    tokens: np.ndarray
    bound: np.ndarray

    def bounded(self) -> Bounded:
        """A single worth as `analysis.equivalence` has it."""
        return Bounded(float(self.tokens), KINDS[int(self.bound)])


class Reference(Protocol):
    """Perplexity as a falling function of tokens of one language."""

    def log_ppl(self, tokens: float) -> np.ndarray:
        """ln PPL [R] at `tokens`; NaN where it is not known."""
        ...

    def worth(self, log_ppl: np.ndarray) -> Worth:
        """MLTE of ln PPL [R], each read with the same draw of the reference."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class TokenLaw:
    """1/PPL = c - a x^-b with x = tokens / 1,197,015,040 (arXiv:2404.07982, section 3).

    Attributes:
      a, b, c: [R] draws, or scalars.
      reach: tokens of the largest ladder run: the bound on what is worth more than the law can say.
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    reach: float

    @classmethod
    def of(cls, params: Mapping[str, np.ndarray | float], reach: float) -> TokenLaw:
        a, b, c = (np.asarray(params[name], float) for name in "abc")
        return cls(a, b, c, reach)

    @property
    def pole(self) -> np.ndarray:
        """Tokens x* T at which the law's perplexity is infinite."""
        return np.asarray(REFERENCE_TOKENS * (self.a / self.c) ** (1 / self.b))

    @property
    def best_ppl(self) -> np.ndarray:
        """The perplexity 1/c that no number of tokens reaches."""
        return np.asarray(1 / self.c)

    def log_ppl(self, tokens: float | np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.log(self.c - self.a * (np.asarray(tokens) / REFERENCE_TOKENS) ** -self.b)

    def worth(self, log_ppl: np.ndarray | float) -> Worth:
        gap = self.c - np.exp(-np.asarray(log_ppl, float))
        beyond = gap <= 0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            tokens = REFERENCE_TOKENS * (np.where(beyond, 1.0, gap) / self.a) ** (-1 / self.b)
        beyond = beyond | ~np.isfinite(tokens)
        at_pole = tokens <= self.pole * (1 + AT_POLE)
        return Worth(np.where(beyond, self.reach, tokens), np.where(beyond, 1, np.where(at_pole, -1, 0)))


@dataclasses.dataclass(frozen=True, eq=False)
class LocalCurve:
    """Monotone piecewise cubic (PCHIP) of ln PPL in ln tokens through the ladder's points; nothing beyond its ends.

    Attributes:
      log_tokens: [n], rising.
      levels: [n, R] ln PPL made falling by isotonic regression where noise inverts neighbours.
      cubics: [4, n - 1, R] coefficients of each piece, highest power first.
    """

    log_tokens: np.ndarray
    levels: np.ndarray
    cubics: np.ndarray

    @classmethod
    def through(cls, tokens: np.ndarray, log_ppl: np.ndarray, weights: np.ndarray) -> LocalCurve:
        """The curve of points [n], with draws of their ln PPL [n, R]; `weights` [n] count in isotonic regression."""
        levels = np.array(log_ppl, float)
        for r in np.flatnonzero((np.diff(levels, axis=0) > 0).any(axis=0)):
            levels[:, r] = isotonic_regression(levels[:, r], weights=weights, increasing=False).x
        x = np.log(tokens)
        return cls(x, levels, np.asarray(PchipInterpolator(x, levels).c))

    def log_ppl(self, tokens: float) -> np.ndarray:
        x = float(np.log(tokens))
        if not self.log_tokens[0] <= x <= self.log_tokens[-1]:
            return np.full(self.levels.shape[1], np.nan)
        piece = int(np.clip(np.searchsorted(self.log_tokens, x, "right") - 1, 0, len(self.log_tokens) - 2))
        return np.asarray(_cubic(self.cubics[:, piece], x - self.log_tokens[piece]))

    def worth(self, log_ppl: np.ndarray) -> Worth:
        draws = np.arange(self.levels.shape[1])
        y = np.broadcast_to(np.asarray(log_ppl, float), draws.shape)
        more, less = y < self.levels[-1], y > self.levels[0]
        piece = np.clip((self.levels > y).sum(axis=0) - 1, 0, len(self.log_tokens) - 2)
        cubic = self.cubics[:, piece, draws]
        low, high = np.zeros(len(draws)), np.diff(self.log_tokens)[piece]
        for _ in range(50):
            middle = (low + high) / 2
            above = _cubic(cubic, middle) > y
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        x = self.log_tokens[piece] + (low + high) / 2
        x = np.where(more, self.log_tokens[-1], np.where(less, self.log_tokens[0], x))
        return Worth(np.exp(x), np.where(more, 1, np.where(less, -1, 0)))


def _cubic(coefficients: np.ndarray, x: np.ndarray | float) -> np.ndarray:
    a, b, c, d = coefficients
    return np.asarray(((a * x + b) * x + c) * x + d)
