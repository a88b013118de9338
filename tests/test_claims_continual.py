"""The claims of continual pre-training: each gets its three verdicts, and the paper's printed law fails them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from synthetic_continual import BODY, CONTINUED, MAIN, SIZES, TOKENS, Run, World, printed, runs

from analysis.claims import Claim, Largest, LnBits, LnBitsAtFlops, LnLoss, LnShareAtZero, difference
from analysis.claims.estimands import leaves
from analysis.claims.gather import gather
from analysis.claims.laws import Gamma, JointLaw, LnOptimum
from analysis.claims.ledger import Entry, ledger
from analysis.continual.names import EXTENDED, OWN
from sweeps.continual_claims import TARGET, claims

FEW = 400
LARGEST = tuple(SIZES)[-1]
DIAL = ("renamed 25 %", "renamed 50 %", "renamed 100 %")


@dataclasses.dataclass(frozen=True)
class Scale:
    sizes: tuple[str, ...] = tuple(SIZES)
    main: str = MAIN
    tokens: tuple[float, ...] = TOKENS
    parent_tokens: float = 12.0
    middle: float = 3.0
    near: str = ""
    far: str = "Chinese"
    dial: tuple[str, ...] = DIAL
    replays: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.5, 0.8)
    few_replays: tuple[float, ...] = (0.05, 0.2, 0.5)
    short: float = 1.5
    flops: float = 1e14


CLAIMS = {claim.id: claim for claim in claims(Scale())}
LAWS = [id for id in CLAIMS if id[0] == "G"]
CELLS = {run.name: run for run in runs()}


@dataclasses.dataclass(frozen=True)
class Exact:
    """A `Sample` of a world without noise, of one draw."""

    world: World

    def loss(self, arm: str, language: str) -> np.ndarray:
        run = CELLS[arm]
        plain = self.world.source_loss(run) if language == "source" else self.world.target_loss(run)
        return np.array(
            [plain * math.exp(self.world.shift.get((arm, language), 0.0) + self.world.moved(run, language))]
        )

    def tokens(self, arm: str, language: str) -> float:
        return CELLS[arm].tokens * 1e6

    def bytes_per_token(self, arm: str, language: str) -> float:
        return 700_000 / round(200_000 * CELLS[arm].vocabulary[0])

    def flops(self, arm: str, language: str) -> float:
        run = CELLS[arm]
        return 6.4 * self.world.sizes[run.size] * run.seen * 1e6 * run.vocabulary[1]


def truth(world: World, statistic: Any) -> float:
    """What a statistic of losses is in a world, without noise."""
    sample: Any = Exact(world)
    return float(statistic.of(sample).low[0])


def gathered(world: World, claim: Claim, draws: int = FEW) -> Any:
    return gather(world.table(only=claim.needs), (claim,), draws=draws)


def shifted(world: World, moving: Sequence[Any], by: float) -> World:
    return dataclasses.replace(world, shift={**world.shift, **{(leaf.arm, leaf.language): by for leaf in moving}})


def where(claim: Claim, value: float, world: World) -> World:
    """The world in which the claim's estimand is `value`: what one of its arms has, or all of them, is moved."""
    estimand = claim.estimand
    if isinstance(estimand, Largest):
        by = value - truth(world, estimand)
        moving = {next(iter(leaves(part))).arm for part in estimand.parts}
        language = next(iter(leaves(estimand))).language
        return dataclasses.replace(world, moved=lambda run, lang: by * (run.name in moving and lang == language))
    shares = [part for part in getattr(estimand, "parts", ()) if isinstance(part, LnShareAtZero)]
    cells = [leaf for leaf in leaves(shares[0] if shares else estimand) if leaf.arm.startswith("cpt")]
    cells = cells if shares else cells[-1:]
    low, high = -0.4, 0.4
    rising = truth(shifted(world, cells, high), estimand) > truth(shifted(world, cells, low), estimand)
    for _ in range(24):
        middle = (low + high) / 2
        if (truth(shifted(world, cells, middle), estimand) < value) == rising:
            low = middle
        else:
            high = middle
    return shifted(world, cells, middle)


