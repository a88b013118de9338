"""Continual pre-training (arXiv:2407.02118): what does a model of one language save another one?

    lab sweep plan continual --scale embedded
    lab sweep run continual --scale embedded      # English to Middle English, on the laboratory's own text
    lab sweep run continual --scale nano          # on novels in this folder: docs/continual.md

Sources are trained first. A continued run (`cpt`) takes the weights of a finished source of its size and re-warms; a
run from `scratch` reads the same text of the target from random parameters. Budgets of one trajectory are cooldown
branches of one trunk, and count the target's tokens: with a share r of the source replayed, a run reads D / (1 - r).
Names of arms are made by `analysis.continual.names`.

Arms are trained in orders, each a valid place to stop: (1) the ladder of sizes and budgets, for the laws; (2) replay;
(3) other targets: real languages, another domain, and derived languages at known distances; (4) vocabularies; (5) more
seeds of replay and of the ladder's side sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from analysis.continual.names import EXTENDED, OWN, arm, what
from lab.config import Extension, LanguageIds, RunConfig
from lab.data.prepare import Prepared
from lab.presets import names as preset_names
from sweeps.continual_claims import TARGET, claims
from sweeps.continual_runs import (
    DISTANCE,
    LADDER,
    MAIN,
    NEW,
    OTHER_SEEDS,
    REPLAY,
    VOCABULARY,
    Continual,
    Dial,
    Maker,
    Pair,
    text,
)
from sweeps.study import Arm, LawFit, Study

# Evaluations along a replayed run, of which Figure 5 is made.
EVALUATIONS = 8
COLUMNS = {"N": "n_nonembedding", "D": "tokens_language"}
# Arms of the ladder, which have no setting in their names (`analysis.continual.names`).
LADDER_ARMS = f"arm.str.fullmatch('{{}}, [^,]+, [^,]+') and language == '{TARGET}'"
EXTENSIONS: tuple[Extension, ...] = ("composition", "mean", "random")

DIAL = (
    Dial("same language"),
    Dial("renamed 25 %", renamed=0.25),
    Dial("renamed 50 %", renamed=0.5),
    Dial("renamed 100 %", renamed=1.0),
    Dial("neighbours swapped", "order=swap"),
    Dial("words reversed", "order=reverse"),
    Dial("respelled 50 %", "spelling=0.5"),
)


def arms(prepared: Mapping[str, Prepared], scale: Continual) -> tuple[Arm, ...]:
    make = Maker(prepared, scale)
    parts = {LADDER: _ladder, REPLAY: _replay, DISTANCE: _distance, VOCABULARY: _vocabulary}
    found = [one for order, part in parts.items() for one in part(make) if order in scale.orders]
    # What two orders need is trained with the first.
    unique = {one.run.run_id: one for one in reversed(found)}
    return tuple(one for one in reversed(unique.values()) if one.order in scale.orders)


def _seeds(scale: Continual, size: str) -> Iterator[tuple[int, int]]:
    """Seeds of the ladder at a size, each with its order."""
    for k, seed in enumerate(scale.seeds):
        yield seed, LADDER if k == 0 or size == scale.main else OTHER_SEEDS


def _parent(
    found: Sequence[Arm], scale: Continual, size: str, tokens: float | None = None, setting: str = ""
) -> RunConfig:
    """The finished source among some arms."""
    name = arm(what("source", setting), tokens or scale.parent_tokens, size)
    return next(one.run for one in found if one.name == name)


def _ladder(make: Maker) -> Iterator[Arm]:
    scale, pair = make.scale, make.pair()
    longest = scale.tokens[-1]
    for size in scale.sizes:
        for seed, order in _seeds(scale, size):
            sources = make.branches(order, "source", make.source_run(pair, size, longest, seed), scale.tokens, size)
            yield from sources
            scratch = make.scratch_run(pair, size, longest, seed)
            yield from make.branches(order, "scratch", scratch, scale.tokens, size)
            parents = {"": scale.parent_tokens}
            if size == scale.main:
                parents[f"from {scale.other_parent:g}M"] = scale.other_parent
            for setting, tokens in parents.items():
                run = make.continued(pair, _parent(sources, scale, size, tokens), size, longest, seed)
                yield from make.branches(order, what("cpt", setting), run, scale.tokens, size)


def _sources(make: Maker, size: str, seed: int) -> list[Arm]:
    """The ladder's sources of one size and seed, to start from."""
    run = make.source_run(make.pair(), size, make.scale.tokens[-1], seed)
    return make.branches(LADDER, "source", run, make.scale.tokens, size)


