"""Result tables of a study of continual pre-training whose answers are known, made from its claims' arms.

    world = World(gamma=0.08)
    frame = world.table()                  # whole rows of lab.table
    probes = world.probe_table(frame)      # rows of lab.probes: distances, minimal pairs, cloze

From scratch the target follows a Chinchilla law; continued runs a law of their own, so that a test may give the paper's
printed coefficients. Another target moves a continued run's loss by what SETTINGS say of it; replay costs the target
`toll` for each unit of share, and ends the forgetting of the source. Seeds add an effect of their own to all arms and
one to each run; documents differ in how hard they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from test_records import row

from analysis.continual.names import EXTENDED, OWN, arm, what
from lab.probe_table import COLUMNS as PROBE_COLUMNS

# As an imaginary scale of the study: sizes with their parameters, budgets in millions of tokens.
SIZES = {"nano-2": 150_000, "nano-3": 280_000, "nano-4": 520_000, "nano-5": 900_000, "nano-6": 1_500_000}
TOKENS = (0.75, 1.5, 3.0, 6.0, 12.0)
MAIN = "nano-4"
REPLAYS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
BODY = {"E": 1.6, "A": 60.0, "B": 900.0, "alpha": 0.3, "beta": 0.42}
# Continued: half of the data term at the middle of the ladder, a lower exponent, and less for larger models.
CONTINUED = {"B": 253.0, "beta": 0.315, "gamma": 0.045}
PRINTED = {"E": 1.55, "A": 420.0, "B": 719.5, "alpha": 0.40, "beta": 0.30}
PRINTED_CPT = {"B": 433.3, "beta": 0.20, "gamma": 0.08}
# Targets beside the main one: what they add to a continued run's ln loss, and their distances.
SETTINGS = {
    "": 0.0, "German": 0.004, "Arabic": 0.02, "Chinese": 0.03,
    "renamed 25 %": -0.02, "renamed 50 %": -0.01, "renamed 100 %": 0.02, "reversed": 0.025,
}  # fmt: skip
DISTANCES = {
    "": (None, 0.45, 0.62, 0.35, 0.30), "German": (None, 0.40, 0.55, 0.41, 0.26),
    "Arabic": (None, 0.08, 0.20, 0.80, 0.08), "Chinese": (None, 0.05, 0.15, 0.88, 0.05),
    "renamed 25 %": (0.25, 0.75, 0.80, 0.15, 0.45), "renamed 50 %": (0.5, 0.5, 0.55, 0.33, 0.30),
    "renamed 100 %": (1.0, 0.0, 0.0, 1.0, 0.02), "reversed": (1.0, 1.0, 1.0, 0.0, 0.10),
}  # fmt: skip
MEASURES = ("dial setting", "vocabulary overlap", "token-mass overlap", "unigram JSD", "gradient cosine")
# Vocabularies beside the joint one: tokens of the target for each of the joint one's, FLOPs a token, and what they add
# to a continued run's ln bits a byte.
VOCABULARIES = {
    OWN: (1.3, 1.0, 0.03), EXTENDED.format("composition"): (0.9, 1.2, 0.01), EXTENDED.format("mean"): (0.9, 1.2, 0.015),
    EXTENDED.format("random"): (0.9, 1.2, 0.04),
}  # fmt: skip
JOINT = (1.0, 1.0, 0.0)
PARENT = 12.0
# Settings of runs from a shorter parent: its tokens, and what that adds to ln loss.
PARENTS = {"from 3M": (3.0, 0.03)}
# Suites of accuracies: probe, suite, what is added to a model's skill, chance.
SUITES = (("minimal pairs", "BLiMP", 0.0, 0.5), ("minimal pairs", "CLAMS", 0.03, 0.5), ("cloze", "cloze", -0.25, 0.25))
DOCUMENTS = 24
EVALUATIONS = 12


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm: its role, size, target tokens in millions (of the joint vocabulary), replay share and setting."""

    role: str
    size: str
    tokens: float
    replay: float = 0.0
    setting: str = ""

    @property
    def name(self) -> str:
        return arm(what(self.role, self.setting, self.replay), self.tokens, self.size)

    @property
    def seen(self) -> float:
        """Tokens of both languages, in millions."""
        return self.tokens * self.vocabulary[0] / (1 - self.replay)

    @property
    def vocabulary(self) -> tuple[float, float, float]:
        return VOCABULARIES.get(self.setting, JOINT)

    @property
    def text(self) -> str:
        """The setting whose text the target is."""
        return "" if self.setting in VOCABULARIES or self.setting in PARENTS else self.setting

    @property
    def parent(self) -> Run:
        return Run("source", self.size, PARENTS.get(self.setting, (PARENT, 0.0))[0])


