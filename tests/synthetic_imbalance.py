"""Result tables of the imbalance study whose answers are known, made from the study's own arms without training.

    world = World(teff={("clone 10 %, 1 T, nano-4", "clone1"): 2.1})
    frame = world.table(arms())

Perplexity follows a token law of each size and text; a language of a mixture is worth TEff times its tokens; seeds add
an effect of their own to all arms and one to each run; documents differ in how hard they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims.gather import PROBE_COLUMNS
from lab.config import Source
from lab.flops import count
from lab.result import mixture_text
from sweeps.imbalance import Imbalance, text
from sweeps.imbalance import arms as study_arms
from sweeps.study import Arm

T = 3_000_000
SCALE = Imbalance(
    name="nano",
    data=text(("tiny:en", "tiny:fr"), 1024),
    corpora=("tiny:en", "tiny:fr"),
    cost="none",
    tokens=T,
    sizes=("nano-4", "nano-2", "nano-6"),
    context=128,
    batch=8,
    recipe="nano",
)
TEXTS = {"l1": "en", "l2": "fr"}
DOCUMENTS = 24
Cell = tuple[str, str]


def arms(scale: Imbalance = SCALE) -> tuple[Arm, ...]:
    """The study's arms on a text that does not exist."""
    stores = {"tiny:en": SimpleNamespace(source=Source("shuffled", "shuffled"))}
    prepared: Any = SimpleNamespace(
        stores=stores,
        tokenizer=lambda corpus: SimpleNamespace(hash=f"{corpus:>16}"),
        source=lambda corpus: Source(corpus, corpus),
        layout=lambda config: SimpleNamespace(v_total=1024 * len(config.names)),
    )
    return study_arms({"text": prepared, "shuffled": prepared}, scale)


@dataclasses.dataclass(frozen=True)
class World:
    """What is true.

    Attributes:
      teff: of (arm, language); 1 where nothing is said.
      log_ppl: of (arm, language), in place of what the law says.
      probes: of (arm, what `ProbeValue.what` says).
      noise: standard deviation of a run's ln PPL.
      common: of the effect that a seed has on all runs.
      probe_noise: of a probe's value.
      document_noise: of a run's ln PPL between documents, beyond how hard each is for all.
      seeds: every arm has.
      centred: whether the noise of an arm's seeds adds up to nothing, so that its mean is the truth.
      bend: of the law, ln PPL added in the middle of the ladder: what a token law cannot follow.
    """

    teff: Mapping[Cell, float] = dataclasses.field(default_factory=dict)
    log_ppl: Mapping[Cell, float] = dataclasses.field(default_factory=dict)
    probes: Mapping[Cell, float] = dataclasses.field(default_factory=dict)
    noise: float = 0.003
    common: float = 0.002
    probe_noise: float = 0.01
    document_noise: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2)
    centred: bool = False
    bend: float = 0.0
    draw: int = 0

    def law(self, text: str, d_model: int, tokens: float) -> float:
        """ln PPL of a text alone, 1/PPL = c - a x^-b with x in units of T."""
        a, b, c = (0.0145, 0.2, 0.0325) if text == "en" else (0.016, 0.2, 0.036)
        size = 1 + 0.1 * math.log2(d_model / 64)
        middle = math.exp(-((math.log(tokens / T) + 1.2) ** 2))
        return -math.log(size * (c - a * (tokens / T) ** -b)) + self.bend * middle

    def table(self, runs: Iterable[Arm], only: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of `lab.table`, the columns that analysis reads; of the arms called `only`, or all."""
        rng = np.random.default_rng(self.draw)
        seed_effect = self._noise(rng, self.common)
        hard = {text: rng.normal(0, 0.15, DOCUMENTS) for text in TEXTS.values()}
        sizes = {text: rng.integers(200, 900, DOCUMENTS) for text in TEXTS.values()}
        rows = []
        first = {arm.name: arm for arm in reversed(list(runs)) if only is None or arm.name in only}
        for arm in reversed(first.values()):
            for row in self._rows(arm):
                own = self._noise(rng, self.noise_at(row["tokens_seen"]))
                text = row["eval_hash"]
                for seed, effect in zip(self.seeds, seed_effect + own, strict=True):
                    loss = math.log(row["ppl"]) + effect
                    bias = hard[text] + rng.normal(0, self.document_noise, DOCUMENTS)
                    nats = sizes[text] * (loss + bias - np.average(bias, weights=sizes[text]))
                    rows.append({**row, "run_id": f"{arm.name}/{seed}", "seed_init": seed, "seed_data": seed,
                                 "ppl": math.exp(loss), "loss": loss + 0.1,
                                 "document_nats": nats.tolist(), "document_tokens": sizes[text].tolist()})  # fmt: skip
        return pd.DataFrame(rows)

    def noise_at(self, tokens_seen: int) -> float:
        """Standard deviation of ln PPL of a run that saw so many tokens."""
        return self.noise

    def _noise(self, rng: np.random.Generator, sd: float) -> np.ndarray:
        """Of every seed [seeds]."""
        noise = rng.normal(0, sd, len(self.seeds))
        return noise - noise.mean() if self.centred else noise

    def probe_table(self, table: pd.DataFrame, leaves: Iterable[Any]) -> pd.DataFrame:
        """Rows of `lab.probes` for these `ProbeValue`s, of all runs of their arms; two layers."""
        rng = np.random.default_rng([self.draw, 1])
        rows = []
        for leaf in leaves:
            places = {"layers": ("1", "2"), "last layer": ("3",)}.get(leaf.place, (leaf.place,))
            runs = sorted(set(table.run_id[table.arm == leaf.arm]))
            for run, noise in zip(runs, self._noise(rng, self.probe_noise), strict=True):
                value = self.probes.get((leaf.arm, leaf.what), 0.3) + noise
                for place in places:
                    rows.append({"run_id": run, "probe": leaf.probe, "place": place, "language": leaf.language,
                                 "condition": leaf.condition, "value": value, "at": leaf.at})  # fmt: skip
        return pd.DataFrame(rows, columns=list(PROBE_COLUMNS))

    def _rows(self, arm: Arm) -> Iterable[dict[str, Any]]:
        run = arm.run
        for i, component in enumerate(run.mixture.components):
            share = sum(stage.fraction * stage.shares[i] for stage in run.mixture.stages)
            text = TEXTS.get(component.language, "en")
            tokens = round(run.tokens_seen * share)
            cell = (arm.name, component.language)
            worth = tokens * self.teff.get(cell, 1.0)
            yield {
                "arm": arm.name, "study": "imbalance", "language": component.language,
                "mixture": mixture_text(run), "family": run.model.family,
                "d_model": run.model.d_model, "n_layers": run.model.n_layers,
                "n_nonembedding": count(run.model).nonembedding, "n_head": count(run.model).head,
                "tokens_seen": run.tokens_seen,
                "tokens_language": tokens, "tokenizer_hash": text, "eval_hash": text,
                "eval_tokens": 200_000, "eval_bytes": 600_000, "flops_exact": 6.0 * run.tokens_seen,
                "ppl": math.exp(self.log_ppl.get(cell, self.law(text, run.model.d_model, worth))),
                "status": "done", "exclusion": None,
            }  # fmt: skip
