"""The claims of arXiv:2407.02118 about continual pre-training, as tests: fixed here before the runs they are tested on.

    L1, L2       a continued run ends below one from scratch, at every size and compute
    S1 to S5     what is saved at equal loss: how much, shrinking with training, growing with size
    G1 to G5     the joint law: gamma, its fit beside Chinchilla's, and the best size
    R1 to R9     forgetting, and what replay does to source and target
    R10 to R13   replay against size and length of training (the paper's second open question)
    D1 to D3     closer languages transfer more
    V1 to V5     a vocabulary extended by the target's pieces (the third), in bits a byte, at equal bytes and FLOPs

The extended law contains Chinchilla's, so that on the runs it was fitted to it is never worse: "better" is tested on
the largest size, predicted from the smaller ones. Where the paper speaks of every size and compute, the estimand is
the largest of all cells. Natural logarithms throughout: .01 is a hundredth.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from analysis.claims import (
    Claim,
    Combination,
    Largest,
    LnBits,
    LnBitsAtFlops,
    LnLoss,
    LnShareAtZero,
    LnWorth,
    Side,
    Statistic,
    difference,
)
from analysis.claims.laws import Gamma, JointLaw, LnMiss, LnOptimum
from analysis.continual import names
from analysis.continual.names import EXTENDED, OWN

PAPER = "arXiv:2407.02118"
HUNDREDTH = 0.01
TARGET, SOURCE = "target", "source"
# Within what factor one share of replay serves two sizes or lengths.
ONE_SHARE = 1.5
# Sizes below which there is no law in two stages, and with one held out.
LEAST_SIZES, LEAST_HELD_OUT = 3, 4


class Named(Protocol):
    """What the claims must know of a scale of the study.

    Attributes:
      sizes: of the ladder, rising.
      main: the one of them at which replay and further targets are tested.
      tokens: budgets of the target at every size, in millions, rising.
      parent_tokens: what the sources of the ladder have seen, in millions.
      middle: the budget of them at which replay and further targets are tested.
      replays: shares of the source that are replayed at the main size, rising.
      few_replays: of them those at the least and the largest size as well, on `middle` and on `short` tokens; `short`
        is 0 where only the main size is replayed.
      near, far: settings of two real targets, the nearer and the farther one; empty for the main target, which
        `scratch` and `cpt` mean without a setting; both empty for a scale of one target.
      dial: settings of a derived target, the nearest first; none at a scale without.
      flops: 6ND at which the best sizes from scratch and continued are compared.
    """

    @property
    def sizes(self) -> tuple[str, ...]: ...
    @property
    def main(self) -> str: ...
    @property
    def tokens(self) -> tuple[float, ...]: ...
    @property
    def parent_tokens(self) -> float: ...
    @property
    def middle(self) -> float: ...
    @property
    def replays(self) -> tuple[float, ...]: ...
    @property
    def few_replays(self) -> tuple[float, ...]: ...
    @property
    def short(self) -> float: ...
    @property
    def near(self) -> str: ...
    @property
    def far(self) -> str: ...
    @property
    def dial(self) -> tuple[str, ...]: ...
    @property
    def flops(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class _Arms:
    """The arms of one scale by what they are."""

    scale: Named

    def name(self, role: str, tokens: float, size: str, setting: str = "", replay: float = 0.0) -> str:
        return names.arm(names.what(role, setting, replay), tokens, size)

    def loss(self, role: str, tokens: float, size: str, setting: str = "", replay: float = 0.0) -> LnLoss:
        return LnLoss(self.name(role, tokens, size, setting, replay), TARGET)

    def below(self, tokens: float, size: str, setting: str = "") -> Combination:
        """ln of the continued run's loss over that of the run from scratch, at equal size and tokens."""
        return difference(self.loss("cpt", tokens, size, setting), self.loss("scratch", tokens, size, setting))

    def worth(self, tokens: float, size: str) -> LnWorth:
        """ln of scratch tokens at the continued run's loss over its own: the saved share is 1 - exp(-worth)."""
        ladder = tuple(self.name("scratch", t, size) for t in self.scale.tokens)
        return LnWorth(self.name("cpt", tokens, size), TARGET, ladder)

    def forgotten(self, size: str, replay: float = 0.0, tokens: float = 0.0) -> Combination:
        """ln of the loss in the source after continuing, by default on the middle budget, over the one before."""
        after = LnLoss(self.name("cpt", tokens or self.scale.middle, size, replay=replay), SOURCE)
        return difference(after, LnLoss(self.name("source", self.scale.parent_tokens, size), SOURCE))

    def enough(self, size: str, tokens: float) -> LnShareAtZero:
        """ln of the share of replay that ends the forgetting."""
        return LnShareAtZero(tuple((r, self.forgotten(size, r, tokens)) for r in self.scale.few_replays))

    def cost(self, replay: float, size: str = "") -> Combination:
        """ln of the target's loss with replay over that without, at equal tokens and so equal compute of the target."""
        size, tokens = size or self.scale.main, self.scale.middle
        return difference(self.loss("cpt", tokens, size, replay=replay), self.loss("cpt", tokens, size))

    def law(self, sizes: tuple[str, ...]) -> JointLaw:
        plain, continued = (
            tuple(self.name(role, tokens, size) for size in sizes for tokens in self.scale.tokens)
            for role in ("scratch", "cpt")
        )
        return JointLaw(plain, continued, TARGET)