def worlds(claim: Claim) -> dict[str, World]:
    """For each verdict a world that must give it: effects of three times delta, or one too small for the noise."""
    calm = World(draw=sum(map(ord, claim.id)), noise=0.002, ends=0.1 if claim.id in ("R10", "R11") else 0.02)
    if claim.side == "about zero":
        there, beyond, edge = claim.against, claim.against + 3 * claim.delta, claim.against + claim.delta
    else:
        sign = 1 if claim.side == "above" else -1
        there, beyond, edge = (claim.against + k * sign * 3 * claim.delta for k in (1, -1, 0))
    noisy = dataclasses.replace(calm, noise=0.03, centred=True)
    return {
        "reproduced": where(claim, there, calm),
        "contradicted": where(claim, beyond, calm),
        "undecided": where(claim, edge, noisy),
    }


def continued(gamma: float) -> dict[str, float]:
    """The continued law with another gamma, and the same loss at the middle of the ladder."""
    middle = math.exp(np.mean(np.log(list(SIZES.values()))))
    return {**CONTINUED, "gamma": gamma, "B": CONTINUED["B"] * middle ** (gamma - CONTINUED["gamma"])}


def bent(run: Run, language: str) -> float:
    """Continued runs of the largest size that gain nothing from being larger."""
    if run.role != "cpt" or run.size != LARGEST or language != "target":
        return 0.0
    middle = math.exp(np.mean(np.log(list(SIZES.values())[:-1])))
    world = World(cpt=continued(0.09))
    there = world.target_loss(run)
    body = BODY["E"] + BODY["A"] / SIZES[LARGEST] ** BODY["alpha"]
    return math.log((body + (there - body) * (SIZES[LARGEST] / middle) ** 0.09) / there)


NOISY = World(noise=0.06, common=0.0, centred=True)
LAW_WORLDS = {
    "G1": (World(), World(cpt=continued(-0.06)), dataclasses.replace(NOISY, cpt=continued(0.0))),
    "G2": (World(), World(extended=0.3), dataclasses.replace(NOISY, extended=0.15)),
    "G3": (
        World(cpt=continued(0.09)),
        World(cpt=continued(0.09), moved=bent),
        dataclasses.replace(NOISY, cpt=continued(0.0)),
    ),
    "G4": (World(noise=0.002), World(extended=-0.5, noise=0.002), dataclasses.replace(NOISY, extended=-0.15)),
    "G5": (World(), World(cpt=continued(-0.3)), dataclasses.replace(NOISY, cpt=continued(-0.13))),
}


def verdict(claim: Claim, world: World) -> Entry:
    (entry,) = ledger((claim,), gathered(world, claim))
    return entry


@pytest.mark.parametrize("id", [id for id in CLAIMS if id not in LAWS])
def test_every_claim_of_losses_gets_its_three_verdicts(id: str) -> None:
    for wanted, world in worlds(CLAIMS[id]).items():
        entry = verdict(CLAIMS[id], world)
        assert entry.verdict == wanted, (wanted, entry)
        assert entry.seeds == 3 and entry.runs and bool(entry.reason) == (wanted == "undecided")


@pytest.mark.parametrize("id", LAWS)
def test_every_claim_of_laws_gets_its_three_verdicts(id: str) -> None:
    for wanted, world in zip(("reproduced", "contradicted", "undecided"), LAW_WORLDS[id], strict=True):
        entry = verdict(CLAIMS[id], world)
        assert entry.verdict == wanted, (wanted, entry)


def test_every_arm_that_a_claim_names_is_an_arm() -> None:
    for claim in CLAIMS.values():
        assert set(claim.needs) <= set(CELLS), claim.id
    assert len(CLAIMS) == len(claims(Scale())) >= 20
    few = claims(Scale(sizes=("nano-3",), main="nano-3", far="", dial=()))
    assert {c.id[0] for c in few} == {"L", "S", "R", "V"}, "laws need sizes, distances need targets"