def runs(sizes: Sequence[str] = tuple(SIZES), tokens: Sequence[float] = TOKENS) -> tuple[Run, ...]:
    """The arms of the committed orders, in little."""
    found = [Run(role, size, d) for size in sizes for role in ("source", "scratch", "cpt") for d in tokens]
    found += [Run("cpt", MAIN, 3.0, r) for r in REPLAYS]
    for size in (sizes[0], MAIN, sizes[-1]):
        found += [Run("cpt", size, d, r) for d in (1.5, 3.0) for r in (0.05, 0.2, 0.5)]
    found += [Run("cpt", MAIN, d, setting=setting) for setting in VOCABULARIES for d in (1.5, 3.0)]
    found += [Run("cpt", MAIN, d, setting=setting) for setting in PARENTS for d in tokens]
    for setting in SETTINGS:
        if setting:
            found += [Run("scratch", MAIN, d, setting=setting) for d in (1.5, 3.0, 6.0, 12.0)]
            found += [Run("cpt", MAIN, 3.0, setting=setting)]
    return tuple(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class World:
    """What is true.

    Attributes:
      scratch, cpt: parameters of the two laws; the second has B, beta, gamma and shares the rest.
      extended: gamma of the runs from scratch: 0 if the extended law says nothing new of them.
      shift: what is added to ln loss of (arm, language), or to what a function of a run and its language says.
      toll: what replay adds to the target's ln loss, for each unit of share.
      ends: the share of replay that ends the forgetting.
      forgotten: nats that the main size forgets on 3M tokens of the target without replay.
      sizes: name -> tied parameters.
      noise, common: standard deviation of a run's nats, and of the effect that a seed has on all runs.
      centred: whether the noise of an arm's seeds adds up to nothing.
    """

    scratch: Mapping[str, float] = dataclasses.field(default_factory=lambda: BODY)
    cpt: Mapping[str, float] = dataclasses.field(default_factory=lambda: CONTINUED)
    extended: float = 0.0
    shift: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    moved: Callable[[Run, str], float] = lambda run, language: 0.0
    toll: float = 0.0
    ends: float = 0.02
    forgotten: float = 0.9
    sizes: Mapping[str, int] = dataclasses.field(default_factory=lambda: SIZES)
    scale: float = 1e6
    noise: float = 0.004
    common: float = 0.002
    document_noise: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2)
    centred: bool = False
    draw: int = 0

    def target_loss(self, run: Run, tokens: float | None = None) -> float:
        """Nats of the target after so many of its tokens (in millions), by default all."""
        n, d, p = self.sizes[run.size], (run.tokens if tokens is None else tokens) * self.scale, self.scratch
        body = p["E"] + p["A"] / n ** p["alpha"]
        middle = math.exp(np.mean(np.log(list(self.sizes.values()))))
        if run.role == "cpt":
            loss = body + self.cpt["B"] / (d ** self.cpt["beta"] * n ** self.cpt["gamma"])
            tokens_of, _, worse = run.vocabulary
            worse += PARENTS.get(run.setting, (PARENT, 0.0))[1]
            loss *= math.exp(SETTINGS[run.text] + self.toll * run.replay + worse) / tokens_of
        else:
            loss = body + p["B"] / d ** p["beta"] * (n / middle) ** -self.extended
        return loss

    def source_loss(self, run: Run, share: float = 1.0) -> float:
        """Nats of the source after a share of the run."""
        n, p = self.sizes[run.size], self.scratch
        parent = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / (12.0 * self.scale) ** p["beta"]
        if run.role == "source":
            tokens = max(run.tokens * share, 1e-3) * self.scale
            return p["E"] + p["A"] / n ** p["alpha"] + p["B"] / tokens ** p["beta"]
        if run.role == "scratch":
            return 5.5 - 0.3 * share
        if run.replay == 0:
            size = (n / self.sizes.get(MAIN, n)) ** -0.3
            return parent + self.forgotten * size * (run.tokens * share / 3.0) ** 0.4
        bump = self.forgotten * 0.25 * math.exp(-run.replay * 12) * math.exp(-6 * share) * min(1.0, 20 * share)
        return parent + bump - 0.04 * share * math.log(run.replay / self.ends)

    def table(self, arms: Sequence[Run] | None = None, only: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows as a frame."""
        return pd.DataFrame(self.rows(arms, only))

    def rows(self, arms: Sequence[Run] | None = None, only: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of `lab.table`, of the arms called `only` or all; parents of what is kept are kept too."""
        every = runs() if arms is None else arms
        if only is not None:
            sizes = {run.size for run in every if run.name in only}
            every = [
                r for r in every if r.name in only or (r.role == "source" and r.size in sizes and r.tokens == 12.0)
            ]
        rng = np.random.default_rng(self.draw)
        seed_effect = self._noise(rng, self.common)
        texts = {
            name: (rng.normal(0, 0.3, DOCUMENTS), rng.integers(200, 900, DOCUMENTS)) for name in ("source", *SETTINGS)
        }
        rows: list[dict[str, Any]] = []
        for run in every:
            for one in self._rows(run):
                own = self._noise(rng, self.noise)
                hard, sizes = texts["source" if one["language"] == "source" else run.text]
                if one["language"] == "target":
                    sizes = np.round(sizes * run.vocabulary[0]).astype(int)
                for seed, effect in zip(self.seeds, seed_effect + own, strict=True):
                    loss = one["loss"] + effect
                    bias = hard + rng.normal(0, self.document_noise, DOCUMENTS)
                    nats = sizes * (loss + bias - np.average(bias, weights=sizes))
                    name = f"{run.name}/{seed}"
                    parent = f"{run.parent.name}/{seed}" if run.role == "cpt" else None
                    curve = [v + effect for v in one["eval_curve_loss"]]
                    rows.append({**one, "run_id": name, "group": name, "parent": parent, "seed_init": seed,
                                 "seed_data": seed, "loss": loss, "ppl": math.exp(loss - 0.05),
                                 
                                 "bits_per_byte": loss * one["eval_tokens"] / (one["eval_bytes"] * math.log(2)),
                                 "eval_curve_loss": curve,
                                 "document_nats": nats.tolist(), "document_tokens": sizes.tolist()})  # fmt: skip
        return rows

    def _noise(self, rng: np.random.Generator, sd: float) -> np.ndarray:
        noise = rng.normal(0, sd, len(self.seeds))
        return noise - noise.mean() if self.centred else noise

    def _rows(self, run: Run) -> Iterator[dict[str, Any]]:
        n, seen = self.sizes[run.size], round(run.seen * self.scale)
        mixture = {"source": "source:1 target:0", "scratch": "source:0 target:1",
                   "cpt": f"source:{run.replay:g} target:{1 - run.replay:g}"}[run.role]  # fmt: skip
        share = {"source": 1.0, "scratch": 0.0, "cpt": run.replay}[run.role]
        steps = np.linspace(1 / EVALUATIONS, 1, EVALUATIONS)
        for language in ("source", "target"):
            if run.role == "source" and language == "target":
                curve = [6.0 - 0.2 * s for s in steps]
            elif language == "source":
                curve = [self.source_loss(run, s) for s in steps]
            else:
                curve = [self.target_loss(run, s * run.tokens) for s in steps]
            factor = math.exp(self.shift.get((run.name, language), 0.0) + self.moved(run, language))
            curve = [value * factor for value in curve]
            tokens = round(seen * (share if language == "source" else 1 - share))
            cut = run.setting if run.setting in VOCABULARIES else run.text
            of_text, each = run.vocabulary[:2] if language == "target" else (1.0, run.vocabulary[1])
            yield row(
                arm=run.name, study="continual", language=language, mixture=mixture, family="gpt2",
                d_model=16 * int(run.size.rpartition("-")[2]) if run.size[:4] == "nano" else 64, n_layers=4,
                n_nonembedding=n // 2, n_head=n - n // 2, n_embedding=n - n // 2, n_total=2 * n - n // 2,
                base_width=None, tokens_seen=seen, tokens_language=tokens, tokenizer_hash="joint",
                eval_hash="en" if language == "source" else f"text {cut}", eval_tokens=round(200_000 * of_text),
                eval_bytes=720_000 if language == "source" else 700_000, v_total=round(1000 * each),
                flops_6nd=6.0 * n * seen, flops_exact=6.4 * n * seen * each, flops_spent=6.4 * n * seen * each,
                schedule="wsd", parent_tokens=round(run.parent.tokens * self.scale) if run.role == "cpt" else None,
                unique_tokens=tokens, epochs=0.4, eval_curve_tokens=[round(seen * s) for s in steps],
                eval_curve_loss=curve, loss=curve[-1], exclusion=None, status="done", layout_hash="joint",
                wall_s=30.0, device="cpu", batch_tokens=1024, peak_lr=3e-3,
            )  # fmt: skip

    def probe_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of `lab.probes`: the targets' distances, and accuracies of all models on 3M tokens of the target."""
        rows = []
        known = {run.name: run for run in runs()}
        for one in table.drop_duplicates("run_id").to_dict("records"):
            run = known[one["arm"]]

            def add(probe: str, place: str, language: str, condition: str, value: float, one: Any = one) -> None:
                shared = {name: one[name] for name in ("run_id", "study", "arm", "seed_init")}
                rows.append({**shared, "probe": probe, "place": place, "language": language, "condition": condition,
                             "value": value + 0.004 * one["seed_init"], "n": 500, "replicate": 0, "at": 1.0,
                             "pair": "source target", "text": "made up"})  # fmt: skip

            if run.role == "cpt" and run.replay == 0 and run.tokens == 3.0 and run.setting in DISTANCES:
                for measure, value in zip(MEASURES, DISTANCES[run.setting], strict=True):
                    if value is not None:
                        add("distance", measure, "target", "pairs", value)
            if run.tokens not in (3.0, 12.0) or (run.role != "source" and run.tokens != 3.0):
                continue
            skill = {
                "source": (0.72, 0.51),
                "scratch": (0.52, 0.60),
                "cpt": (0.58 + 0.14 * min(1, 4 * run.replay), 0.66),
            }
            for language, value in zip(("source", "target"), skill[run.role], strict=True):
                for probe, place, lift, chance in SUITES:
                    if place == "BLiMP" and language == "target":
                        continue
                    add(probe, place, language, "model", value + lift)
                    add(probe, place, language, "chance", chance)
        return pd.DataFrame(rows, columns=list(PROBE_COLUMNS))


def printed(ladder: Sequence[int] = (49, 137, 368, 1085, 2191, 5534), noise: float = 0.0) -> World:
    """The paper's world as its Table 2 prints it, at sizes of its Table 4."""
    return World(scratch=PRINTED, cpt=PRINTED_CPT, sizes={f"cpt-{n}": n * 1_000_000 for n in ladder}, noise=noise,
                 common=0.0, document_noise=0.0)  # fmt: skip