def claims(scale: Named) -> tuple[Claim, ...]:
    """The ledger's claims at `scale`, in its order."""
    arms = _Arms(scale)
    return (*_levels(arms), *_savings(arms), *_law(arms), *_replay(arms), *_replay_by_size(arms), *_distance(arms),
            *_vocabulary(arms))  # fmt: skip


def _claim(
    id: str, text: str, where: str, estimand: Statistic, side: Side, delta: float = HUNDREDTH, *, against: float = 0.0
) -> Claim:
    return Claim(id, text, f"{PAPER}, {where}", estimand, side, delta, against=against)


def _levels(arms: _Arms) -> tuple[Claim, ...]:
    scale = arms.scale
    cells = tuple(arms.below(tokens, size) for size in scale.sizes for tokens in scale.tokens)
    return (
        _claim("L1", "A continued run ends below one from scratch of the same size and tokens: at the main size.",
               "Figure 1", arms.below(scale.middle, scale.main), "below"),
        _claim("L2", "It does so at every size and compute.", "Figure 1", Largest(cells), "below"),
    )  # fmt: skip


def _savings(arms: _Arms) -> tuple[Claim, ...]:
    scale = arms.scale
    worth = arms.worth(scale.middle, scale.main)
    low, high = (-math.log(1 - saved) for saved in (0.25, 0.5))
    found = [
        _claim("S1", "Continuing saves 25 % or more of the tokens, and so of the FLOPs, at equal loss.",
               "text", worth, "above", 0.1, against=low),
        _claim("S2", "It saves 50 % at most.", "text", worth, "below", 0.1, against=high),
        _claim("S3", "The saving shrinks with training: it is less at the middle budget than at the least.",
               "Figure 2", difference(worth, arms.worth(scale.tokens[0], scale.main)), "below", 0.1),
    ]  # fmt: skip
    if len(scale.sizes) > 1:
        smallest, largest = (arms.worth(scale.middle, size) for size in (scale.sizes[0], scale.sizes[-1]))
        smaller, larger = (arms.worth(scale.tokens[0], size) for size in (scale.sizes[0], scale.sizes[-1]))
        found += [
            _claim("S4", "The saving grows with size, at the middle budget.",
                   "Figure 2", difference(largest, smallest), "above", 0.1),
            _claim("S5", "The saving grows with size, at the least budget.",
                   "Figure 2", difference(larger, smaller), "above", 0.1),
        ]  # fmt: skip
    return tuple(found)


