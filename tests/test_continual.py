"""Continual pre-training read from tables: roles, laws, savings, frontiers, forgetting, and the paper's formulas."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from law_designs import grid, losses
from synthetic_continual import BODY, CONTINUED, MAIN, SIZES, Run, World, runs

from analysis import laws
from analysis.continual import distance, frontiers, names, replay
from analysis.continual.joint import errors, forward, gammas, joint, ranked
from analysis.continual.roles import averaged, ladder, main_text, points, roles, trunks
from analysis.continual.savings import curves, savings
from analysis.design import check
from analysis.laws.chinchilla import power_optimum
from figures.published import continual
from lab.errors import LabError

PAPER = continual()
EXACT = World(noise=0.0, common=0.0, document_noise=0.0, seeds=(0,))
SMALL = tuple(
    r for r in runs(("nano-2", "nano-4", "nano-6")) if r.setting in ("", "German", "Chinese") and r.tokens != 1.5
)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return roles(EXACT.table(SMALL))


@pytest.fixture(scope="module")
def found(rows: pd.DataFrame) -> pd.DataFrame:
    return points(rows)


# The paper's numbers.


def test_the_closed_forms_give_the_printed_constants() -> None:
    """Equations 2 and 5 at the coefficients of Table 2."""
    law, wanted = laws.get("cpt"), {row["role"]: row for row in PAPER.laws.to_dict("records")}
    printed_g = dict(zip(PAPER.constants.role, PAPER.constants.G, strict=True))
    for role in ("scratch", "cpt"):
        p, row = PAPER.law(role), wanted[role]
        own = p["beta"] - p["gamma"]
        total = p["alpha"] + own
        g = (p["alpha"] * p["A"] / (own * p["B"])) ** (1 / total)
        assert g == pytest.approx(printed_g[role], abs=5e-6)
        low, high = (law.optimum(p, c) for c in (1e18, 1e22))
        for name, k, power in (("N", "kN", "a"), ("D", "kD", "b")):
            slope = math.log(high[name] / low[name]) / math.log(1e4)
            assert slope == pytest.approx(row[power], abs=5e-4)
            exact = {"N": g * 6 ** -(p["beta"] / total), "D": 6 ** -((p["alpha"] - p["gamma"]) / total) / g}[name]
            assert low[name] / 1e18**slope == pytest.approx(exact, rel=1e-6)
            assert exact == pytest.approx(row[k], rel=6e-3)
    scratch = PAPER.law("scratch")
    assert law.optimum(scratch, 1e20) == power_optimum(420.0, 719.5, 0.40, 0.30, 1e20)


def test_the_printed_frontiers_give_the_printed_savings() -> None:
    scratch, cpt = (
        frontiers.PowerLaw(row["coefficient"], row["exponent"], 0.0) for row in PAPER.frontiers.to_dict("records")
    )
    assert frontiers.saved_at(scratch, cpt, PAPER.savings.flops.to_numpy()) == pytest.approx(
        PAPER.savings.saved.to_numpy(), abs=6e-4
    )


def test_the_order_of_the_best_sizes_turns_at_the_printed_compute() -> None:
    law, scratch, cpt = laws.get("cpt"), PAPER.law("scratch"), PAPER.law("cpt")
    turn = frontiers.breakeven(law, scratch, cpt)
    assert turn == pytest.approx(3.9e26, rel=0.02)
    for factor, above in ((0.5, True), (2.0, False)):
        both = [law.optimum(p, factor * turn)["N"] for p in (cpt, scratch)]
        assert (both[0] > both[1]) == above


def test_the_printed_sizes_follow_their_rule() -> None:
    rows = PAPER.architectures
    assert len(rows) == 42
    rule = (16 * rows.layers * rows.width**2 + PAPER.fact("vocabulary") * rows.width) / 1e6
    assert (np.abs(rule - rows.millions) < 1).all()
    assert (rows.ffn == 512 * (16 * rows.width // 3 // 512 + 1)).all()


def test_twenty_tokens_a_parameter_cannot_tell_beta_from_gamma() -> None:
    """The paper's own design is refused with the direction named; its sizes at several ratios are accepted."""
    law, params = laws.get("cpt"), PAPER.law("cpt")
    n = PAPER.architectures.millions.to_numpy(float)[::4] * 1e6
    line = check(law, {"N": n, "D": 20 * n}, params, frozen=("E", "A", "alpha"), suggest=False)
    assert line.verdict == "not identified" and line.rank == line.parameters - 1
    assert "D = 20 N only" in line.reasons[0] and "beta" in line.reasons[0] and "gamma" in line.reasons[0]
    x = grid(N=n[::2], r=[5, 20, 80, 320])
    wide = check(law, {"N": x["N"], "D": x["r"] * x["N"]}, params, 0.005, frozen=("E", "A", "alpha"), suggest=False)
    assert wide.verdict == "identified"


