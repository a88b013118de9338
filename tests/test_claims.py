"""Claims: each of the imbalance study gets its three verdicts, and the rules of the ledger."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_imbalance import SCALE, World, arms
from test_records import row

from analysis.claims import Claim, Combination, Correlation, LnPPL, LnShareAtOne, LnTEff, ProbeValue, difference
from analysis.claims.estimands import leaves
from analysis.claims.gather import gather
from analysis.claims.ledger import frame, holm, judge, ledger, study_ledger
from analysis.teff_law import teff_law
from lab.errors import LabError
from lab.table import COLUMNS, table_of, write_table
from sweeps.imbalance import STUDY
from sweeps.imbalance_claims import claims

RUNS = arms()
CLAIMS = {claim.id: claim for claim in claims(SCALE)}
FEW = 1000
MAIN = "nano-4"
TENTH, HALF = f"clone 10 %, 1 T, {MAIN}", f"clone 50 %, 1 T, {MAIN}"


def truth(world: World, statistic: Any) -> float:
    """What a statistic is in a world, without noise."""
    if isinstance(statistic, Combination):
        return sum(w * truth(world, s) for w, s in statistic.terms)
    if isinstance(statistic, ProbeValue):
        return world.probes.get((statistic.arm, statistic.what), 0.3)
    cell = (statistic.arm, statistic.language)
    if isinstance(statistic, LnTEff):
        return math.log(world.teff.get(cell, 1.0))
    bare = dataclasses.replace(world, noise=0.0, common=0.0, seeds=(0,)).table(RUNS, [statistic.arm])
    return math.log(bare.ppl[bare.language == statistic.language].iloc[0])


def weights(statistic: Any, factor: float = 1.0) -> list[tuple[float, Any]]:
    if isinstance(statistic, Combination):
        return [pair for w, s in statistic.terms for pair in weights(s, w * factor)]
    return [(factor, statistic)]


def falling(points: tuple[LnTEff, ...], share: float, power: float = 0.7) -> dict[tuple[str, str], float]:
    """TEff that falls with the share of the clone, through 1 at `share`."""
    own = {run.name: run.run.mixture.stages[0].shares[1] for run in RUNS if run.name in {p.arm for p in points}}
    return {(p.arm, p.language): (own[p.arm] / share) ** -power for p in points}


def foretelling(statistic: Correlation, r: float, world: World) -> World:
    """The world in which early probes correlate by `r` with TEff that falls with the share."""
    teff = falling(tuple(late for _, late in statistic.pairs), 0.25)
    y = np.log([teff[late.arm, late.language] for _, late in statistic.pairs])
    y = (y - y.mean()) / np.linalg.norm(y - y.mean())
    other = np.resize([1.0, -1.0], len(y))
    other -= other.mean() + (other @ y) * y
    x = 0.4 + 0.5 * (r * y + math.sqrt(1 - r**2) * other / np.linalg.norm(other))
    probes = {(early.arm, early.what): float(v) for (early, _), v in zip(statistic.pairs, x, strict=True)}
    return dataclasses.replace(world, teff=teff, probes=probes)


def where(claim: Claim, value: float, world: World) -> World:
    """The world in which the claim's estimand is `value`: one of its arms, which is not a ladder's, is moved."""
    if isinstance(claim.estimand, LnShareAtOne):
        return dataclasses.replace(world, teff=falling(claim.estimand.points, math.exp(value)))
    if isinstance(claim.estimand, Correlation):
        return foretelling(claim.estimand, math.tanh(value), world)
    parts = getattr(claim.estimand, "parts", ())
    if all(isinstance(part, LnShareAtOne) for part in parts) and parts:
        first, second = parts
        middle = 0.16
        shares = (middle * math.exp(value / 2), middle * math.exp(-value / 2))
        return dataclasses.replace(world, teff=falling(first.points, shares[0]) | falling(second.points, shares[1]))
    weight, leaf = next(p for p in weights(claim.estimand) if not p[1].arm.startswith(("l1,", "l2,")))
    shift = (value - truth(world, claim.estimand)) / weight
    if isinstance(leaf, ProbeValue):
        return dataclasses.replace(world, probes={(leaf.arm, leaf.what): truth(world, leaf) + shift})
    cell = (leaf.arm, leaf.language)
    if isinstance(leaf, LnTEff):
        return dataclasses.replace(world, teff={cell: math.exp(truth(world, leaf) + shift)})
    return dataclasses.replace(world, log_ppl={cell: truth(world, leaf) + shift})


def tables(world: World, claim: Claim) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    table = world.table(RUNS, claim.needs)
    wanted = [leaf for leaf in leaves(claim.estimand) if isinstance(leaf, ProbeValue)]
    return table, world.probe_table(table, wanted) if wanted else None


def worlds(claim: Claim) -> dict[str, World]:
    """For each verdict a world that must give it: effects of three times delta, or one too small for the noise."""
    calm = World(draw=sum(map(ord, claim.id)))
    if claim.side == "about zero":
        there, beyond, edge = claim.against, claim.against + 3 * claim.delta, claim.against + claim.delta
    else:
        sign = 1 if claim.side == "above" else -1
        effect = sign * max(3 * claim.delta, 0.03)
        there, beyond, edge = claim.against + effect, claim.against - effect, claim.against
    noisy = dataclasses.replace(calm, noise=0.02, probe_noise=0.1, centred=True)
    return {
        "reproduced": where(claim, there, calm),
        "contradicted": where(claim, beyond, calm),
        "undecided": where(claim, edge, noisy),
    }


@pytest.mark.parametrize("id", list(CLAIMS))
def test_every_claim_gets_its_three_verdicts(id: str) -> None:
    claim = CLAIMS[id]
    for verdict, world in worlds(claim).items():
        table, probes = tables(world, claim)
        (entry,) = ledger((claim,), gather(table, (claim,), probes, draws=FEW))
        assert entry.verdict == verdict, (verdict, entry)
        assert entry.finding is not None and entry.seeds == 3
        low, high = entry.finding.interval
        assert low <= entry.finding.estimate.low <= entry.finding.estimate.high <= high
        assert set(entry.runs) == set(table.run_id)
        assert bool(entry.reason) == (verdict == "undecided")


def test_every_arm_that_a_claim_names_is_an_arm_of_the_study() -> None:
    names = {arm.name for arm in RUNS}
    for claim in CLAIMS.values():
        assert set(claim.needs) <= names, claim.id
    languages = {arm.name: {c.language for c in arm.run.mixture.components} for arm in RUNS}
    for claim in CLAIMS.values():
        for leaf in leaves(claim.estimand):
            assert leaf.language in languages[leaf.arm]
    assert {f"T{n}" for n in range(1, 9)} <= set(CLAIMS)
    text = " ".join(claim.text for claim in CLAIMS.values())
    assert all(f"({letter})" in text for letter in "abcdefghi")
    assert STUDY.claims(STUDY.scale()) and STUDY.again == ", paper's rate"


def test_the_committed_deltas_are_those_that_were_fixed_before_the_runs() -> None:
    assert {CLAIMS[id].seeds for id in ("T1", "T2", "T3", "T5")} == {3}
    worths = [c for c in CLAIMS.values() if all(isinstance(leaf, LnTEff) for leaf in leaves(c.estimand))]
    assert {c.delta for c in worths if not isinstance(c.estimand, LnShareAtOne)} == {0.1}


def test_holm_by_hand() -> None:
    """0.01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .04 x 1 -> .06: never less than the one before."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