def _law(arms: _Arms) -> tuple[Claim, ...]:
    scale = arms.scale
    if len(scale.sizes) < LEAST_SIZES:
        return ()
    law = arms.law(scale.sizes)
    found = [
        _claim("G1", "gamma is above 0 for continued runs: their data term falls with size.",
               "Table 2b", Gamma(law), "above", 0.02),
        _claim("G2", "gamma is about 0 for runs from scratch.", "Table 3", Gamma(law, "scratch"), "about zero", 0.02),
        _claim("G5", f"The best size moves up: at {scale.flops:.2g} FLOPs a continued run wants more parameters.",
               "Figure 4", LnOptimum(law, scale.flops), "above", 0.1),
    ]  # fmt: skip
    if len(scale.sizes) >= LEAST_HELD_OUT:
        smaller, largest = arms.law(scale.sizes[:-1]), scale.sizes[-1]
        beyond = {role: tuple(arms.name(role, t, largest) for t in scale.tokens) for role in ("scratch", "cpt")}
        found += [
            _claim("G3", "On continued runs the extended law beats Chinchilla's: it misses the largest size by less.",
                   "Table 3", LnMiss(smaller, beyond["cpt"]), "above", 0.2),
            _claim("G4", "On runs from scratch the two are equal.",
                   "Table 3", LnMiss(smaller, beyond["scratch"], "scratch"), "about zero", 0.5),
        ]  # fmt: skip
    return tuple(found)


def _replay(arms: _Arms) -> tuple[Claim, ...]:
    scale = arms.scale
    enough = tuple(replay for replay in scale.replays if replay >= 0.05)
    smallest, largest = (arms.forgotten(size) for size in (scale.sizes[0], scale.sizes[-1]))
    found = [
        _claim("R1", "Without replay the source is forgotten (2.40 to 3.68 nats at 1.4B: ln .43).",
               "Figure 5", arms.forgotten(scale.main), "above", 0.1),
        _claim("R3", "Replay of 5 % ends the forgetting: the source's loss ends below its start.",
               "Figure 5", arms.forgotten(scale.main, 0.05), "below"),
        _claim("R4", "So does every larger share.", "Figure 5",
               Largest(tuple(arms.forgotten(scale.main, replay) for replay in enough)), "below"),
        _claim("R5", "So does 1 %.", "Figure 5", arms.forgotten(scale.main, 0.01), "below"),
        _claim("R6", "At equal compute of the target its loss does not change with 20 % of replay.",
               "Figure 5", arms.cost(0.2), "about zero"),
        _claim("R7", "Nor with 50 %.", "Figure 5", arms.cost(0.5), "about zero"),
        _claim("R8", "The recommended 10 to 30 %: 20 % is better for the source than 5 %.", "introduction",
               difference(arms.forgotten(scale.main, 0.2), arms.forgotten(scale.main, 0.05)), "below"),
    ]  # fmt: skip
    if 0.8 in scale.replays:
        text = "Beyond 50 % the gain diminishes: 80 % adds less than half of what 50 % has over 10 %."
        found.append(_claim("R9", text, "appendix A", _bend(arms), "above", 0.005))
    if len(scale.sizes) > 1:
        more = difference(smallest, largest)
        found.append(_claim("R2", "Smaller models forget more.", "text", more, "above", 0.05))
    return tuple(found)


