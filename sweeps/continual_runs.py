"""How the runs of the study of continual pre-training are made: text, vocabularies, sources, and what follows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from analysis.continual.names import OWN, arm
from lab.config import (
    Carry,
    Component,
    Extension,
    LanguageIds,
    LayoutConfig,
    MixtureConfig,
    OptimConfig,
    Parent,
    RunConfig,
    Stage,
)
from lab.data.prepare import Prepared
from lab.data.vocabulary import build_layout
from lab.presets import preset
from lab.recipes import recipe
from sweeps.continual_claims import SOURCE, TARGET
from sweeps.designs import steps_of, trunk_and_branches
from sweeps.study import Arm, DataSpec, Scale

LADDER, REPLAY, DISTANCE, VOCABULARY, OTHER_SEEDS = 1, 2, 3, 4, 5
MILLION = 1_000_000
COOLDOWN = 0.2
# Groups of text, beside one for every further target, named as its setting.
MAIN, DERIVED, NEW = "main", "derived", "target's vocabulary"  # and OWN


@dataclasses.dataclass(frozen=True)
class Dial:
    """One setting of a derived target: of its text (options of `derived:`), or of its pieces."""

    name: str
    options: str = ""
    renamed: float | None = None


@dataclasses.dataclass(frozen=True)
class Continual(Scale):
    """The study at one scale. Tokens are in millions.

    Attributes:
      source: the corpus of sources.
      targets: corpora by setting; the main one is called "".
      sizes: of the ladder, rising.
      main: the size of everything but the ladder.
      tokens: budgets of the target, and of sources, at every size, rising.
      middle: the one of them at which everything but the ladder is tested.
      parent_tokens: the one of them that sources have seen; `other_parent` another one, at the main size.
      warmup: tokens.
      context, batch, recipe: as in other studies.
      orders: which orders of arms there are.
      replays: shares of the source; `few_replays` of them at side sizes, and on `short` tokens.
      domain: tokens of the targets that have few, by setting.
      settings: of the derived target.
      near, far: settings of two real targets.
      flops: at which the best sizes are compared.
    """

    source: str
    targets: Mapping[str, str]
    sizes: tuple[str, ...]
    main: str
    tokens: tuple[float, ...]
    middle: float
    parent_tokens: float
    other_parent: float
    warmup: float
    context: int
    batch: int
    recipe: str
    flops: float
    orders: tuple[int, ...] = (LADDER, REPLAY, DISTANCE, VOCABULARY, OTHER_SEEDS)
    replays: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.5, 0.8)
    few_replays: tuple[float, ...] = (0.05, 0.2, 0.5)
    short: float = 0.0
    domain: Mapping[str, float] = dataclasses.field(default_factory=dict)
    settings: tuple[Dial, ...] = ()
    near: str = ""
    far: str = ""

    @property
    def dial(self) -> tuple[str, ...]:
        """Settings of renamed pieces, the nearest first: one kind of distance, from none to all."""
        return tuple(s.name for s in self.settings if s.renamed is not None)


def derived(corpus: str, options: str) -> str:
    """A corpus derived from another one, whose name may have options of its own."""
    return f"derived:{corpus}{'&' if '?' in corpus else '?'}{options}"


def other_half(source: str, setting: Dial) -> str:
    return derived(source, "&".join(filter(None, ("half=b", setting.options))))


def text(source: str, targets: Mapping[str, str], vocab: int, settings: Sequence[Dial]) -> dict[str, DataSpec]:
    """The groups of text of a scale: a joint tokenizer a pair; the source's own for what is derived from it."""
    groups = {name or MAIN: DataSpec((source, corpus), vocab, joint=True) for name, corpus in targets.items()}
    main = targets[""]
    groups[OWN] = DataSpec((source, main), vocab, tokenizer_from=(source,))
    groups[NEW] = DataSpec((main,), vocab)
    if settings:
        half = derived(source, "half=a")
        others = tuple(dict.fromkeys(other_half(source, setting) for setting in settings))
        groups[DERIVED] = DataSpec((half, *others), vocab, tokenizer_from=(half,))
    return groups


