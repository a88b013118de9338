"""Learning rates for the study of language imbalance: five peak rates at three sizes, on the least and the most text.

    lab sweep run imbalance_rates

The text is two files in the folder where the command runs: `en.txt.xz` and `fr.txt.xz`, novels whose ends are two
blank lines (docs/imbalance.md says how to obtain them).
"""

from __future__ import annotations

import dataclasses

from lab.config import Component, LayoutConfig, MixtureConfig, OptimConfig, RunConfig, Stage
from lab.data.prepare import Prepared
from lab.presets import preset
from sweeps.study import Arm, DataSpec, Scale, Study

L1, L2 = "text:en.txt.xz?split=blank2", "text:fr.txt.xz?split=blank2"
VOCAB = 1024
CONTEXT = 128
BATCH = 8
WARMUP = 0.25
RATES = (2e-3, 4e-3, 8e-3, 16e-3, 32e-3)
SEEDS = (0, 1)


@dataclasses.dataclass(frozen=True)
class Rates(Scale):
    """The sizes (the main one first: its rates are wanted first) and the standard budget of one scale of the study."""

    sizes: tuple[str, ...]
    tokens: int


def run(size: str, tokens: int, mixture: MixtureConfig, vocab: int, rate: float, seed: int) -> RunConfig:
    return RunConfig(
        model=preset(size, vocab=vocab, context=CONTEXT),
        optim=OptimConfig(peak_lr=rate, schedule="cosine", warmup=WARMUP),
        mixture=mixture,
        steps=tokens // (BATCH * CONTEXT),
        batch=BATCH,
        seed_init=seed,
        seed_data=seed,
    )


def alone(prepared: Prepared, corpus: str, language: str) -> MixtureConfig:
    """One language by itself."""
    layout = LayoutConfig.joint((language,), prepared.tokenizer(corpus).hash)
    return MixtureConfig((Component(language, prepared.source(corpus)),), layout, (Stage(1.0, (1.0,)),))


def arms(prepared: Prepared, scale: Rates) -> tuple[Arm, ...]:
    mixture = alone(prepared, L1, "l1")
    return tuple(
        Arm(f"{size}, {tokens:,} tokens", run(size, tokens, mixture, VOCAB, rate, seed))
        for size in scale.sizes
        for tokens in (scale.tokens // 20, scale.tokens)
        for rate in RATES
        for seed in scale.seeds
    )


STUDY = Study(
    name="imbalance_rates",
    question="Which peak learning rate is best at each size, on the least and on the most text of the imbalance study?",
    expected="Between 4e-3 and 16e-3 at the main size, falling with size and with tokens.",
    scales=(
        Rates(
            "nano",
            DataSpec((L1, L2), VOCAB),
            "60 runs, 94M tokens, about half an hour on 2 CPU cores",
            ("nano-4", "nano-2", "nano-6"),
            3_000_000,
            seeds=SEEDS,
        ),
        Rates(
            "gpu",
            DataSpec((L1, L2), VOCAB),
            "60 runs, 110M tokens; not measured on a GPU yet",
            ("nano-6", "nano-4", "nano-10"),
            3_500_000,
            seeds=SEEDS,
        ),
    ),
    arms=arms,
)