def test_gamma_and_the_optimum_are_those_of_the_law() -> None:
    """Without noise the fits find the law that made the table, and eq. 5 its optimum."""
    world = World(noise=0.0, common=0.0, document_noise=0.0, seeds=(0, 1))
    found = gathered(world, CLAIMS["G5"], 3)
    law = CLAIMS["G5"].estimand
    assert isinstance(law, LnOptimum) and isinstance(law.law, JointLaw)
    assert found.estimate(Gamma(law.law)).low == pytest.approx(CONTINUED["gamma"], rel=1e-3)
    assert abs(found.estimate(Gamma(law.law, "scratch")).low) < 1e-4
    from analysis import laws

    cpt = laws.get("cpt")
    best = {
        name: cpt.optimum({**BODY, "gamma": 0.0, **more}, 1e14)["N"]
        for name, more in (("scratch", {}), ("cpt", CONTINUED))
    }
    assert found.estimate(law).low == pytest.approx(math.log(best["cpt"] / best["scratch"]), abs=2e-3)


def test_the_printed_law_fails_the_claims() -> None:
    """Table 2 as printed puts continued runs above scratch at D = 20 N and wherever D is more than 5 N: the claim that
    they end below is contradicted by the paper's own coefficients."""
    world = printed((368, 711, 1085))
    scale = Scale(
        sizes=("cpt-368", "cpt-711", "cpt-1085"), main="cpt-1085", tokens=(5425.0, 10850.0, 21700.0, 43400.0),
        parent_tokens=21700.0, middle=21700.0, far="", dial=(), flops=1e20,
    )  # fmt: skip
    arms = [Run(role, size, d) for size in scale.sizes for role in ("source", "scratch", "cpt") for d in scale.tokens]
    wanted = [c for c in claims(scale) if c.id in ("L1", "L2", "S1")]
    entries = {e.claim.id: e for e in ledger(tuple(wanted), gather(world.table(arms), wanted, draws=10))}
    assert {e.verdict for e in entries.values()} == {"contradicted"}
    level = entries["L1"].finding
    assert level is not None and math.expm1(level.estimate.low) == pytest.approx(2.372 / 2.231 - 1, abs=5e-3)


def test_vocabularies_compare_by_byte_and_by_document() -> None:
    """Losses a token differ by what a token holds; bits a byte differ by what is true, and share their documents."""
    world = World(noise=0.002, common=0.0, document_noise=0.0, centred=True)
    composed, joint = (f"cpt, {setting}3M, {MAIN}" for setting in (f"{EXTENDED.format('composition')}, ", ""))
    apart = difference(LnBits(composed, TARGET), LnBits(joint, TARGET))
    claim = dataclasses.replace(CLAIMS["V4"], estimand=apart)
    found = gathered(world, claim)
    estimate = found.estimate(apart)
    assert estimate.low == pytest.approx(0.01, abs=1e-6)
    assert found.estimate(difference(LnLoss(composed, TARGET), LnLoss(joint, TARGET))).low > 0.1
    alone = found.estimate(LnBits(composed, TARGET)).documents
    assert alone > 0 and estimate.documents < alone / 50


def test_equal_flops_beyond_a_ladder_are_a_bound() -> None:
    world = World(noise=0.0, common=0.0, document_noise=0.0, seeds=(0, 1))
    own = tuple(f"cpt, {OWN}, {t}M, {MAIN}" for t in ("1.5", "3"))
    arms = {t: f"cpt, {t}M, {MAIN}" for t in ("0.75", "3", "12")}
    beside = {t: LnBitsAtFlops(arm, TARGET, own) for t, arm in arms.items()}
    claims_of = tuple(dataclasses.replace(CLAIMS["V3"], id=t, estimand=one) for t, one in beside.items())
    found = gather(world.table(only=[*own, *arms.values()]), claims_of, draws=10)
    few, inside, many = (found.estimate(beside[t]) for t in arms)
    assert few.low == -math.inf and math.isfinite(few.high)
    assert math.isfinite(many.low) and many.high == math.inf
    assert inside.low == inside.high < 0, "the joint vocabulary is below the source's own"
