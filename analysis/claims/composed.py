"""Statistics made of others: sums, the largest of several, where a curve crosses, how well one foretells another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from analysis.claims.estimands import LnTEff, Sample, Span, Statistic

# Correlations closer to 1 than this are rounding.
CLOSEST = 1 - 1e-9


@dataclasses.dataclass(frozen=True)
class Combination:
    """A weighted sum of statistics: `terms` holds (weight, statistic)."""

    terms: tuple[tuple[float, Statistic], ...]

    @property
    def parts(self) -> tuple[Statistic, ...]:
        return tuple(term for _, term in self.terms)

    @property
    def needs(self) -> tuple[str, ...]:
        return _needs(self.parts)

    def of(self, sample: Sample) -> Span:
        first, *rest = (term.of(sample) * weight for weight, term in self.terms)
        for one in rest:
            first = first + one
        return first

    def __str__(self) -> str:
        parts = [f"{'+' if w > 0 else '-'} {'' if abs(w) == 1 else f'{abs(w):g} '}{term}" for w, term in self.terms]
        return " ".join(parts).removeprefix("+ ")


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest of several statistics: below a number when all of them are."""

    parts: tuple[Statistic, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        return _needs(self.parts)

    def of(self, sample: Sample) -> Span:
        spans = [part.of(sample) for part in self.parts]
        return Span(np.max([s.low for s in spans], axis=0), np.max([s.high for s in spans], axis=0))

    def __str__(self) -> str:
        return f"largest of {len(self.parts)}, such as {self.parts[0]}"


@dataclasses.dataclass(frozen=True)
class LnShareAtOne:
    """ln of the share of the tokens up to which a language gains: where its TEff falls through 1, between `points`.

    ln TEff is joined linearly in ln share. A language that gains at no share, or at every one, gives a bound.
    """

    points: tuple[LnTEff, ...]

    @property
    def parts(self) -> tuple[LnTEff, ...]:
        return self.points

    @property
    def needs(self) -> tuple[str, ...]:
        return _needs(self.parts)

    def of(self, sample: Sample) -> Span:
        x = np.log([sample.share(p.arm, p.language) for p in self.points])
        order = np.argsort(x)
        return _zero(x[order], [self.points[i].of(sample) for i in order])

    def __str__(self) -> str:
        arms = ", ".join(p.arm for p in self.points)
        return f"ln share where TEff({self.points[0].language}) = 1; {arms}"


@dataclasses.dataclass(frozen=True)
class LnShareAtZero:
    """ln of the share at which a statistic has fallen to 0, between `points`; a bound where it does so beyond them.

    Attributes:
      points: (share, the statistic there), shares rising; joined linearly in ln share.
    """

    points: tuple[tuple[float, Statistic], ...]

    @property
    def parts(self) -> tuple[Statistic, ...]:
        return tuple(part for _, part in self.points)

    @property
    def needs(self) -> tuple[str, ...]:
        return _needs(self.parts)

    def of(self, sample: Sample) -> Span:
        return _zero(np.log([share for share, _ in self.points]), [part.of(sample) for part in self.parts])

    def __str__(self) -> str:
        return f"ln share where 0 = {self.parts[0]}"


def _zero(x: np.ndarray, spans: Sequence[Span]) -> Span:
    """Where a curve through points at `x`, rising [n], first is at 0 or below; bounds where that is beyond its ends."""
    y = np.stack([np.where(np.isfinite(s.low), s.low, s.high) for s in spans])
    under = y <= 0
    after = np.where(under.any(axis=0), under.argmax(axis=0), len(x) - 1)
    before = np.maximum(after - 1, 0)
    draws = np.arange(y.shape[1])
    above, below = y[before, draws], y[after, draws]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = x[before] + (x[after] - x[before]) * above / (above - below)
    first, never = under[0], ~under.any(axis=0)
    between = np.where(first, x[0], np.where(never, x[-1], between))
    return Span(np.where(first, -np.inf, between), np.where(never, np.inf, between))


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Pearson's correlation r over arms as Fisher's z = artanh r, in which its noise is nearly normal.

    An arm whose values are bounds does not count; fewer than three arms leave it open.

    Attributes:
      pairs: what is known early and what it is to foretell, of each arm.
    """

    pairs: tuple[tuple[Statistic, Statistic], ...]

    @property
    def parts(self) -> tuple[Statistic, ...]:
        return tuple(part for pair in self.pairs for part in pair)

    @property
    def needs(self) -> tuple[str, ...]:
        return _needs(self.parts)

    def of(self, sample: Sample) -> Span:
        spans = [(early.of(sample), late.of(sample)) for early, late in self.pairs]
        x, y = (np.stack([np.where(s.low == s.high, s.low, np.nan) for s in side]) for side in zip(*spans, strict=True))
        known = np.isfinite(x) & np.isfinite(y)
        n = known.sum(axis=0)
        x, y = (np.where(known, v, 0.0) for v in (x, y))
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = (np.where(known, v - v.sum(axis=0) / n, 0.0) for v in (x, y))
            value = (x * y).sum(axis=0) / np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
        nothing = (n < 3) | ~np.isfinite(value)
        z = np.arctanh(np.clip(np.where(nothing, 0.0, value), -CLOSEST, CLOSEST))
        return Span(np.where(nothing, -np.inf, z), np.where(nothing, np.inf, z))

    def __str__(self) -> str:
        return f"artanh of the correlation over {len(self.pairs)} arms of {self.pairs[0][0]} and {self.pairs[0][1]}"


def _needs(parts: tuple[Statistic, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(arm for part in parts for arm in part.needs))


def difference(first: Statistic, second: Statistic) -> Combination:
    """`first` minus `second`: of two logarithms, the log of their ratio."""
    return Combination(((1.0, first), (-1.0, second)))