PAIR = Claim("P", "worse at 10 %", "here", difference(LnPPL(TENTH, "clone1"), LnPPL(HALF, "clone1")), "above", 0.02)


def test_what_is_decided_alone_may_not_survive_the_family() -> None:
    world = where(PAIR, 0.019, World(noise=0.01, common=0.0, document_noise=0.0, centred=True))
    evidence = gather(world.table(RUNS, CLAIMS["T3"].needs), draws=FEW)
    alone = judge(evidence, PAIR, "law")
    assert alone.verdict == "reproduced" and 0.05 / 20 < alone.p < 0.05
    nulls = [dataclasses.replace(PAIR, id=f"n{i}", against=0.02) for i in range(30)]
    first = ledger((PAIR, *nulls), evidence)[0]
    assert (first.raw, first.verdict) == ("reproduced", "undecided") and "Holm" in first.reason
    assert ledger((PAIR,), evidence)[0].verdict == "reproduced"


def test_a_verdict_that_flips_with_the_learning_rate_is_undecided() -> None:
    claim = CLAIMS["T2"]
    up, down = (World(teff={(TENTH, "clone1"): v}).table(RUNS, claim.needs) for v in (2.0, 0.5))
    again = down.assign(arm=down.arm + STUDY.again, run_id=down.run_id + "p")
    (entry,) = study_ledger((claim,), pd.concat([up, again]), STUDY.again)
    assert (entry.raw, entry.verdict) == ("reproduced", "undecided")
    assert "flips" in entry.reason and entry.beside == {"at the other learning rate": "contradicted"}
    (same,) = study_ledger((claim,), pd.concat([up, up.assign(arm=up.arm + STUDY.again)]), STUDY.again)
    assert same.verdict == "reproduced" and list(same.beside.values()) == ["reproduced"]
    (given,) = study_ledger((claim,), up, STUDY.again, other=down)
    assert given.verdict == "undecided" and "flips" in given.reason


