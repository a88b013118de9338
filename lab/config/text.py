"""What a run reads: token stores, the vocabulary layout that they are read through, and the shares of a mixture."""

from __future__ import annotations

import dataclasses
import typing
from typing import Literal

from lab.errors import LabError

Sampling = Literal["exact", "bernoulli"]
Sharing = Literal["own", "pieces", "same"]
Anchors = Literal["random", "frequent"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A token store, by name for people and by hash for identity.

    `corpus` names it (`embedded:en`), `store` is the store's fingerprint: corpus text, tokenizer and split rule.
    """

    corpus: str
    store: str


@dataclasses.dataclass(frozen=True)
class Component:
    """One language of the mixture: a source read through the layout's lookup table of `language`.

    Attributes:
      counter: components of one source share the count of its examples, so that each text is read once an epoch, by
        whichever the shares name. One with a counter of its own name reads by itself what the others read, too:
        parallel text in two clones.
      start: the example of the source that it begins with, the first by default: replay that goes on where the parent
        stopped. Components of one source and counter begin with the same.
    """

    language: str
    source: Source
    counter: str | None = None
    start: int | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.start < 0:
            raise LabError(f"{self.language!r} cannot begin with example {self.start}.")

    @property
    def reading(self) -> tuple[Source, str | None]:
        """What is counted together: components that share it take turns in one sequence of examples."""
        return self.source, self.counter


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of training with fixed shares, one a component in their order; `fraction` of all sequences."""

    fraction: float
    shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LanguageIds:
    """How the token ids of one language enter the total vocabulary, given the languages before it.

    Attributes:
      language: its name.
      tokenizer: the hash of its tokenizer.
      sharing: `own` is a block of its own after all ids so far, padding excepted (clones, disjoint vocabularies, and
        the first language); `pieces` reuses the id of every piece that an earlier language already has and appends
        the rest (merged vocabularies); `same` reuses all ids of an earlier language with this tokenizer (joint).
      anchored: for `own` only: the share of entries that keep the id they have in the first language of the same
        tokenizer (partly anchored clones of arXiv:2404.07982).
      anchors: which entries those are: a fixed random choice, as in that paper, or the most frequent.
      renamed: for `same` only: the share of pieces in use whose ids are exchanged among themselves, by a fixed random
        choice; None for none. A smaller share's pieces are among a larger one's.
    """

    language: str
    tokenizer: str
    sharing: Sharing = "own"
    anchored: float = 0.0
    anchors: Anchors = "random"
    renamed: float | None = None

    def __post_init__(self) -> None:
        if self.sharing not in typing.get_args(Sharing):
            raise LabError(f"Unknown sharing {self.sharing!r}.", f"Known: {typing.get_args(Sharing)}.")
        if self.anchors not in typing.get_args(Anchors):
            raise LabError(f"Unknown choice of anchors {self.anchors!r}.", f"Known: {typing.get_args(Anchors)}.")
        if not 0 <= self.anchored <= 1:
            raise LabError(f"The anchored share of {self.language!r} must lie in [0, 1], not {self.anchored}.")
        if self.anchored and self.sharing != "own":
            raise LabError(f"Only a language with ids of its own can be partly anchored, not {self.language!r}.")
        if self.renamed is not None and not 0 < self.renamed <= 1:
            raise LabError(f"The renamed share of {self.language!r} must lie in (0, 1], not {self.renamed}.")
        if self.renamed is not None and self.sharing != "same":
            raise LabError(f"Only a language that shares all ids can have renamed pieces, not {self.language!r}.")


@dataclasses.dataclass(frozen=True)
class LayoutConfig:
    """The identity of a vocabulary layout: its languages, in the order in which they take their ids."""

    languages: tuple[LanguageIds, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not names:
            raise LabError("A vocabulary layout needs at least one language.")
        if len(set(names)) != len(names):
            raise LabError(f"A vocabulary layout names a language twice: {list(names)}.")
        tokenizers: set[str] = set()
        for entry in self.languages:
            needs_earlier = entry.sharing == "same" or entry.anchored > 0
            if needs_earlier and entry.tokenizer not in tokenizers:
                raise LabError(
                    f"{entry.language!r} is to reuse ids of an earlier language with its tokenizer; there is none.",
                    "Share by `pieces`, or train one joint tokenizer.",
                )
            tokenizers.add(entry.tokenizer)
        if self.languages[0].sharing != "own":
            raise LabError(f"The first language of a layout has ids of its own, not {self.languages[0].sharing!r}.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.language for entry in self.languages)

    @classmethod
    def clones(
        cls, languages: tuple[str, ...], tokenizer: str, anchored: float = 0.0, anchors: Anchors = "random"
    ) -> LayoutConfig:
        """The first language and its clones: clone k reads `id + k * V`, but for padding and anchored entries."""
        first, *rest = languages
        clones = (LanguageIds(name, tokenizer, "own", anchored, anchors) for name in rest)
        return cls((LanguageIds(first, tokenizer), *clones))

    @classmethod
    def disjoint(cls, languages: tuple[str, ...], tokenizers: tuple[str, ...]) -> LayoutConfig:
        """Every language with ids of its own; only padding is shared."""
        return cls(tuple(LanguageIds(*pair) for pair in zip(languages, tokenizers, strict=True)))

    @classmethod
    def merged(cls, languages: tuple[str, ...], tokenizers: tuple[str, ...]) -> LayoutConfig:
        """Identical pieces share one id ("anchored vocabulary" in arXiv:2404.07982)."""
        first, *rest = zip(languages, tokenizers, strict=True)
        return cls((LanguageIds(*first), *(LanguageIds(*pair, "pieces") for pair in rest)))

    @classmethod
    def joint(cls, languages: tuple[str, ...], tokenizer: str) -> LayoutConfig:
        """All languages in one tokenizer's ids."""
        first, *rest = languages
        return cls((LanguageIds(first, tokenizer), *(LanguageIds(name, tokenizer, "same") for name in rest)))


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """Which languages are read, through which vocabulary layout, in which shares, stage by stage.

    `exact` keeps every component within one sequence of its cumulative target at every step; `bernoulli` draws
    each sequence's component independently, as arXiv:2404.07982 does.
    """

    components: tuple[Component, ...]
    layout: LayoutConfig
    stages: tuple[Stage, ...]
    sampling: Sampling = "exact"

    def __post_init__(self) -> None:
        names = [c.language for c in self.components]
        if not names:
            raise LabError("A mixture needs at least one component.")
        if len(set(names)) != len(names):
            raise LabError(f"A mixture names a language twice: {names}.")
        starts: dict[tuple[Source, str | None], int] = {}
        for c in self.components:
            if starts.setdefault(c.reading, c.start or 0) != (c.start or 0):
                raise LabError(
                    f"{c.language!r} begins with example {c.start or 0} of {c.source.corpus}, another component of the "
                    f"same counter with {starts[c.reading]}.",
                    "Give them one start, or a counter each.",
                )
        if unknown := sorted(set(names) - set(self.layout.names)):
            raise LabError(
                f"The mixture names languages that its vocabulary layout lacks: {unknown}.",
                f"The layout has {list(self.layout.names)}.",
            )
        if self.sampling not in typing.get_args(Sampling):
            raise LabError(f"Unknown sampling {self.sampling!r}.", f"Known: {typing.get_args(Sampling)}.")
        if not self.stages or abs(sum(s.fraction for s in self.stages) - 1) > 1e-9:
            raise LabError(f"The stages' fractions must sum to 1, not {sum(s.fraction for s in self.stages)}.")
        for stage in self.stages:
            if len(stage.shares) != len(names):
                raise LabError(f"A stage gives {len(stage.shares)} shares for {len(names)} languages {names}.")
            if any(s < 0 for s in stage.shares) or abs(sum(stage.shares) - 1) > 1e-9:
                raise LabError(
                    f"The shares {stage.shares} of {names} sum to {sum(stage.shares):.6g}, not 1.",
                    "Give shares of at least 0 that sum to 1.",
                )
