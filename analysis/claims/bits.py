"""Statistics that compare arms of different vocabularies: bits a byte, as they are and at equal exact FLOPs.

Losses a token of two vocabularies say nothing about each other, and neither do tokens: a byte is the same for both.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from analysis.claims.estimands import LOSS, Sample, Score, ScoreAgainst, Span


@dataclasses.dataclass(frozen=True)
class LnBits(Score):
    """ln of the bits a byte of an arm in a language: what compares arms of different vocabularies, as no loss does."""

    scored = LOSS

    def of(self, sample: Sample) -> Span:
        return Span.exactly(_log_bits(sample, self.arm, self.language))

    def __str__(self) -> str:
        return f"ln bits/byte({self.language}; {self.arm})"


@dataclasses.dataclass(frozen=True)
class LnBitsAtFlops(ScoreAgainst):
    """ln of the bits a byte of an arm over those of a ladder at the arm's exact FLOPs; a bound beyond its ends.

    The ladder is joined monotonely in ln bits and ln FLOPs. Above 0 the arm is worse at equal compute.

    Attributes:
      ladder: arms that are equal but for their tokens, of another vocabulary.
    """

    scored = LOSS

    def of(self, sample: Sample) -> Span:
        from analysis.reference import LocalCurve

        flops = np.array([sample.flops(arm, self.language) for arm in self.ladder])
        order = np.argsort(flops)
        bits = np.stack([_log_bits(sample, self.ladder[i], self.language) for i in order])
        curve = LocalCurve.through(flops[order], bits, np.ones(len(order)))
        at, own = sample.flops(self.arm, self.language), _log_bits(sample, self.arm, self.language)
        # A ladder falls: with less compute than its least arm it would be above that one, with more below its last.
        if at < flops.min():
            return Span(np.full(own.shape, -np.inf), own - curve.levels[0])
        if at > flops.max():
            return Span(own - curve.levels[-1], np.full(own.shape, np.inf))
        return Span.exactly(own - curve.log_ppl(at))

    def __str__(self) -> str:
        return f"ln bits/byte({self.language}; {self.arm}) over {self.ladder[-1]} at equal FLOPs"


def _log_bits(sample: Sample, arm: str, language: str) -> np.ndarray:
    per_byte = sample.loss(arm, language) / (math.log(2) * sample.bytes_per_token(arm, language))
    return np.asarray(np.log(per_byte))