def test_a_verdict_that_flips_between_law_and_curve_is_undecided() -> None:
    claim = CLAIMS["T2"]
    for draw in range(3):
        world = World(teff={(TENTH, "clone1"): 1.03}, noise=5e-4, common=0.0, bend=-0.06, draw=draw, document_noise=0.0)
        (entry,) = ledger((claim,), gather(world.table(RUNS, claim.needs), draws=FEW))
        assert entry.reading == "local" and entry.raw == "reproduced"
        assert entry.beside == {"by the token law, which misfits its ladder": "contradicted"}
        assert entry.verdict == "undecided" and "flips" in entry.reason


def test_missing_anchors_are_no_data_and_named() -> None:
    claim = CLAIMS["T2"]
    table = World().table(RUNS, (*claim.needs, HALF))
    less = table[table.arm != f"l1, 0.3 T, {MAIN}"]
    entries = ledger((claim, PAIR), gather(less, draws=FEW))
    assert entries[0].verdict == "no data" and f"l1, 0.3 T, {MAIN}" in entries[0].reason
    assert entries[1].finding is not None
    with pytest.raises(LabError, match=rf"None of the 1 claims .* T2 is missing: the arm 'l1, 0.05 T, {MAIN}'"):
        ledger((claim,), gather(table[~table.arm.str.startswith("l1,")], draws=FEW))
    probes = CLAIMS["T4"]
    entries = ledger((probes, PAIR), gather(World().table(RUNS, probes.needs), (probes,), draws=FEW))
    assert entries[0].verdict == "no data" and "has no hidden state (clone1, layers, pairs)" in entries[0].reason


def test_too_few_seeds_leave_a_claim_undecided_whatever_the_numbers_say() -> None:
    claim = CLAIMS["T2"]
    table = World(teff={(TENTH, "clone1"): 2.0}).table(RUNS, claim.needs)
    (entry,) = ledger((claim,), gather(table[(table.arm != TENTH) | (table.seed_init == 0)], draws=FEW))
    assert (entry.raw, entry.verdict, entry.reason) == ("reproduced", "undecided", "1 of 3 seeds")
    assert entry.further == 2
    single = table[table.seed_init == 0]
    (blind,) = ledger((dataclasses.replace(claim, seeds=1),), gather(single, draws=FEW))
    assert blind.verdict == "undecided" and blind.reason == "no arm has replicate seeds"


def test_what_was_measured_on_one_run_alone_blinds_no_other_claim() -> None:
    probes = CLAIMS["T4"]
    world = World()
    table = world.table(RUNS, (*PAIR.needs, *probes.needs))
    readings = world.probe_table(table, leaves(probes.estimand))
    once = readings[readings.run_id.isin(table.run_id[table.seed_init == 0])]
    (alone,) = ledger((PAIR,), gather(table, (PAIR,), draws=FEW))
    entries = ledger((PAIR, probes), gather(table, (PAIR, probes), once, draws=FEW))
    assert alone.finding is not None and entries[0].finding is not None and entries[1].finding is not None
    assert entries[0].finding.half_width == pytest.approx(alone.finding.half_width, rel=0.2)
    assert entries[1].finding.interval == (-math.inf, math.inf) and entries[1].verdict == "undecided"
    assert entries[1].reason == "no arm has replicate seeds"


def test_a_bound_decides_where_it_can() -> None:
    """A perplexity that no number of tokens explains: TEff is at most the pole's, which is below 1."""
    claim = dataclasses.replace(CLAIMS["T2"], side="below")
    world = World(log_ppl={(TENTH, "clone1"): 12.0})
    (entry,) = ledger((claim,), gather(world.table(RUNS, claim.needs), draws=FEW))
    assert entry.verdict == "reproduced" and entry.finding is not None
    assert entry.finding.interval[0] == -math.inf and entry.as_dict()["interval"][0] is None
    (other,) = ledger((CLAIMS["T2"],), gather(world.table(RUNS, claim.needs), draws=FEW))
    assert other.verdict == "contradicted"
    better = World(log_ppl={(TENTH, "clone1"): 2.0}).table(RUNS, claim.needs)
    (open_above,) = ledger((CLAIMS["T2"],), gather(better, draws=FEW))
    assert open_above.verdict == "reproduced" and open_above.finding.interval[1] == math.inf  # type: ignore[union-attr]