def _replay_by_size(arms: _Arms) -> tuple[Claim, ...]:
    scale, where = arms.scale, "open question 2"
    if not scale.short or len(scale.sizes) < 2:
        return ()
    smallest, largest = scale.sizes[0], scale.sizes[-1]
    cells = [arms.forgotten(size, 0.05, tokens) for size in dict.fromkeys((smallest, scale.main, largest))
             for tokens in (scale.short, scale.middle)]  # fmt: skip
    return (
        _claim("R10", "One share of replay serves all sizes: the share that ends the forgetting is the same, within a "
               f"factor of {ONE_SHARE:g}, at the largest and the smallest size.", where,
               difference(arms.enough(largest, scale.middle), arms.enough(smallest, scale.middle)), "about zero",
               math.log(ONE_SHARE)),
        _claim("R11", "It serves all lengths: the share is the same at the middle and at a shorter budget.", where,
               difference(arms.enough(scale.main, scale.middle), arms.enough(scale.main, scale.short)), "about zero",
               math.log(ONE_SHARE)),
        _claim("R12", "What 20 % of replay costs the target does not change with size.", where,
               difference(arms.cost(0.2, largest), arms.cost(0.2, smallest)), "about zero"),
        _claim("R13", "5 % ends the forgetting at every size and length.", where, Largest(tuple(cells)), "below"),
    )  # fmt: skip


def _vocabulary(arms: _Arms) -> tuple[Claim, ...]:
    """Arms of one budget in their names have read as many bytes of the target."""
    scale, where = arms.scale, "open question 3"
    size, tokens = scale.main, scale.middle

    def name(setting: str, budget: float) -> str:
        return arms.name("cpt", budget, size, setting)

    def bits(setting: str) -> LnBits:
        return LnBits(name(setting, tokens), TARGET)

    composed, random = EXTENDED.format("composition"), EXTENDED.format("random")
    joint = tuple(name("", t) for t in scale.tokens)
    own = tuple(name(OWN, t) for t in (tokens / 2, tokens))
    return (
        _claim("V1", "New pieces that begin as compositions of old ones end below random ones.", where,
               difference(bits(composed), bits(random)), "below"),
        _claim("V2", "At equal bytes of the target an extended vocabulary ends below the source's own.", where,
               difference(bits(composed), bits(OWN)), "below"),
        _claim("V3", "It does so at equal exact FLOPs.", where,
               LnBitsAtFlops(name(composed, tokens), TARGET, own), "below"),
        _claim("V4", "At equal bytes of the target a joint tokenizer from the start ends below an extended vocabulary.",
               where, difference(bits(""), bits(composed)), "below"),
        _claim("V5", "It does so at equal exact FLOPs.", where,
               LnBitsAtFlops(name(composed, tokens), TARGET, joint), "above"),
    )  # fmt: skip


def _bend(arms: _Arms) -> Combination:
    """Half of what 50 % gains over 10 %, less what 80 % gains over 50 %, in ln loss of the source."""
    tenth, half, most = (arms.forgotten(arms.scale.main, replay) for replay in (0.1, 0.5, 0.8))
    return Combination(((0.5, tenth), (-0.5, half), (-1.0, half), (1.0, most)))


def _distance(arms: _Arms) -> tuple[Claim, ...]:
    scale = arms.scale
    found = []
    if scale.near != scale.far:
        gap = difference(
            arms.below(scale.middle, scale.main, scale.near), arms.below(scale.middle, scale.main, scale.far)
        )
        names_of = [setting or "the main target" for setting in (scale.near, scale.far)]
        found.append(_claim("D1", f"Closer languages transfer more: {names_of[0]} gains more than {names_of[1]}.",
                            "Figure 3", gap, "below"))  # fmt: skip
    if len(scale.dial) > 1:
        first, last = (arms.below(scale.middle, scale.main, setting) for setting in (scale.dial[0], scale.dial[-1]))
        found.append(_claim("D2", f"With the distance alone: {scale.dial[0]} gains more than {scale.dial[-1]}.",
                            "Figure 3, by derived languages", difference(first, last), "below"))  # fmt: skip
        found.append(_claim("D3", f"Even the farthest derived language, {scale.dial[-1]}, gains.",
                            "Figure 3, by derived languages", last, "below"))  # fmt: skip
    return tuple(found)
