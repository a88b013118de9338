"""Language imbalance (arXiv:2404.07982): does a dominant language help a language with little data?

    lab sweep plan imbalance --scale embedded
    lab sweep run imbalance --scale embedded      # on the laboratory's own English
    lab sweep run imbalance --scale nano          # on en.txt.xz and fr.txt.xz in this folder: docs/imbalance.md

`l1` is the dominant language (EN1 in the paper), `clone1` ... `clone9` are copies of it in ids of their own (EN2 ...),
and `l2` is another language (FR). T is the scale's standard budget; an arm's tokens and shares are in its name. Every
run is annealed by itself on its own budget.

Arms are trained in orders, each a valid place to stop: (1) the monolingual ladder, and a clone at six shares; (2)
schedules, and twice the tokens; (3) ten languages, and anchors; (4) two side sizes; (5) a real second language, in
disjoint and merged vocabularies; (6) the rest of the paper's runs; (7) the headline arms at the paper's own learning
rate, which is the same at every size and budget; (8) what the paper does not have: clones that read the same texts, a
clone beside text without structure, and all shares at the side sizes; (9) the other seeds of all but orders 1 and 6;
(10) many seeds of what leaves takeaways 1 to 3 open at a scale: a share of the clone, and the budgets among which it is
read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab.config import Component, LayoutConfig, MixtureConfig, RunConfig, Stage
from lab.data.prepare import Prepared
from lab.presets import preset
from lab.recipes import LANGUINI, recipe
from sweeps.imbalance_claims import EARLY, PARALLEL, SHUFFLED, claims
from sweeps.study import Arm, DataSpec, Scale, Study

RATES = str(Path(__file__).with_name("imbalance_rates.json"))
# A third of the novels is held out: with few of them, the noise of every comparison would be theirs.
NOVELS = ("text:en.txt.xz?split=blank2&test=0.35", "text:fr.txt.xz?split=blank2&test=0.35")
LADDER = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
# The stages of a schedule, as the second language's share in each; all of one length.
SCHEDULES: tuple[tuple[float, ...], ...] = ((0.0, 1.0), (0.1, 0.9))
FIRST = 1
# A real second language, and what is left of the paper's runs then.
REAL, REST = 5, 6
# The longest runs of the largest size, in units of T.
LONGEST = 2.4
# The paper's rate at every size and budget, and its warm-up of 500 of 18,265 steps.
PAPER_RATE = 7
# What the paper does not have.
BEYOND = 8
OTHER_SEEDS = 9
MANY_SEEDS = 10
PAPER_SUFFIX = ", paper's rate"
PAPER = dataclasses.replace(LANGUINI.optim, warmup=500 / 18_265)


@dataclasses.dataclass(frozen=True)
class Imbalance(Scale):
    """The study at one scale.

    Attributes:
      corpora: of `l1` and, where there is one, `l2`; of `data`, the group `text`.
      tokens: T.
      sizes: the main size, then the smaller and the larger one.
      context: tokens a sequence.
      batch: sequences a step.
      recipe: of the learning rate and the rest of the optimiser (`lab.recipes`).
      orders: which orders of arms there are.
      usual: how many of the seeds arms have before order 10; None for all.
      many: share of the clone -> monolingual budgets around it, in units of T: the arms of order 10.
      few: how many of them arms of later orders than the first have before order 9, and those of order 6 at all; None
        for the usual.
      ladder: the monolingual budgets, in units of T.
      shares: of the clone.
    """

    corpora: tuple[str, ...]
    tokens: int
    sizes: tuple[str, str, str]
    context: int
    batch: int
    recipe: str
    orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    seeds: tuple[int, ...] = dataclasses.field(default=(0, 1, 2), kw_only=True)
    usual: int | None = None
    many: Mapping[float, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    few: int | None = 1
    ladder: tuple[float, ...] = LADDER
    shares: tuple[float, ...] = SHARES


def text(corpora: tuple[str, ...], vocab: int) -> dict[str, DataSpec]:
    """Each corpus with a tokenizer of its own; and the first one's tokens in random order, read with its tokenizer."""
    shuffled = f"derived:{corpora[0]}{'&' if '?' in corpora[0] else '?'}order=shuffle-tokens"
    return {"text": DataSpec(corpora, vocab), "shuffled": DataSpec((shuffled,), vocab, tokenizer_from=corpora[:1])}


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes the arms of one scale."""

    texts: Mapping[str, Prepared]
    scale: Imbalance

    @property
    def prepared(self) -> Prepared:
        return self.texts["text"]

    def mixture(
        self, layout: LayoutConfig, sources: dict[str, str], stages: list[tuple[float, ...]], counter: str | None = None
    ) -> MixtureConfig:
        """`sources` gives each language's corpus, and each stage the languages' shares; stages are of one length.
        Languages after the first read their corpus by a counter of their own, if one is named."""
        components = tuple(
            Component(name, self.prepared.source(corpus), counter if k else None)
            for k, (name, corpus) in enumerate(sources.items())
        )
        fractions = tuple(Stage(1 / len(stages), shares) for shares in stages)
        return MixtureConfig(components, layout, fractions)

    def alone(self, language: str) -> MixtureConfig:
        corpus = self._corpus(language)
        layout = LayoutConfig.joint((language,), self.prepared.tokenizer(corpus).hash)
        return self.mixture(layout, {language: corpus}, [(1.0,)])

    def clones(
        self, stages: list[tuple[float, ...]], anchored: float = 0.0, counter: str | None = None
    ) -> MixtureConfig:
        """`l1` and as many clones as each stage has shares after its first."""
        names = ("l1", *(f"clone{k}" for k in range(1, len(stages[0]))))
        corpus = self._corpus("l1")
        layout = LayoutConfig.clones(names, self.prepared.tokenizer(corpus).hash, anchored)
        return self.mixture(layout, dict.fromkeys(names, corpus), stages, counter)

    def null(self, share: float) -> MixtureConfig:
        """A clone whose partner is text without structure: `l1`'s tokens, shuffled."""
        names = ("shuffled", "clone1")
        layout = LayoutConfig.clones(names, self.prepared.tokenizer(self._corpus("l1")).hash)
        (partner,) = self.texts["shuffled"].stores.values()
        components = (
            Component("shuffled", partner.source),
            Component("clone1", self.prepared.source(self._corpus("l1"))),
        )
        return MixtureConfig(components, layout, (Stage(1.0, (1 - share, share)),))

    def pair(self, shares: tuple[float, ...], merged: bool) -> MixtureConfig:
        """`l1` and `l2`, with the share of `l2` in each stage."""
        corpora = {name: self._corpus(name) for name in ("l1", "l2")}
        tokenizers = tuple(self.prepared.tokenizer(corpus).hash for corpus in corpora.values())
        layout = (LayoutConfig.merged if merged else LayoutConfig.disjoint)(("l1", "l2"), tokenizers)
        return self.mixture(layout, corpora, [(1 - p, p) for p in shares])

    def arms(self, order: int, what: str, mixture: MixtureConfig, times: float = 1.0, size: int = 0) -> Iterator[Arm]:
        """The runs of one arm: `times` T at a size (0 is the main one), one a seed."""
        scale = self.scale
        name = f"{what}, {times:g} T, {scale.sizes[size]}"
        vocab = self.prepared.layout(mixture.layout).v_total
        model = preset(scale.sizes[size], vocab=vocab, context=scale.context)
        tokens = scale.tokens * times
        if order == PAPER_RATE:
            name, optim = name + PAPER_SUFFIX, PAPER
        else:  # budgets beyond the tuned ones, up to 4 T, are said in docs/imbalance.md
            optim = recipe(scale.recipe, extrapolate=True).setup(model, tokens, scale.batch).optim
        if order == MANY_SEEDS:
            seeds = scale.seeds[scale.usual :] if scale.usual is not None else ()
        else:
            seeds = scale.seeds[: scale.usual][: scale.few if order == REST else None]
        for k, seed in enumerate(seeds):
            run = RunConfig(
                model=model,
                optim=optim,
                mixture=mixture,
                steps=round(tokens / (scale.batch * scale.context)),
                batch=scale.batch,
                seed_init=seed,
                seed_data=seed,
            )
            waits = order not in (FIRST, MANY_SEEDS) and scale.few is not None and k >= scale.few
            early = (EARLY,) if len(mixture.components) > 1 else ()
            yield Arm(name, run, OTHER_SEEDS if waits else order, probed=early)

    def _corpus(self, language: str) -> str:
        return self.scale.corpora[1 if language == "l2" else 0]


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def schedule_name(shares: tuple[float, ...]) -> str:
    return " -> ".join(percent(p) for p in shares)


