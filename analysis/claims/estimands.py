"""What a claim is about: a log ratio made of a few statistics, which side of zero it claims, and what it needs.

    teff = LnTEff("clone 10 %, 1 T, nano-4", "clone1", ladder=("l1, 0.05 T, nano-4", ...))
    Claim("2", "A dominant language ...", "arXiv:2404.07982, Table 1", teff, "above", delta=0.10, seeds=3)

A statistic is a pure function of a `Sample`: it gives the estimate and all bootstrap draws at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.reference import Reference

Side = Literal["above", "below", "about zero"]
SIDES = ("above", "below", "about zero")
# What is measured of an arm's runs in a language, in nats a token: by the sliding protocol, and plainly.
PPL, LOSS = "ln PPL", "loss"
SCORES = (PPL, LOSS)


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """A number, or what bounds leave of it: `low` and `high` are [R], equal where it is known, infinite where open."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def exactly(cls, value: np.ndarray) -> Span:
        return cls(value, value)

    @classmethod
    def bounded(cls, value: np.ndarray, bound: np.ndarray) -> Span:
        """`value`, which is an upper bound where `bound` [R] is below 0 and a lower one where it is above."""
        return cls(np.where(bound < 0, -np.inf, value), np.where(bound > 0, np.inf, value))

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        ends = factor * self.low, factor * self.high
        return Span(*(ends if factor >= 0 else ends[::-1]))


class Sample(Protocol):
    """What statistics read: the estimate (row 0) and draws of everything measured."""

    def log_ppl(self, arm: str, language: str) -> np.ndarray:
        """ln of the arm's perplexity, mean over seeds, [R]."""
        ...

    def tokens(self, arm: str, language: str) -> float:
        """Training tokens of the language, as realised."""
        ...

    def share(self, arm: str, language: str) -> float:
        """Of all training tokens, those of the language."""
        ...

    def reference(self, arm: str, language: str) -> Reference:
        """What the language's perplexity is read against, refitted for each draw."""
        ...

    def loss(self, arm: str, language: str) -> np.ndarray:
        """The arm's plain loss, nats a token, mean over seeds, [R]."""
        ...

    def parameters(self, arm: str, language: str) -> float:
        """N of the arm's models, without the token embedding: what `flops_6nd` counts."""
        ...

    def bytes_per_token(self, arm: str, language: str) -> float:
        """Of the evaluation set in the arm's vocabulary."""
        ...

    def flops(self, arm: str, language: str) -> float:
        """Exact FLOPs of a run of the arm, in all languages."""
        ...

    def probe(self, arm: str, what: str) -> np.ndarray:
        """What a probe measured (`ProbeValue.what`), mean over seeds, [R]."""
        ...

    @property
    def memo(self) -> MutableMapping[Any, Any]:
        """What statistics keep of this sample for one another, by keys of their own (a refitted law)."""
        ...


class Statistic(Protocol):
    """A number with its draws. One that is measured itself has `arm` and `cell`; one made of others has `parts`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """All arms without which there is no data."""
        ...

    def of(self, sample: Sample) -> Span:
        """The statistic of a sample.

        Raises:
          LabError: when the sample lacks an arm or a measurement.
        """
        ...


class Measured(Statistic, Protocol):
    """A statistic of one arm's own measurement."""

    @property
    def arm(self) -> str: ...

    @property
    def cell(self) -> tuple[str, str]:
        """What is measured (PPL, LOSS, or a probe's name), and in which language."""
        ...


@dataclasses.dataclass(frozen=True)
class Score:
    """A statistic of what one arm scores in one language: a perplexity or a plain loss, as its class says."""

    arm: str
    language: str
    scored: ClassVar[str]

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.arm,)

    @property
    def cell(self) -> tuple[str, str]:
        return self.scored, self.language


@dataclasses.dataclass(frozen=True)
class ScoreAgainst(Score):
    """A score that is read against a ladder of other arms, all of which it needs."""

    ladder: tuple[str, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.arm, *self.ladder)


@dataclasses.dataclass(frozen=True)
class LnTEff(ScoreAgainst):
    """ln of the token efficiency of an arm in a language (arXiv:2404.07982, section 3); bounded at the law's ends.

    Attributes:
      ladder: monolingual arms without which it is not to be read; others at the same size are used as well.
    """

    scored = PPL

    def of(self, sample: Sample) -> Span:
        worth = sample.reference(self.arm, self.language).worth(sample.log_ppl(self.arm, self.language))
        value = np.log(worth.tokens / sample.tokens(self.arm, self.language))
        return Span.bounded(value, worth.bound)

    def __str__(self) -> str:
        return f"ln TEff({self.language}; {self.arm})"


@dataclasses.dataclass(frozen=True)
class LnPPL(Score):
    """ln of the sliding-window perplexity of an arm in a language; a claim is about differences of it."""

    scored = PPL

    def of(self, sample: Sample) -> Span:
        return Span.exactly(sample.log_ppl(self.arm, self.language))

    def __str__(self) -> str:
        return f"ln PPL({self.language}; {self.arm})"