def test_planned_seeds_decide() -> None:
    claim = dataclasses.replace(PAIR, delta=0.005)
    world = where(claim, 0.02, World(noise=0.02, common=0.0, document_noise=0.0, centred=True))
    (entry,) = ledger((claim,), gather(world.table(RUNS, CLAIMS["T3"].needs), draws=FEW))
    assert entry.verdict == "undecided" and entry.further is not None and f"{entry.further} more" in entry.reason
    assert entry.as_dict()["further_runs"] == 2 * entry.further
    more = dataclasses.replace(world, seeds=tuple(range(3 + 2 * entry.further)))
    (after,) = ledger((claim,), gather(more.table(RUNS, CLAIMS["T3"].needs), draws=FEW))
    assert after.finding.half_width < entry.finding.half_width  # type: ignore[union-attr]
    assert after.verdict == "reproduced"


def test_documents_widen_what_differs_between_arms_and_not_what_they_share() -> None:
    quiet = World(noise=1e-3, common=0.0, document_noise=0.0)
    loud = dataclasses.replace(quiet, document_noise=0.2)
    needs = CLAIMS["T3"].needs
    first, second = (gather(w.table(RUNS, needs), draws=FEW).estimate(PAIR.estimand) for w in (quiet, loud))
    assert first.documents < 1e-3 * second.documents
    assert second.documents**0.5 == pytest.approx(0.2 * math.sqrt(2 / 3 / 24), rel=0.5)
    assert second.seeds == pytest.approx(2 * 1e-6 / 3, rel=1.0)


def test_documents_that_were_not_kept_are_said_and_contradictory_ones_refused() -> None:
    table = World().table(RUNS, CLAIMS["T3"].needs)
    (entry,) = ledger((PAIR,), gather(table, draws=FEW))
    assert entry.documents == 24 == entry.as_dict()["documents"]
    bare = table.assign(document_nats=None, document_tokens=None)
    (entry,) = ledger((PAIR,), gather(bare, draws=FEW))
    assert entry.documents == 0 and entry.finding is not None and entry.finding.estimate.documents == 0
    other = table.copy()
    other.at[other.index[0], "document_tokens"] = [1] * 24
    with pytest.raises(LabError, match="2 different lists of documents"):
        gather(other, draws=FEW)


def test_seeds_are_paired() -> None:
    """What a seed does to all arms alike does not widen a difference of two."""
    world = World(noise=1e-3, common=0.05, document_noise=0.0)
    found = gather(world.table(RUNS, CLAIMS["T3"].needs), draws=FEW)
    assert found.common**0.5 == pytest.approx(0.05, rel=0.8)
    low, high = found.estimate(PAIR.estimand).interval()
    assert high - low < 0.02
    alone_low, alone_high = found.estimate(LnPPL(TENTH, "clone1")).interval()
    assert alone_high - alone_low > 0.05


def test_the_share_up_to_which_a_clone_gains_comes_back_or_is_bounded() -> None:
    claim = CLAIMS["b4"]
    points = claim.estimand.points  # type: ignore[union-attr]
    for share in (0.15, 0.25, 0.45):
        table = World(teff=falling(points, share)).table(RUNS, claim.needs)
        estimate = gather(table, draws=FEW).estimate(claim.estimand)
        low, high = estimate.interval()
        assert low < math.log(share) < high and high - low < 0.2
    never, always = (
        gather(World(teff=falling(points, share)).table(RUNS, claim.needs), draws=FEW).estimate(claim.estimand)
        for share in (0.03, 0.9)
    )
    assert never.low == -math.inf and never.high == pytest.approx(math.log(0.05), abs=1e-3)
    assert always.high == math.inf and always.low == pytest.approx(math.log(0.5), abs=1e-3)


def test_a_law_of_teff_is_recovered_with_its_interval() -> None:
    points = CLAIMS["b4"].estimand.points  # type: ignore[union-attr]
    world = World(teff=falling(points, 0.25, 0.7), noise=1e-3, document_noise=0.0)
    evidence = gather(world.table(RUNS, CLAIMS["b4"].needs), draws=FEW)
    shares = [math.log(float(p.arm.split()[1]) / 100) for p in points]
    law = teff_law(evidence, points, {"ln share": shares})
    slope = law.coefficients["ln share"]
    low, high = slope.interval()
    assert low < -0.7 < high and high - low < 0.1
    assert law.coefficients["1"].low == pytest.approx(-0.7 * math.log(4), abs=0.05)
    assert law.spread < 0.02 and set(law.residuals) == {p.arm for p in points}
    with pytest.raises(LabError, match="cannot tell ln share, twice apart"):
        teff_law(evidence, points, {"ln share": shares, "twice": [2 * s for s in shares]})