def arms(texts: Mapping[str, Prepared], scale: Imbalance) -> tuple[Arm, ...]:
    make = _Maker(texts, scale)
    found: list[Arm] = []

    def add(order: int, what: str, mixture: MixtureConfig, *more: float, size: int = 0) -> None:
        if order in scale.orders:
            for times in more or (1.0,):
                found.extend(make.arms(order, what, mixture, times, size))

    def clone(*shares: float) -> MixtureConfig:
        return make.clones([(1 - p, p) for p in shares])

    l1 = make.alone("l1")
    add(FIRST, "l1", l1, *scale.ladder)
    for p in scale.shares:
        add(FIRST, f"clone {percent(p)}", clone(p))

    for schedule in SCHEDULES:
        add(2, f"clone {schedule_name(schedule)}", clone(*schedule))
    add(2, "l1", l1, 2.0)
    twice: tuple[tuple[float, ...], ...] = ((0.5,), (0.1,), (0.1, 0.9))
    for stages in twice:
        add(2, f"clone {schedule_name(stages)}", clone(*stages), 2.0)

    add(3, "9 clones, 10 % each", make.clones([(0.1,) * 10]))
    add(3, "9 clones, 50 % together", make.clones([(0.5, *[0.5 / 9] * 9)]))
    for anchored in (0.05, 0.25):
        add(3, f"clone 50 %, {percent(anchored)} anchored", make.clones([(0.5, 0.5)], anchored))

    for size in (1, 2):
        add(4, "l1", l1, 0.05, 0.1, 0.25, 0.5, 1.0, size=size)
        for p in (0.5, 0.1):
            add(4, f"clone {percent(p)}", clone(p), size=size)

    if any(order in scale.orders for order in (REAL, REST)):
        l2 = make.alone("l2")
        add(REAL, "l2", l2, *scale.ladder)
        for merged, vocabulary in ((False, "disjoint"), (True, "merged")):
            for p in (0.1, 0.3, 0.5, 0.7, 0.9):
                add(REAL, f"l2 {percent(p)}, {vocabulary}", make.pair((p,), merged))
            for p in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
                add(REST, f"l2 {percent(p)}, {vocabulary}", make.pair((p,), merged))
        add(REST, "l2 10 % -> 90 %, disjoint", make.pair((0.1, 0.9), False))
        for schedule in ((0.1, 0.9), (0.1, 0.9, 0.5, 0.5), (0.05, 0.65, 0.65, 0.65)):
            add(REST, f"l2 {schedule_name(schedule)}, merged", make.pair(schedule, True))
        for stages in twice:
            add(REST, f"l2 {schedule_name(stages)}, merged", make.pair(stages, True), 2.0, 3.0)
        add(REST, "l2", l2, 2.0, 3.0)
        for size in (1, 2):
            add(REST, "l2", l2, 0.05, 0.1, 0.25, 0.5, 1.0, size=size)
            for p in (0.5, 0.1):
                add(
                    REST,
                    f"l2 {percent(p)}, merged",
                    make.pair((p,), True),
                    0.5 if size == 1 else LONGEST,
                    1.0,
                    size=size,
                )
        add(REST, "l2", l2, LONGEST, size=2)

    add(REST, "l1", l1, 3.0, 4.0)
    for p in (0.5, 0.1):
        add(REST, f"clone {percent(p)}", clone(p), 3.0, 4.0)
    add(REST, "clone 10 % -> 90 %", clone(0.1, 0.9), 3.0)
    for anchored in (0.1, 0.5, 0.8, 0.9):
        add(REST, f"clone 50 %, {percent(anchored)} anchored", make.clones([(0.5, 0.5)], anchored))
    for times, size in ((0.5, 1), (LONGEST, 2)):
        for p in (0.5, 0.1):
            add(REST, f"clone {percent(p)}", clone(p), times, size=size)
    add(REST, "l1", l1, LONGEST, size=2)

    add(PAPER_RATE, "l1", l1, *scale.ladder)
    for p in (0.5, 0.1):
        add(PAPER_RATE, f"clone {percent(p)}", clone(p))

    for p in (0.5, 0.1):
        add(BEYOND, f"clone {percent(p)}, {PARALLEL}", make.clones([(1 - p, p)], counter="parallel"))
    if BEYOND in scale.orders:
        add(BEYOND, f"clone {percent(0.1)}, {SHUFFLED}", make.null(0.1))
    for size in (1, 2):
        for p in scale.shares:
            if p not in (0.5, 0.1):
                add(BEYOND, f"clone {percent(p)}", clone(p), size=size)

    for p, budgets in scale.many.items():
        add(MANY_SEEDS, "l1", l1, *budgets)
        add(MANY_SEEDS, f"clone {percent(p)}", clone(p))
    return tuple(found)