@dataclasses.dataclass(frozen=True)
class LnLoss(Score):
    """ln of the plain loss of an arm in a language, nats a token; what laws are fitted to."""

    scored = LOSS

    def of(self, sample: Sample) -> Span:
        return Span.exactly(np.log(sample.loss(self.arm, self.language)))

    def __str__(self) -> str:
        return f"ln L({self.language}; {self.arm})"


@dataclasses.dataclass(frozen=True)
class LnWorth(ScoreAgainst):
    """ln of what an arm's tokens of a language are worth: tokens at which a ladder has its loss, over its own.

    The ladder is joined monotonely in ln loss and ln tokens, without a law; a loss that no arm of it reaches gives a
    bound. Of the ladder's tokens the arm saves the share 1 - exp(-value).

    Attributes:
      ladder: arms that are equal but for their tokens, and differ from the arm in what is to be priced.
    """

    scored = LOSS

    def of(self, sample: Sample) -> Span:
        from analysis.reference import LocalCurve

        tokens = np.array([sample.tokens(arm, self.language) for arm in self.ladder])
        order = np.argsort(tokens)
        losses = np.stack([sample.loss(self.ladder[i], self.language) for i in order])
        curve = LocalCurve.through(tokens[order], np.log(losses), np.ones(len(order)))
        worth = curve.worth(np.log(sample.loss(self.arm, self.language)))
        value = np.log(worth.tokens / sample.tokens(self.arm, self.language))
        return Span.bounded(value, worth.bound)

    def __str__(self) -> str:
        return f"ln worth({self.language}; {self.arm})"


@dataclasses.dataclass(frozen=True)
class ProbeValue:
    """A number that a probe measured on an arm's models, such as a cosine.

    Attributes:
      probe, language, place, condition: of the rows of `lab.probes`; the place `layers` is the mean over layers,
        `last layer` the deepest one.
      at: after which share of the run.
    """

    arm: str
    probe: str
    language: str
    place: str = "all"
    condition: str = "pairs"
    at: float = 1.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.arm,)

    @property
    def cell(self) -> tuple[str, str]:
        return self.what, ""

    @property
    def what(self) -> str:
        """Names the measurement, whatever the arm."""
        when = "" if self.at == 1 else f", after {100 * self.at:g} %"
        return f"{self.probe} ({self.language}, {self.place}, {self.condition}{when})"

    def of(self, sample: Sample) -> Span:
        return Span.exactly(sample.probe(self.arm, self.what))

    def values(self, probes: pd.DataFrame) -> pd.Series:
        """The measurement of every run in a table of probes, by run_id."""
        rows = probes[
            (probes.probe == self.probe)
            & (probes.language == self.language)
            & (probes.condition == self.condition)
            & (probes["at"] == self.at)
        ]
        if self.place in ("layers", "last layer"):
            rows = rows[rows.place.str.isdecimal()]
            deepest = rows.place.astype(int).groupby(rows.run_id).transform("max")
            rows = rows if self.place == "layers" else rows[rows.place.astype(int) == deepest]
        else:
            rows = rows[rows.place == self.place]
        return rows.groupby("run_id").value.mean()

    def __str__(self) -> str:
        return f"{self.what.removesuffix(')')}; {self.arm})"


def leaves(statistic: Any) -> tuple[Measured, ...]:
    """The measurements that a statistic is made of, those of ladders aside."""
    parts = getattr(statistic, "parts", None)
    return (statistic,) if parts is None else tuple(leaf for part in parts for leaf in leaves(part))


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of a paper, as a test that was fixed before its runs.

    Attributes:
      id: short, of the ledger.
      text: the claim in words.
      source: paper and place.
      estimand: the statistic it is about.
      side: of `against` on which the paper has it; or `about zero`: within `delta` of `against`.
      delta: the smallest effect that matters: the width of `about zero`, and what an undecided claim is planned for.
      seeds: of each of its arms (the ladder's aside) without which it stays undecided.
      against: what the estimand is compared with.
    """

    id: str
    text: str
    source: str
    estimand: Statistic
    side: Side
    delta: float
    seeds: int = 1
    against: float = 0.0

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise LabError(f"Claim {self.id} has the side {self.side!r}.", f"Known: {', '.join(SIDES)}.")
        if not self.delta > 0:
            raise LabError(f"Claim {self.id} needs a smallest effect above 0, not {self.delta}.")

    @property
    def arms(self) -> tuple[str, ...]:
        """Its own arms, without those of the ladder."""
        return tuple(dict.fromkeys(leaf.arm for leaf in leaves(self.estimand)))

    @property
    def needs(self) -> tuple[str, ...]:
        """All arms without which there is no data."""
        return self.estimand.needs


def ids(claims: tuple[Claim, ...]) -> Mapping[str, Claim]:
    """Claims by id.

    Raises:
      LabError: when two share one.
    """
    found: dict[str, Claim] = {}
    for claim in claims:
        if claim.id in found:
            raise LabError(f"Two claims have the id {claim.id!r}.", "Give each its own.")
        found[claim.id] = claim
    return found