def test_claims_that_make_no_sense_are_named() -> None:
    with pytest.raises(LabError, match="side 'beside'"):
        dataclasses.replace(PAIR, side="beside")  # type: ignore[arg-type]
    with pytest.raises(LabError, match="smallest effect"):
        dataclasses.replace(PAIR, delta=0.0)
    table = World().table(RUNS, CLAIMS["T3"].needs)
    with pytest.raises(LabError, match="Two claims have the id 'P'"):
        ledger((PAIR, PAIR), gather(table, draws=FEW))
    probes = [leaf for leaf in leaves(CLAIMS["T4"].estimand) if isinstance(leaf, ProbeValue)]
    with pytest.raises(LabError, match="lacks value"):
        gather(table, (CLAIMS["T4"],), World().probe_table(table, probes).drop(columns="value"), draws=FEW)


def whole(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows with every column that a table on disk must have."""
    kinds = {"int64": int, "float64": float}
    rows = []
    for one in table.to_dict("records"):
        known = {k: kinds.get(COLUMNS[k][0], lambda v: v)(v) for k, v in one.items()}
        rows.append(row(**{**known, "exclusion": None}))
    return rows


def test_the_command_prints_the_ledger(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.commands.claims import Claims

    world = World(teff={(TENTH, "clone1"): 2.5})
    table = world.table(RUNS, [*CLAIMS["T3"].needs, *(a.name for a in RUNS if a.name.endswith(STUDY.again))])
    path = tmp_path / "mine.parquet"
    write_table(path, table_of(whole(table)))
    wanted = [leaf for leaf in leaves(CLAIMS["T4"].estimand) if isinstance(leaf, ProbeValue)]
    world.probe_table(table, wanted).to_parquet(tmp_path / "probes.parquet")
    command = Claims("imbalance", table=(path,), json=True)
    assert command.run() == 0
    found = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(found) == [c.id for c in STUDY.claims(STUDY.scale())]
    head = found["T2"]
    assert head["verdict"] == "reproduced" and head["statistic"] == pytest.approx(math.log(2.5), abs=0.05)
    assert head["interval"][0] < head["statistic"] < head["interval"][1] and head["seeds"] == 3
    assert f"{TENTH}/0" in head["runs"] and found["T4"]["verdict"] == "undecided"
    assert found["T7"]["verdict"] == "no data" and "l2 10 %, merged" in found["T7"]["reason"]
    assert dataclasses.replace(command, json=False).run() == 0
    text = capsys.readouterr().out
    assert "T2" in text and "reproduced" in text and "no data" in text
    monkeypatch.setattr("sweeps.tables.committed", lambda name: tmp_path / "none")
    with pytest.raises(LabError, match="no result table of imbalance"):
        Claims("imbalance", root=tmp_path).run()
    with pytest.raises(LabError, match="makes no claims"):
        Claims("demo", table=(path,)).run()


def test_the_frame_has_a_row_a_claim() -> None:
    table = World().table(RUNS, CLAIMS["T3"].needs)
    found = frame(ledger((CLAIMS["T2"], CLAIMS["T3"], CLAIMS["T7"]), gather(table, draws=FEW)))
    assert list(found.id) == ["T2", "T3", "T7"] and found.p.notna().tolist() == [True, True, False]
    assert np.isfinite(found.half_width[:2]).all()


def test_arms_that_are_not_over_are_no_second_opinion() -> None:
    """The arms at the paper's rate have begun, and none has finished: the claims are judged without them."""
    table = World().table(RUNS, [*CLAIMS["T2"].needs, *(a.name for a in RUNS if a.name.endswith(STUDY.again))])
    begun = table.arm.str.endswith(STUDY.again)
    table.loc[begun, "status"] = "incomplete"
    (alone,) = study_ledger((CLAIMS["T2"],), table[~begun], STUDY.again)
    (beside,) = study_ledger((CLAIMS["T2"],), table, STUDY.again)
    assert beside == alone
    with pytest.raises(LabError, match="no finished run"):
        gather(table[begun])