# Roles.


def test_roles_follow_from_columns_alone(rows: pd.DataFrame) -> None:
    anonymous = EXACT.table(SMALL).assign(arm="x")
    again = roles(anonymous)
    assert (again.role == rows.role).all() and (again.replay == rows.replay).all()
    assert set(rows.role) == {"source", "scratch", "cpt"}
    cpt = rows[rows.role == "cpt"]
    assert (cpt.parent_D == 12e6).all() and (cpt.parent_N == cpt.N).all() and (cpt.target == "target").all()
    assert (cpt.parent_C == 6 * cpt.N * 12e6).all()
    assert set(rows.replay) == {0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8}


def test_a_branch_begins_where_its_trunk_began() -> None:
    """A cooldown branch of a continued trunk has the trunk as parent: the source is one step further up."""
    arms = [Run("source", MAIN, 12.0), Run("scratch", MAIN, 3.0), Run("cpt", MAIN, 3.0), Run("cpt", MAIN, 6.0)]
    table = EXACT.table(arms)
    trunk, branch = "cpt, 6M, nano-4/0", "cpt, 3M, nano-4/0"
    is_branch = table.run_id == branch
    table = table.assign(
        group=table.group.where(~is_branch, trunk), parent=table.parent.where(~is_branch, trunk),
        parent_tokens=table.parent_tokens.where(~is_branch, 2_400_000),
        schedule=table.schedule.where(table.run_id != trunk, "constant"),
    )  # fmt: skip
    rows = roles(table).set_index("run_id")
    assert set(rows.parent_run[branch]) == {"source, 12M, nano-4/0"} and set(rows.parent_D[branch]) == {12e6}
    assert set(table.run_id[trunks(table)]) == {trunk}
    assert set(points(roles(table)).run_id) == {"scratch, 3M, nano-4/0", branch}
    with pytest.raises(LabError, match="is a branch of run cpt, 6M, nano-4/0, which is not in the table"):
        roles(table[table.run_id != trunk])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t[t.run_id != "source, 12M, nano-4/0"], "starts from run source, 12M, nano-4/0, which is not in"),
        (lambda t: t.assign(mixture=t.mixture + " other:0"), "it has two targets"),
        (lambda t: t.assign(mixture=t.mixture + " -> source:1"), "has a mixture in stages"),
        (lambda t: t.assign(mixture="all of it"), "which cannot be read"),
        (lambda t: t.drop(columns="parent"), "lacks parent"),
        (
            lambda t: t.assign(n_nonembedding=t.n_nonembedding.where(t.role_of != "source", 7)),
            "parameters in its layers, its parent",
        ),
        (
            lambda t: t.assign(mixture=t.mixture.str.replace("source:1 target:0", "source:0 target:1")),
            "which never read source",
        ),
    ],
)
def test_what_has_no_role_is_refused(change, problem: str) -> None:
    table = EXACT.table([Run("source", MAIN, 12.0), Run("scratch", MAIN, 3.0), Run("cpt", MAIN, 3.0)])
    table["role_of"] = table.arm.str.partition(",")[0]
    with pytest.raises(LabError, match=problem):
        roles(change(table))


def test_names_are_made_and_read_in_one_place() -> None:
    for role, setting, share in (("cpt", "", 0.0), ("cpt", "German", 0.05), ("scratch", "renamed 25 %", 0.0)):
        name = names.arm(names.what(role, setting, share), 0.75, "nano-4")
        assert names.setting(name) == setting
    assert names.arm(names.what("cpt", "", 0.05), 3, "nano-4") == "cpt, replay 5 %, 3M, nano-4"
    assert names.setting("something else") == ""


def test_the_ladder_is_one_text_one_parent_and_no_replay(found: pd.DataFrame) -> None:
    whole = ladder(found)
    assert set(whole.text) == {main_text(found)} == {"text "} and set(whole.replay) == {0.0}
    assert len(whole) == 2 * 3 * 4
    longer = found[(found.role == "cpt") & (found.D == 3e6)].assign(parent_D=3e6, run_id="short")
    assert "short" not in set(ladder(pd.concat([found, longer])).run_id)
    with pytest.raises(LabError, match="No target has runs from scratch as well as continued ones"):
        main_text(found[found.role == "cpt"])
    seeds = pd.concat([found, found.assign(run_id=found.run_id + "b", loss=found.loss + 0.2)])
    assert averaged(seeds).loss.to_numpy() == pytest.approx(averaged(found).loss.to_numpy() + 0.1)
    assert (averaged(seeds).seeds == 2).all()