def _replay(make: Maker) -> Iterator[Arm]:
    scale, pair, size = make.scale, make.pair(), make.scale.main
    for k, seed in enumerate(scale.seeds):
        sources = _sources(make, size, seed)
        parent, trunk = _parent(sources, scale, size), sources[0].run
        order = REPLAY if k == 0 else OTHER_SEEDS
        for replay in scale.replays:
            run = make.continued(pair, parent, size, scale.middle, seed, replay)
            yield Arm(arm(what("cpt", "", replay), scale.middle, size), run, order, EVALUATIONS)
        for replay in (0.2, 0.5):  # the total fixed: fewer tokens of the target
            tokens = scale.middle * (1 - replay)
            run = make.continued(pair, parent, size, tokens, seed, replay)
            yield Arm(arm(what("cpt", "", replay), tokens, size), run, order)
        repeated = make.continued(pair, parent, size, scale.middle, seed, 0.2, repeat=True)
        yield Arm(arm(what("cpt", "source repeated", 0.2), scale.middle, size), repeated, order)
        # The source before its cooldown, with its moments and its rate: the schedule goes on.
        on = make.continued(pair, trunk, size, scale.middle, seed, carry="moments")
        on = dataclasses.replace(on, optim=dataclasses.replace(on.optim, warmup=0.0))
        yield Arm(arm(what("cpt", "schedule continued"), scale.middle, size), on, order)
        if k == 0 and scale.short:
            for other in (scale.sizes[0], size, scale.sizes[-1]):
                start = _parent(_sources(make, other, seed), scale, other)
                for tokens in (scale.short, scale.middle):
                    for replay in (0.0, *scale.few_replays):
                        run = make.continued(pair, start, other, tokens, seed, replay)
                        if replay or tokens not in scale.tokens:
                            yield Arm(arm(what("cpt", "", replay), tokens, other), run, REPLAY)


def _single(make: Maker, order: int, pair: Pair, setting: str, tokens: float, parents: dict[str, Arm]) -> Iterator[Arm]:
    """A source, a run from scratch and a continued one at the main size; sources of one text are shared."""
    scale, size, (seed, *_) = make.scale, make.scale.main, make.scale.seeds
    source = make.source_run(pair, size, scale.parent_tokens, seed)
    first = Arm(arm(what("source", setting), scale.parent_tokens, size), source, order)
    if source.run_id not in parents:
        parents[source.run_id] = first
        yield first
    yield Arm(arm(what("scratch", setting), tokens, size), make.scratch_run(pair, size, tokens, seed), order)
    yield Arm(arm(what("cpt", setting), tokens, size), make.continued(pair, source, size, tokens, seed), order)


def _distance(make: Maker) -> Iterator[Arm]:
    scale = make.scale
    parents: dict[str, Arm] = {}
    for setting in scale.targets:
        if setting:
            tokens = scale.domain.get(setting, scale.middle)
            yield from _single(make, DISTANCE, make.pair(setting), setting, tokens, parents)
    for derivation in scale.settings:
        yield from _single(make, DISTANCE, make.derived(derivation), derivation.name, scale.middle, parents)


def _vocabulary(make: Maker) -> Iterator[Arm]:
    """The target in the source's own vocabulary, and in one that is extended by the target's pieces.

    All read as many bytes of the target as the joint vocabulary's run on `middle` tokens, and as half of it, and are
    called by those tokens.
    """
    scale, size, (seed, *_) = make.scale, make.scale.main, make.scale.seeds
    target = scale.targets[""]
    known = make.prepared[OWN].tokenizer(scale.source).hash
    plain = Pair(make.prepared, (OWN, scale.source), (OWN, target), LanguageIds(TARGET, known, "same"))
    ids = LanguageIds(TARGET, make.prepared[NEW].tokenizer(target).hash, "pieces")
    grown = Pair(make.prepared, (OWN, scale.source), (NEW, target), ids)
    source = make.source_run(plain, size, scale.parent_tokens, seed)
    yield Arm(arm(what("source", OWN), scale.parent_tokens, size), source, VOCABULARY)
    joint = _bytes_per_token(make.prepared[MAIN], target)
    for pair, extension in ((plain, None), *((grown, how) for how in EXTENSIONS)):
        setting = OWN if extension is None else EXTENDED.format(extension)
        group, corpus = pair.target
        worth = joint / _bytes_per_token(make.prepared[group], corpus)
        budgets = (scale.middle / 2, scale.middle)
        tokens = [round(t * worth, 3) for t in budgets]
        run = make.continued(pair, source, size, tokens[-1], seed, extension=extension)
        trunk, *rest = make.branches(VOCABULARY, what("cpt", setting), run, tokens, size)
        yield trunk
        for t, one in zip(budgets, rest, strict=True):
            yield dataclasses.replace(one, name=arm(what("cpt", setting), t, size))


