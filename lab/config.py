"""What a run *is*: frozen dataclasses whose fingerprint is the run's identity.

How a run is executed (device, pack, checkpoint interval, interruptions) is `Execution`, and is not identity.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import typing
from typing import Any, Literal

from lab.errors import LabError

Family = Literal["gpt2", "llama"]
ScheduleName = Literal["cosine", "wsd", "constant"]
Sampling = Literal["exact", "bernoulli"]
Sharing = Literal["own", "pieces", "same"]
Anchors = Literal["random", "frequent"]
Carry = Literal["weights", "moments", "state"]
Kept = Literal["weights", "state"]
Extension = Literal["mean", "composition", "random"]


def canonical(value: Any) -> Any:
    """Returns a JSON-ready form of a config value in which every dataclass names its type.

    A field that is None is left out: what a run does not use leaves no trace in its identity, so that a field with
    None as its default can be added without changing the identity of any run before it.

    Raises:
      TypeError: for any type whose text form is not guaranteed to be stable.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if names := _field_names(type(value)):  # type: ignore[arg-type]
        fields = ((name, getattr(value, name)) for name in names)
        return {"type": type(value).__name__, **{k: canonical(v) for k, v in fields if v is not None}}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"A config cannot hold the number {value!r}: it has no stable JSON form.")
        return value
    if isinstance(value, (tuple, list)):
        return [canonical(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: canonical(v) for k, v in sorted(value.items())}
    raise TypeError(f"A config cannot hold a {type(value).__name__} ({value!r}): give it a frozen dataclass.")


@functools.cache
def _field_names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass; none of any other type."""
    return tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def canonical_json(value: Any) -> str:
    """One line of JSON, keys sorted: the text that is hashed."""
    return _line(canonical(value))


def fingerprint(value: Any, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical JSON of `value`."""
    return form_fingerprint(canonical(value), length)


def form_fingerprint(form: Any, length: int = 16) -> str:
    """The fingerprint of the value whose canonical form is `form`: of a `config.json` as it was read."""
    return hashlib.sha256(_line(form).encode()).hexdigest()[:length]


def _line(form: Any) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of one decoder.

    `gpt2` is the family of arXiv:2404.07982 (learned positions, LayerNorm, GELU, biases, untied head, embeddings
    times sqrt(d)); `llama` that of arXiv:2407.02118 (rotary positions, RMSNorm, SwiGLU, no biases, untied head).
    Query, key and value are `n_heads * head_dim` wide, which may differ from `d_model`.

    `base_width` None is the standard parametrisation. A number makes it muP (arXiv:2203.03466), in which the best
    learning rate found at that width stays the best at others of the same depth: see `lab.model` and `lab.optim`.
    """

    family: Family
    d_model: int
    n_layers: int
    n_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    context: int
    base_width: int | None = None

    @property
    def width_ratio(self) -> float:
        """Width over base width, by which muP scales: 1 in the standard parametrisation."""
        return 1.0 if self.base_width is None else self.d_model / self.base_width

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise LabError(f"A model needs {field.name} of at least 1, not {value}.")
        if self.family not in typing.get_args(Family):
            raise LabError(f"Unknown model family {self.family!r}.", f"Known: {typing.get_args(Family)}.")
        if self.family == "llama" and self.head_dim % 2:
            raise LabError(f"Rotary positions need an even head_dim, not {self.head_dim}.")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning-rate schedule. `warmup` and `cooldown` are shares of the run; `final_lr` a share of
    `peak_lr`; `clip` the largest global gradient norm, or None."""

    peak_lr: float
    schedule: ScheduleName = "cosine"
    warmup: float = 0.02
    cooldown: float = 0.2
    final_lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.schedule not in typing.get_args(ScheduleName):
            raise LabError(f"Unknown schedule {self.schedule!r}.", f"Known: {typing.get_args(ScheduleName)}.")
        if not self.peak_lr > 0:
            raise LabError(f"The peak learning rate must be above 0, not {self.peak_lr}.")
        if not (0 <= self.warmup < 1 and 0 <= self.cooldown <= 1):
            raise LabError(f"Warm-up {self.warmup} and cooldown {self.cooldown} are shares of the run in [0, 1).")


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


@dataclasses.dataclass(frozen=True)
class Parent:
    """Where a run starts that does not start from random parameters.

    Attributes:
      run_id: the parent's identity.
      step: how many updates the parent had made.
      carry: `weights` takes the parameters and starts everything else afresh (continual pre-training: step 0, new
        moments, re-warmed rate). `moments` takes Adam's moments, too: with no warm-up and the parent's rate, the
        schedule goes on, on other text. `state` goes on from the parent's step with its moments, on the examples that
        come next (a cooldown branch of a trunk).
      extension: where the vocabulary is larger than the parent's, how the new rows begin (`lab.extension`).
    """

    run_id: str
    step: int
    carry: Carry
    extension: Extension | None = None

    @property
    def needs(self) -> Kept:
        """What the parent must have kept."""
        return "weights" if self.carry == "weights" else "state"

    def __post_init__(self) -> None:
        if self.carry not in typing.get_args(Carry):
            raise LabError(f"A run cannot carry {self.carry!r} from its parent.", f"Known: {typing.get_args(Carry)}.")
        if self.step < 1:
            raise LabError(f"A run starts from its parent's step 1 or later, not {self.step}.")
        if self.extension not in (None, *typing.get_args(Extension)):
            raise LabError(f"Unknown extension {self.extension!r}.", f"Known: {typing.get_args(Extension)}.")
        if self.extension and self.carry != "weights":
            raise LabError(f"New pieces have no {self.carry} to carry on.", "Extend a vocabulary with carry='weights'.")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run. Its fingerprint is its identity.

    Attributes:
      steps: optimiser updates counted from the start of the trajectory; tokens seen = steps * batch * context.
      batch: sequences a step, each of `model.context` tokens.
      seed_init: seed of the parameters.
      seed_data: seed of the order of the examples.
      parent: the run whose checkpoint this one starts from; None starts from random parameters.
    """

    model: ModelConfig
    optim: OptimConfig
    mixture: MixtureConfig
    steps: int
    batch: int
    seed_init: int = 0
    seed_data: int = 0
    parent: Parent | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise LabError(f"A run needs steps and batch of at least 1, not {self.steps} and {self.batch}.")
        if self.first_step >= self.steps:
            raise LabError(f"A branch of {self.steps} steps cannot start at its trunk's step {self.first_step}.")

    @functools.cached_property
    def run_id(self) -> str:
        return fingerprint(self)

    @property
    def first_step(self) -> int:
        """Updates that were made before this run began: those of its trunk, if it is a branch."""
        return self.parent.step if self.parent and self.parent.carry == "state" else 0

    def at(self, share: float) -> int:
        """Updates made after a share of the run, in (0, 1]; at least one."""
        return max(self.first_step + 1, self.first_step + round(share * (self.steps - self.first_step)))

    @property
    def tokens_seen(self) -> int:
        return self.steps * self.batch * self.model.context


def to_json(value: Any) -> dict[str, Any]:
    """The canonical form of a config, for `config.json`."""
    form = canonical(value)
    assert isinstance(form, dict)
    return form


def from_json(form: dict[str, Any]) -> Any:
    """Rebuilds the config that `to_json` wrote.

    Raises:
      LabError: when the form names an unknown type or field.
    """
    types = (
        ModelConfig,
        OptimConfig,
        Source,
        Component,
        Stage,
        LanguageIds,
        LayoutConfig,
        MixtureConfig,
        Parent,
        RunConfig,
    )
    kinds = {c.__name__: c for c in types}

    def build(node: Any) -> Any:
        if isinstance(node, list):
            return tuple(build(v) for v in node)
        if isinstance(node, dict):
            fields = dict(node)
            name = fields.pop("type", None)
            if name not in kinds:
                raise LabError(f"The config names an unknown type {name!r}.", "Was it written by another version?")
            known = {f.name for f in dataclasses.fields(kinds[name])}
            if unknown := sorted(fields.keys() - known):
                raise LabError(
                    f"The config's {name} has unknown fields {unknown}.", "Was it written by another version?"
                )
            return kinds[name](**{k: build(v) for k, v in fields.items()})
        return node

    return build(form)
