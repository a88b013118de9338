"""A sweep of peak learning rates over sizes and token budgets, as a study made on the spot: what `lab tune` runs."""

from __future__ import annotations

import dataclasses
import math

from lab.config import Component, LayoutConfig, MixtureConfig, OptimConfig, RunConfig, Stage
from lab.data.prepare import Prepared
from lab.errors import LabError
from lab.flops import count
from lab.presets import preset
from lab.recipes import RateRule
from sweeps.study import Arm, DataSpec, Scale, Study

LATTICE = 1e-3  # every grid lies on LATTICE * ratio^k, so that a shifted or longer grid shares runs with an earlier one


@dataclasses.dataclass(frozen=True)
class RateSweep:
    """What is swept.

    Attributes:
      models: names of presets.
      tokens: training tokens of each budget.
      rates: how many rates each cell tries.
      ratio: between neighbouring rates.
      centre: middle of every grid; None takes that of `start` for the cell.
      start: a rule for the middle of the grids.
      seeds: runs of each rate.
      optim: the optimiser; its peak rate is swept.
      base_width: of muP, or None for the standard parametrisation.
    """

    models: tuple[str, ...]
    tokens: tuple[float, ...]
    rates: int
    ratio: float
    centre: float | None
    start: RateRule
    seeds: int
    vocab: int
    context: int
    batch: int
    optim: OptimConfig
    base_width: int | None = None

    def __post_init__(self) -> None:
        if self.rates < 3:
            raise LabError(f"A best rate needs at least 3 rates around it, not {self.rates}.")
        if not self.ratio > 1:
            raise LabError(f"Neighbouring rates must differ by a factor above 1, not {self.ratio}.")
        if self.seeds < 1 or not self.models or not self.tokens:
            raise LabError("A sweep needs at least one model, one token budget and one seed.")

    def grid(self, n: float, d: float) -> list[float]:
        """The peak rates of a cell, rising: on the lattice, around the centre."""
        middle = self.centre or self.start.rate(n, d)
        lowest = round(math.log(middle / LATTICE, self.ratio) - (self.rates - 1) / 2)
        return [LATTICE * self.ratio ** (lowest + k) for k in range(self.rates)]

    def arms(self, mixture: MixtureConfig, vocab: int) -> tuple[Arm, ...]:
        found = []
        for name in self.models:
            model = preset(name, vocab=vocab, context=self.context)
            model = dataclasses.replace(model, base_width=self.base_width)
            for tokens in self.tokens:
                steps = round(tokens / (self.batch * self.context))
                for rate in self.grid(count(model).nonembedding, tokens):
                    optim = dataclasses.replace(self.optim, peak_lr=rate)
                    found += [
                        Arm(f"{name}, {tokens:,.0f} tokens, {rate:.3g}", RunConfig(
                            model, optim, mixture, steps, self.batch, seed_init=seed, seed_data=seed
                        ))
                        for seed in range(self.seeds)
                    ]  # fmt: skip
        return tuple(found)


def study(name: str, corpus: str, language: str, sweep: RateSweep) -> tuple[Study[Scale], Scale]:
    """The sweep on one corpus by itself, as a study called `name`."""

    def arms(prepared: Prepared, _: Scale) -> tuple[Arm, ...]:
        layout = LayoutConfig.joint((language,), prepared.tokenizer(corpus).hash)
        mixture = MixtureConfig((Component(language, prepared.source(corpus)),), layout, (Stage(1.0, (1.0,)),))
        return sweep.arms(mixture, prepared.layout(layout).v_total)

    runs = len(sweep.models) * len(sweep.tokens) * sweep.rates * sweep.seeds
    scale = Scale("nano", DataSpec((corpus,), sweep.vocab), f"{runs} runs")
    question = f"Which peak learning rate is best on {corpus} for {', '.join(sweep.models)}?"
    return Study(name, question, "A best rate inside every grid.", (scale,), arms), scale