def _bytes_per_token(prepared: Prepared, corpus: str) -> float:
    counts = prepared.store(corpus).manifest.splits["train"]
    return counts.bytes / counts.tokens


NOVELS = {name: f"text:{name}.txt.xz?split=blank2&language={name}" for name in ("en", "fr", "de", "ar")}
NOVELS_TARGETS = {
    "": NOVELS["fr"],
    "German": NOVELS["de"],
    "Arabic": NOVELS["ar"],
    "Chinese, other genre": "text:zh.txt.xz?split=blank&language=zh",
    "English Bible": "embedded:en",
}
RATES = str(Path(__file__).with_name("imbalance_rates.json"))

NANO = Continual(
    name="nano",
    data=text(NOVELS["en"], NOVELS_TARGETS, 1024, DIAL),
    cost="230 runs; orders 1 to 3 are 153, 1.7 hours on 2 CPU cores beside other work",
    source=NOVELS["en"],
    targets=NOVELS_TARGETS,
    sizes=("nano-1", "nano-2", "nano-3", "nano-4"),
    main="nano-3",
    tokens=(0.75, 1.5, 3.0, 6.0, 12.0),
    middle=3.0,
    parent_tokens=6.0,
    other_parent=12.0,
    warmup=0.54,
    context=128,
    batch=8,
    recipe=RATES,
    flops=1e13,
    short=1.5,
    domain={"English Bible": 0.75},
    settings=DIAL,
    near="German",
    far="Arabic",
    seeds=(0, 1),
)

STUDY = Study(
    name="continual",
    question="What does a model of one language save another one, and what does the first one lose?",
    expected="As arXiv:2407.02118 found from 40M to 5B parameters: continued runs end below those from scratch at every"
    " size, by less the longer they train; 5 % of replay ends the forgetting; closer languages transfer more.",
    scales=(
        Continual(
            name="embedded",
            data=text("embedded:en", {"": "embedded:enm"}, 1024, ()),
            cost="190 runs, 65M tokens",
            source="embedded:en",
            targets={"": "embedded:enm"},
            sizes=("nano-2", "nano-3", "nano-4"),
            main="nano-3",
            tokens=(0.15, 0.3, 0.6, 1.2),
            middle=0.6,
            parent_tokens=0.6,
            other_parent=1.2,
            warmup=0.096,
            context=128,
            batch=4,
            recipe="nano",
            flops=2e12,
            orders=(LADDER, REPLAY, VOCABULARY, OTHER_SEEDS),
            replays=(0.01, 0.05, 0.1, 0.2, 0.5),
            seeds=(0, 1, 2),
        ),
        NANO,
        dataclasses.replace(
            NANO,
            name="gpu",
            cost="not measured on a GPU yet; `lab sweep plan continual --scale gpu --device h200` says what it expects",
            sizes=tuple(f"nano-{k}" for k in (2, 3, 4, 5, 6, 7, 8, 10)),
            main="nano-6",
            seeds=(0, 1, 2, 3, 4),
        ),
        Continual(
            name="paper",
            data=text("text:source", {"": "text:target"}, 32_000, ()),
            cost="the paper's 42 sizes; budgets vary at each of them, where the paper has D = 20 N alone",
            source="text:source",
            targets={"": "text:target"},
            sizes=tuple(name for name in preset_names() if name.startswith("cpt-")),
            main="cpt-1393",
            tokens=(2_000.0, 7_000.0, 28_000.0, 110_000.0),
            middle=28_000.0,
            parent_tokens=28_000.0,
            other_parent=110_000.0,
            warmup=1_400.0,
            context=2048,
            batch=512,
            recipe="cpt",
            flops=1e20,
            orders=(LADDER, REPLAY, VOCABULARY),
        ),
    ),
    arms=arms,
    laws=(
        LawFit("chinchilla", LADDER_ARMS.format("scratch"), COLUMNS),
        LawFit("cpt", LADDER_ARMS.format("cpt"), COLUMNS),
    ),
    claims=claims,
)