# Laws.


def test_the_laws_are_found_again(found: pd.DataFrame) -> None:
    fits = joint(ladder(found), resamples=0)
    assert fits.scratch.params == pytest.approx(BODY, rel=2e-2)
    assert fits.cpt.params == pytest.approx(CONTINUED, rel=2e-2)
    assert fits.fits["free"].params["gamma"] == pytest.approx(CONTINUED["gamma"], abs=2e-3)
    table = errors(fits).set_index(["law", "on"])
    assert table.error["extended", "cpt"] < 1e-2 * table.error["chinchilla", "cpt"]
    assert abs(table.gamma["extended", "scratch"]) < 1e-3
    assert {"two stages", "free", "shared beta", "extended on scratch"} <= set(gammas(fits).fit)
    shared = fits.fits["shared beta"]
    assert shared.frozen["beta"] == fits.scratch.params["beta"] and shared.value > table.error["extended", "cpt"]


def test_a_ladder_that_identifies_no_law_is_refused(found: pd.DataFrame) -> None:
    whole = ladder(found)
    with pytest.raises(LabError, match="2 sizes cannot tell E, A and alpha apart"):
        joint(whole[whole["N"] != SIZES[MAIN]], resamples=0)
    line = whole[whole["role"] == "scratch"].assign(D=lambda t: 20 * t.N)
    both = pd.concat([whole[whole.role == "scratch"], line.assign(role="cpt", cluster=line.N.astype(str))])
    with pytest.raises(LabError, match=r"do not identify the law .cpt, not identified.: .*beta.*gamma"):
        joint(both, resamples=0)


def test_the_form_that_made_the_runs_predicts_larger_ones_best(found: pd.DataFrame) -> None:
    assert ranked(forward(ladder(found))).form.iloc[0] == "extended"


# Savings, frontiers.


def test_what_is_saved_is_what_the_laws_say(found: pd.DataFrame) -> None:
    """At a point of the scratch ladder the interpolation is exact: there the saving is known in closed form."""
    got = savings(curves(ladder(found)))
    exact = got[got.kind == "exact"]
    assert len(exact) == 9 and set(got[got.kind == "at least"].D) == {12e6}
    for row in exact.to_dict("records"):
        need = (row["loss"] - BODY["E"] - BODY["A"] / row["N"] ** BODY["alpha"]) / BODY["B"]
        assert row["scratch_tokens"] == pytest.approx(need ** (-1 / BODY["beta"]), rel=0.02)
        assert row["saved"] == pytest.approx(1 - row["D"] / row["scratch_tokens"])
        assert row["transferred"] == pytest.approx(row["scratch_tokens"] - row["D"])
    by_size = exact[exact.D == 3e6].sort_values("N").saved
    assert by_size.is_monotonic_increasing


def test_a_run_that_is_worse_than_scratch_saves_less_than_nothing() -> None:
    world = dataclasses.replace(EXACT, cpt={**CONTINUED, "B": 500.0})
    got = savings(curves(ladder(points(roles(world.table(SMALL))))))
    assert (got[got.kind == "exact"].saved < 0).all() and "at most" in set(got.kind)


def test_sizes_of_one_budget_are_read_along_their_runs(rows: pd.DataFrame, found: pd.DataFrame) -> None:
    one = found[(found.D == 12e6) & (found.setting == "")]
    assert all(c.along for c in curves(ladder(one), rows).values()) and len(curves(ladder(one), rows)) == 6
    with pytest.raises(LabError, match="No size has 3 points from scratch"):
        savings(curves(ladder(one)))


def test_frontiers_count_parents_or_not(found: pd.DataFrame) -> None:
    whole = ladder(found)
    cpt = whole[whole.role == "cpt"]
    assert (frontiers.counted(cpt) == cpt.C).all()
    assert (frontiers.counted(cpt, 4) == cpt.C + cpt.parent_C / 4).all()
    law, p = laws.get("cpt"), {**BODY, **CONTINUED}
    c = np.array([1e13, 1e14, 1e15])
    free = frontiers.optima(law, p, c)
    assert free["N"] == pytest.approx([law.optimum(p, one)["N"] for one in c], rel=0.01)
    paid, shared = (frontiers.optima(law, p, c, frontiers.parents(found, k)) for k in (1, 4))
    assert (free["loss"] < shared["loss"]).all() and (shared["loss"] < paid["loss"]).all()
    assert (paid["N"] < free["N"]).all(), "a parent costs in proportion to its size"
    spent = 6 * paid["N"] * (paid["D"] + 12e6)
    assert spent == pytest.approx(c, rel=1e-6)