@dataclasses.dataclass(frozen=True)
class Pair:
    """A source and a target with their text and vocabulary: what the runs of one setting have in common."""

    prepared: Mapping[str, Prepared]
    source: tuple[str, str]  # group and corpus
    target: tuple[str, str]
    ids: LanguageIds  # of the target, after the source

    @property
    def alone(self) -> LayoutConfig:
        group, corpus = self.source
        return LayoutConfig.joint((SOURCE,), self.prepared[group].tokenizer(corpus).hash)

    @property
    def layout(self) -> LayoutConfig:
        return LayoutConfig((*self.alone.languages, self.ids))

    def vocab(self, layout: LayoutConfig) -> int:
        tokenizers = {h: t for group, _ in (self.source, self.target) for h, t in self.prepared[group].by_hash.items()}
        return build_layout(layout, tokenizers).v_total

    def mixture(self, layout: LayoutConfig, shares: Mapping[str, float], start: int = 0) -> MixtureConfig:
        stores = {SOURCE: self.source, TARGET: self.target}
        components = tuple(
            Component(name, self.prepared[group].source(corpus), start=(start or None) if name == SOURCE else None)
            for name, (group, corpus) in stores.items()
            if name in shares
        )
        return MixtureConfig(components, layout, (Stage(1.0, tuple(shares.values())),))


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the arms of one scale."""

    prepared: Mapping[str, Prepared]
    scale: Continual

    def pair(self, setting: str = "") -> Pair:
        """Source and target in the vocabulary of both."""
        scale, group = self.scale, setting or MAIN
        source, target = scale.source, {**scale.targets}[setting]
        tokenizer = self.prepared[group].tokenizer(source).hash
        return Pair(self.prepared, (group, source), (group, target), LanguageIds(TARGET, tokenizer, "same"))

    def derived(self, setting: Dial) -> Pair:
        """Half of the source's documents, and the other half changed."""
        scale, group = self.scale, DERIVED
        half, other = derived(scale.source, "half=a"), other_half(scale.source, setting)
        tokenizer = self.prepared[group].tokenizer(half).hash
        ids = LanguageIds(TARGET, tokenizer, "same", renamed=setting.renamed)
        return Pair(self.prepared, (group, half), (group, other), ids)

    def run(self, layout: LayoutConfig, mixture: MixtureConfig, vocab: int, size: str, tokens: float, seed: int,
            parent: Parent | None = None) -> RunConfig:  # fmt: skip
        """A run of so many tokens, in millions, of all languages."""
        scale = self.scale
        model = preset(size, vocab=vocab, context=scale.context)
        steps = steps_of(round(tokens * MILLION), scale.batch, scale.context)
        rule = recipe(scale.recipe, extrapolate=True).setup(model, scale.middle * MILLION, scale.batch)
        warmup = scale.warmup * MILLION / (scale.batch * scale.context) / steps
        optim = OptimConfig(rule.optim.peak_lr, "wsd", warmup=warmup, cooldown=COOLDOWN)
        return RunConfig(model, optim, mixture, steps, scale.batch, seed, seed, parent)

    def branches(self, order: int, named: str, run: RunConfig, tokens: Sequence[float], size: str) -> list[Arm]:
        """A trunk and its branches at some budgets, given the longest run."""
        scale = self.scale
        steps = [steps_of(round(t * MILLION), scale.batch, scale.context) for t in tokens]
        trunk, *rest = trunk_and_branches(run, steps)
        length = trunk.tokens_seen / MILLION
        found = [Arm(arm(f"{named} trunk", round(length, 2), size), trunk, order)]
        return found + [Arm(arm(named, t, size), branch, order) for t, branch in zip(tokens, rest, strict=True)]

    def source_run(self, pair: Pair, size: str, tokens: float, seed: int) -> RunConfig:
        mixture = pair.mixture(pair.alone, {SOURCE: 1.0})
        return self.run(pair.alone, mixture, pair.vocab(pair.alone), size, tokens, seed)

    def scratch_run(self, pair: Pair, size: str, tokens: float, seed: int) -> RunConfig:
        layout = pair.layout
        return self.run(layout, pair.mixture(layout, {TARGET: 1.0}), pair.vocab(layout), size, tokens, seed)

    def continued(
        self, pair: Pair, parent: RunConfig, size: str, tokens: float, seed: int, replay: float = 0.0,
        carry: Carry = "weights", extension: Extension | None = None, repeat: bool = False,
    ) -> RunConfig:  # fmt: skip
        """A continued run that reads so many tokens of the target; the source goes on where the parent stopped, or is
        read again from its beginning."""
        layout = pair.layout
        start = 0 if repeat else parent.steps * parent.batch
        mixture = pair.mixture(layout, {SOURCE: replay, TARGET: 1 - replay}, start)
        begun = Parent(parent.run_id, parent.steps, carry, extension)
        return self.run(layout, mixture, pair.vocab(layout), size, tokens / (1 - replay), seed, begun)