NANO = Imbalance(
    name="nano",
    data=text(NOVELS, 1024),
    corpora=NOVELS,
    cost="314 runs, 868M tokens; order 1 is 42 runs, 88M tokens, 40 minutes on 2 CPU cores",
    tokens=3_000_000,
    sizes=("nano-4", "nano-2", "nano-6"),
    context=128,
    batch=8,
    recipe=RATES,
    orders=(1, 2, 3, 4, 5, 6, 7, 8, MANY_SEEDS),
    seeds=tuple(range(9)),
    usual=3,
    many={0.1: (0.05, 0.1, 0.2)},
)

STUDY = Study(
    name="imbalance",
    question="Does a dominant language make the tokens of a rarer one worth more, and when?",
    expected="As arXiv:2404.07982 found at 85M parameters: a clone at 10 % learns about twice as much from each of its "
    "tokens as alone, one at 50 % less than alone; real languages gain less than clones, and less with more data.",
    scales=(
        Imbalance(
            name="embedded",
            data=text(("embedded:en",), 1024),
            corpora=("embedded:en",),
            cost="132 runs, 71M tokens, about half an hour on 2 CPU cores",
            tokens=1_200_000,
            sizes=("nano-4", "nano-2", "nano-6"),
            context=128,
            batch=4,
            recipe="nano",
            orders=(1, 7, MANY_SEEDS),
            # Seeds 3 to 5 are those of the table of other seeds.
            seeds=(0, 1, 2, *range(6, 24)),
            usual=3,
            many={0.1: (0.05, 0.1, 0.2)},
            few=None,
            shares=(0.1, 0.5),
        ),
        NANO,
        dataclasses.replace(
            NANO,
            name="gpu",
            cost="not measured on a GPU yet; `lab sweep plan imbalance --scale gpu --device h200` says what it expects",
            tokens=3_500_000,
            sizes=("nano-6", "nano-4", "nano-10"),
            orders=(1, 2, 3, 4, 5, 6, 7, 8),
            seeds=(0, 1, 2, 3, 4),
            usual=None,
            many={},
            few=None,
        ),
        Imbalance(
            name="paper",
            data=text(("text:en", "text:fr"), 16_384),
            corpora=("text:en", "text:fr"),
            cost="227 runs, 268B tokens, on text of that size in the folders en and fr",
            tokens=1_197_015_040,
            sizes=("languini-small", "languini-mini", "languini-medium"),
            context=512,
            batch=128,
            recipe="languini",
            orders=(1, 2, 3, 4, 5, 6),
        ),
    ),
    arms=arms,
    claims=claims,
    again=PAPER_SUFFIX,
)
