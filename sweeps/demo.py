"""Demo: from the World English Bible and Wycliffe's Bible to a law, a figure and an answer, in minutes on two cores.

    lab sweep run demo

Two real languages with the same content: modern English, and Middle English as the language with little data.
Three questions: how does the loss fall with model size and tokens; what is a token of English worth for Middle
English; and does imbalance help a clone of English, as arXiv:2404.07982 found at scale?
"""

from __future__ import annotations

from lab.config import Component, LayoutConfig, MixtureConfig, RunConfig, Stage
from lab.data.prepare import Prepared
from lab.presets import preset
from lab.recipes import recipe
from sweeps.study import Arm, DataSpec, LawFit, Scale, Study

EN, ENM = "embedded:en", "embedded:enm"
VOCAB = 1024
CONTEXT = 128
BATCH = 4
SIZES = ("nano-1", "nano-2", "nano-3", "nano-4")
MIXED = "nano-3"
# Tokens; the longest is just under an epoch of English.
BUDGETS = (150_000, 300_000, 600_000, 1_200_000)
# The monolingual ladders reach below the own tokens of the rarest language in a mixture, so that TEff interpolates.
LADDER = (80_000, *BUDGETS)
SEEDS = (0, 1)


def run(size: str, tokens: int, mixture: MixtureConfig, vocab: int, seed: int) -> RunConfig:
    model = preset(size, vocab=vocab, context=CONTEXT)
    # The rule through the best rates of `sweeps/demo_rates.py`, used down to half of its least budget.
    optim = recipe("nano", extrapolate=True).setup(model, tokens, BATCH).optim
    return RunConfig(
        model=model,
        optim=optim,
        mixture=mixture,
        steps=tokens // (BATCH * CONTEXT),
        batch=BATCH,
        seed_init=seed,
        seed_data=seed,
    )


def alone(prepared: Prepared, corpus: str) -> MixtureConfig:
    """One language by itself."""
    language = corpus.partition(":")[2]
    layout = LayoutConfig.joint((language,), prepared.tokenizer(corpus).hash)
    return MixtureConfig((Component(language, prepared.source(corpus)),), layout, (Stage(1.0, (1.0,)),))


def arms(prepared: Prepared, scale: Scale) -> tuple[Arm, ...]:
    english, middle = prepared.source(EN), prepared.source(ENM)
    en_tokenizer, enm_tokenizer = prepared.tokenizer(EN).hash, prepared.tokenizer(ENM).hash
    merged = LayoutConfig.merged(("en", "enm"), (en_tokenizer, enm_tokenizer))
    clones = LayoutConfig.clones(("en", "en2"), en_tokenizer)
    merged_size, clone_size = prepared.layout(merged).v_total, prepared.layout(clones).v_total

    def pair(share: float) -> MixtureConfig:
        components = (Component("en", english), Component("enm", middle))
        return MixtureConfig(components, merged, (Stage(1.0, (1 - share, share)),))

    def twins(share: float) -> MixtureConfig:
        components = (Component("en", english), Component("en2", english))
        return MixtureConfig(components, clones, (Stage(1.0, (1 - share, share)),))

    found = []
    longest = BUDGETS[-1]
    for seed in SEEDS:
        for size in SIZES:
            for tokens in LADDER if size == MIXED else BUDGETS:
                found.append(Arm(f"English alone, {size}", run(size, tokens, alone(prepared, EN), VOCAB, seed)))
        for tokens in LADDER:
            found.append(Arm("Middle English alone", run(MIXED, tokens, alone(prepared, ENM), VOCAB, seed)))
        for share in (0.5, 0.25, 0.1):
            name = f"English and {share:.0%} Middle English"
            found.append(Arm(name, run(MIXED, longest, pair(share), merged_size, seed)))
        for share in (0.5, 0.1):
            name = f"English and {share:.0%} clone"
            found.append(Arm(name, run(MIXED, longest, twins(share), clone_size, seed)))
    return tuple(found)


STUDY = Study(
    name="demo",
    question="How does loss fall with size and tokens, and what is English worth for Middle English?",
    expected="A tied law with an exponent of .2 to .6; the smaller the share of Middle English, the more a token of it "
    "is helped by English; a clone at 10 % learns faster per own token than at 50 %.",
    scales=(Scale("nano", DataSpec((EN, ENM), VOCAB), "54 runs, about 10 minutes on 2 CPU cores"),),
    arms=arms,
    laws=(
        LawFit(
            "tied",
            where="arm.str.startswith('English alone') and tokens_seen > 1e5",  # the budgets that every size has
            columns={"N": "n_nonembedding", "D": "tokens_language"},
            params={"E": 3.46, "A": 35.2, "B": 379.0, "alpha": 0.55},  # as measured
        ),
    ),
)