def test_the_envelope_is_what_no_other_run_beats() -> None:
    flops, loss = np.array([1.0, 2, 3, 4, 5]), np.array([5.0, 6, 3, 4, 2])
    assert frontiers.envelope(flops, loss).tolist() == [True, False, True, False, True]
    power = frontiers.frontier(flops, 7 * flops**-0.3)
    assert (power.coefficient, power.exponent) == pytest.approx((7, -0.3))


# Forgetting, distance.


def test_forgetting_is_read_against_the_parent(rows: pd.DataFrame) -> None:
    got = replay.forgetting(rows)
    main = got[(got["N"] == SIZES[MAIN]) & (got.D.round(-3) == 3e6) & (got.text == "text ")].set_index("replay")
    parent = EXACT.source_loss(Run("source", MAIN, 12.0))
    assert main.L0.to_numpy() == pytest.approx(parent) and main.rise[0.0] == pytest.approx(EXACT.forgotten)
    assert (main.peak >= main.loss).all() and main.ends_below[0.05] and not main.ends_below[0.0]
    along = replay.replayed(rows)
    one = along[(along.arm == "cpt, replay 20 %, 3M, nano-4") & (along.language == "source")]
    assert one.loss.iloc[0] == pytest.approx(parent) and one.flops.iloc[0] == 0
    assert one.flops.iloc[-1] == pytest.approx(0.2 * one.total.iloc[-1], rel=1e-6)
    lost = rows[~((rows.role == "source") & (rows.language == "source"))]
    with pytest.raises(LabError, match="were both evaluated in source"):
        replay.forgetting(lost)


def test_a_law_of_forgetting_is_fitted_or_refused(rows: pd.DataFrame) -> None:
    whole = replay.forgetting(rows)
    assert replay.forgetting_law(whole).left_out == (whole.rise <= 0).sum() > 0
    # Without replay nothing says what it does.
    refused = replay.forgetting_law(whole[whole.replay == 0])
    assert refused.fit is None and "B" in refused.refused
    truth = {"A": 4.0, "alpha": 0.6, "beta": 0.4, "B": 829.0}
    x = grid(N=[4e7, 1e8, 3e8, 1.2e9], D=[3e5, 3e6, 3e7], p=[0, 0.001, 0.01, 0.05])
    x["L0"] = 1.2 + 1e3 / x["N"] ** 0.4
    loss = losses(laws.get("bethune-pretraining"), truth, x)
    made = pd.DataFrame(
        {"N": x["N"], "D": x["D"], "replay": x["p"], "L0": x["L0"], "loss": loss, "rise": loss - x["L0"]}
    )
    fitted = replay.forgetting_law(made)
    assert fitted.fit is not None and fitted.fit.params == pytest.approx(truth, rel=1e-3)


def test_targets_of_one_text_are_told_apart_by_their_setting(found: pd.DataFrame) -> None:
    """Renamed pieces leave the text, and so the evaluation set, as it was."""
    probes = EXACT.probe_table(EXACT.table(SMALL))
    apart = distance.joined(distance.transfer(found), distance.distances(probes, found))
    texts = set(found.text[found.setting.isin(["German", "Chinese"])])
    one = found.assign(text=found.text.where(~found.text.isin(texts), "one"))
    together = distance.joined(distance.transfer(one), distance.distances(probes, one))
    columns = ["setting", "D", "measure", "value", "gain"]
    shown = [t[columns].sort_values(columns).reset_index(drop=True) for t in (apart, together)]
    assert {"German", "Chinese"} <= set(shown[0].setting)
    pd.testing.assert_frame_equal(*shown)


def test_transfer_falls_with_distance(rows: pd.DataFrame, found: pd.DataFrame) -> None:
    gains = distance.transfer(found)
    main = gains[(gains["N"] == SIZES[MAIN]) & (gains.D == 3e6)].set_index("setting").gain
    assert main[""] > main["German"] > main["Chinese"] > 0
    assert main[""] - main["Chinese"] == pytest.approx(0.03)
    measured = distance.distances(EXACT.probe_table(EXACT.table(SMALL)), found)
    ranks = distance.order(distance.joined(gains[gains.D == 3e6], measured)).set_index("measure")
    assert set(ranks.rho) == {1.0} and "dial setting" not in ranks.index
    strange = EXACT.probe_table(EXACT.table(SMALL)).replace({"place": {"unigram JSD": "hunch"}})
    with pytest.raises(LabError, match="a distance called 'hunch'"):
        distance.distances(strange, found)
    with pytest.raises(LabError, match="runs from scratch and continued ones at one size"):
        distance.transfer(found[found.role == "cpt"])
