"""What a study will cost and tell: rows, programs, time, noise, identifiability, and what half of it would."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from lab import calibrate
from lab.calibrate import Speed
from lab.cli import main
from lab.config import Stage
from lab.errors import LabError
from lab.evaluate.perplexity import plain, sliding, target_nats
from lab.flops import flops_per_token
from lab.pack import Shape, shape_of
from lab.presets import preset
from lab.rundata import open_run
from sweeps import designs, plan
from sweeps.noise import Noise, noise_of
from sweeps.plan import DEVICES, Assumed, groups, planned_rows
from sweeps.precision import judge, least_missed
from sweeps.study import Arm, LawFit
from sweeps.texts import stores

QUIET = Noise(0.01, math.inf)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def data(root):
    return tiny.prepared(root)


def test_planned_rows_say_what_the_runs_will_read(root, data):
    uneven = tiny.run(data, ("aa", "bb"), steps=300)
    stages = (Stage(0.5, (0.9, 0.1)), Stage(0.5, (0.4, 0.6)))
    uneven = dataclasses.replace(uneven, mixture=dataclasses.replace(uneven.mixture, stages=stages))
    rows = planned_rows([Arm("a", uneven)], stores(data)).set_index("language")
    read = open_run(uneven, root).stream.realised(300)
    for language in ("aa", "bb"):
        assert abs(rows.tokens_language[language] - read.tokens[language]) <= tiny.CONTEXT
        assert rows.epochs[language] == pytest.approx(read.epochs[language], abs=0.02)
        assert rows.unique_tokens[language] == pytest.approx(read.unique_tokens[language], rel=0.02)
    assert list(rows.tokens_seen) == [300 * tiny.BATCH * tiny.CONTEXT] * 2


def test_a_query_on_what_is_known_only_after_training_is_refused(data):
    rows = planned_rows([Arm("a", tiny.run(data))], stores(data))
    assert len(plan.select(rows, "arm == 'a' and tokens_seen > 10")) == 1
    with pytest.raises(LabError, match="'loss > 3', cannot be chosen before training"):
        plan.select(rows, "loss > 3")
    with pytest.raises(LabError, match="No planned row satisfies"):
        plan.select(rows, "arm == 'b'")


@given(st.integers(2, 500))
def test_evaluation_is_counted_as_it_is_done(data, n):
    run = tiny.run(data)
    calls = []

    def nats(tokens, targets):
        calls.append(tokens.shape)
        return np.ones(targets.shape)

    whole = target_nats(nats, np.ones(n, int), plain(tiny.CONTEXT), batch=1)
    target_nats(nats, np.ones(n, int), sliding(tiny.CONTEXT), batch=1, whole_n=whole)
    sizes = {c.source.store: n for c in run.mixture.components}
    assert plan.evaluated_tokens(run, sizes) == sum(w for _, w in calls)


def slow(shape: Shape, plan_of, runs: int) -> tuple[int, Speed]:
    return 2, Speed(2, 8, dispatch_s=0.5, evaluated_per_s=1000.0, compile_s=3.0, peak_bytes=77)


def arms_of(*runs, **changes) -> list[Arm]:
    return [Arm("a", run, **changes) for run in runs]


def test_every_evaluation_and_every_order_is_counted(data):
    runs = [tiny.run(data, steps=33, seed_init=k) for k in range(2)]
    sizes = {c.source.store: 161 for c in runs[0].mixture.components}
    (once,) = groups(arms_of(*runs), sizes, 8, slow)
    (often,) = groups(arms_of(*runs, evaluations=3), sizes, 8, slow)
    assert often.evaluated == 3 * once.evaluated
    assert (once.plan.dispatches, often.plan.dispatches) == (5, 6)  # a dispatch ends where a run is evaluated
    first, second = groups([Arm("a", runs[0], order=1), Arm("b", runs[1])], sizes, 8, slow)
    assert [g.plan.placements[0].run_id for g in (first, second)] == [runs[1].run_id, runs[0].run_id]
    assert first.seconds - second.seconds == pytest.approx(3.0)  # compiled once


def test_a_program_costs_its_dispatches_its_evaluations_and_its_compilation(data):
    runs = [tiny.run(data, steps=s, seed_init=k) for k, s in enumerate((80, 40, 33))]
    other = dataclasses.replace(runs[0], model=dataclasses.replace(runs[0].model, d_ff=64))
    sizes = {c.source.store: 161 for c in runs[0].mixture.components}
    (first, second) = groups(arms_of(*runs, other), sizes, 8, slow)
    # 80 steps are 10 dispatches; 40 and 33 steps, 5 each, fill the other slot.
    assert (first.runs, first.plan.dispatches, first.plan.idle_share) == (3, 10, 0.0)
    assert first.tokens == (80 + 40 + 33) * tiny.BATCH * tiny.CONTEXT
    # 160 targets: 10 windows of 16; of the (160 - 12) / 4 sliding ones those 10 are known.
    assert first.evaluated == 3 * (160 + 27 * 16)
    assert first.seconds == pytest.approx(10 * 0.5 + first.evaluated / 1000 + 3)
    assert first.flops_exact == first.tokens * flops_per_token(runs[0].model).exact
    assert first.peak_bytes == 77
    assert (second.runs, shape_of(other)) == (1, second.shape)
    assert plan.idle_share([first]) == 0.0


def test_a_trunk_is_paid_for_once(data):
    longest = tiny.run(data, steps=100)
    family = designs.trunk_and_branches(longest, (50, 100))
    sizes = {c.source.store: 161 for c in longest.mixture.components}
    (found,) = groups(arms_of(*family), sizes, 8, slow)
    assert found.tokens == (80 + 10 + 20) * tiny.BATCH * tiny.CONTEXT
    rows = planned_rows([Arm("a", r) for r in family], stores(data))
    assert rows.flops_spent.sum() == found.flops_exact < rows.flops_exact.sum()
    assert list(rows.tokens_seen) == [n * tiny.BATCH * tiny.CONTEXT for n in (80, 50, 100)]


def test_a_program_without_room_has_no_time(data):
    run = tiny.run(data)
    sizes = {c.source.store: 161 for c in run.mixture.components}
    (found,) = groups(arms_of(run), sizes, 8, lambda *_: (1, None))
    assert found.seconds is None and found.peak_bytes is None


def test_a_named_device_takes_time_by_its_assumed_utilisation(data):
    run = tiny.run(data)
    sizes = {c.source.store: 161 for c in run.mixture.components}

    def seconds(n: int, utilisation: float) -> float:
        (found,) = groups(arms_of(run), sizes, 8, Assumed(DEVICES["h100"], n, utilisation))
        return found.seconds

    work = run.tokens_seen + (160 + 27 * 16) / 3
    assert seconds(1, 0.5) == pytest.approx(work * flops_per_token(run.model).exact / (989e12 * 0.5))
    assert seconds(2, 0.25) == pytest.approx(seconds(1, 0.5))


# Noise.


def replicated(sigma, cells: int = 60, seeds: int = 4, arms: int = 1, shared: float = 0.0) -> pd.DataFrame:
    """Losses with sigma(N, D) from seed to seed, of which `shared` is a part that all arms of a seed have in common."""
    rng = np.random.default_rng(0)
    shared_columns = {
        "mixture": "m", "language": "en", "context": 16, "peak_lr": 1e-3, "weight_decay": 0.0, "schedule": "wsd",
        "batch_tokens": 64,
    }  # fmt: skip
    rows = []
    for k in range(cells):
        n, d = 10 ** rng.uniform(5, 8), 10 ** rng.uniform(7, 9)
        common = rng.normal(0, shared, seeds)
        for arm in range(arms):
            for seed in range(seeds):
                log_loss = 1.0 + 0.1 * arm + common[seed] + rng.normal(0, sigma(n, d))
                rows.append(
                    {
                        **shared_columns, "arm": str(arm), "n_total": n, "n_nonembedding": n, "tokens_seen": d,
                        "seed_init": seed, "seed_data": seed, "loss": math.exp(log_loss), "exclusion": None,
                        "run_id": f"{k} {arm} {seed}",
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_noise_that_changes_with_size_and_tokens_is_recovered():
    def sigma(n, d):
        return 0.02 * (n / 10**6.5) ** -0.3 * (d / 1e8) ** -0.2

    noise = noise_of(replicated(sigma, cells=200))
    assert noise.cells == 200 and noise.degrees == 600
    for slope, true in ((noise.n, -0.3), (noise.d, -0.2)):
        assert abs(slope.value - true) < 4 * slope.se < 0.2
    n, d = np.array([1e5, 1e6, 1e8]), np.array([1e7, 1e8, 1e9])
    np.testing.assert_allclose(noise.at(n, d), sigma(n, d), rtol=0.2)
    np.testing.assert_array_equal(noise.at([1e12], [1e8]), noise.at([noise.ranges[0][1]], [1e8]))


def test_few_replicates_give_one_number():
    noise = noise_of(replicated(lambda n, d: 0.01, cells=5, seeds=40))
    assert noise.n is None and noise.d is None
    assert noise.sigma == pytest.approx(0.01, rel=0.2)
    np.testing.assert_allclose(noise.at([1e5, 1e9], [1e7, 1e9]), noise.sigma)


def test_a_table_without_replicates_has_no_noise():
    table = replicated(lambda n, d: 0.01, seeds=1)
    assert noise_of(table) is None
    excluded = replicated(lambda n, d: 0.01)
    excluded["exclusion"] = "diverged"
    assert noise_of(excluded) is None


def test_pairing_by_seed_removes_what_arms_have_in_common():
    noise = noise_of(replicated(lambda n, d: 0.01, arms=3, shared=0.05))
    assert noise.sigma == pytest.approx(math.hypot(0.01, 0.05), rel=0.15)
    assert noise.paired == pytest.approx(math.sqrt(2) * 0.01, rel=0.15)
    assert noise.paired_degrees == 60 * (3 - 1) * (4 - 1)
    unpaired = dataclasses.replace(noise, paired=None)
    assert noise.detectable(4) < unpaired.detectable(4) / 3


def test_the_smallest_effect_is_that_of_a_t_test():
    known = Noise(0.01, math.inf)
    assert known.detectable(8) == pytest.approx((1.95996 + 0.84162) * 0.01 * math.sqrt(2 / 8), rel=1e-4)
    assert known.detectable(2) == pytest.approx(2 * known.detectable(8))
    assert Noise(0.01, 4.0).detectable(8) > known.detectable(8)


# Laws.

SIZES = [preset(f"nano-{k}", vocab=512, context=64) for k in range(1, 9)]
LAW = LawFit("chinchilla", columns={"N": "n_nonembedding", "D": "tokens_seen"})


def law_rows(cells, seeds=(0,)) -> pd.DataFrame:
    rows = [
        {
            "run_id": f"{k} {seed}", "arm": f"d {cell.model.d_model}", "parent": None, "language": "en",
            "n_nonembedding": designs.size_of(cell.model, "nonembedding"), "tokens_seen": cell.tokens,
            "flops_spent": float(flops_per_token(cell.model).exact * cell.tokens),
        }
        for k, cell in enumerate(cells)
        for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_ladder_of_one_ratio_is_refused_and_a_grid_is_not():
    equal = dataclasses.replace(LAW, params={"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3})
    for law, verdict in ((LAW, "weak"), (equal, "not identified")):
        ladder = judge(law, law_rows(designs.ladder(SIZES, (20.0,), "nonembedding")), QUIET)
        assert ladder.report.verdict == verdict and ladder.half is None
        assert "D = 20 N only" in ladder.report.reasons[0]
    grid = judge(LAW, law_rows(designs.grid(SIZES, (10**5, 10**6, 10**7, 10**8))), QUIET)
    assert grid.report.verdict == "identified"


def test_half_the_budget_costs_half_and_precision():
    rows = law_rows(designs.grid(SIZES, (10**5, 10**6, 10**7, 10**8)), seeds=(0, 1))
    found = judge(LAW, rows, QUIET)
    assert 0.3 * found.flops < found.half_flops <= found.flops / 2
    assert sum(found.left_out.values()) == len(rows) - found.half.runs
    full = {e.label: e.se for e in found.report.errors}
    half = {e.label: e.se for e in found.half.errors}
    assert all(half[k] > full[k] for k in full)
    # Leaving out one seed of every run would cost sqrt(2); the choice does better for the exponents.
    assert half["alpha"] < math.sqrt(2) * full["alpha"] and half["beta"] < math.sqrt(2) * full["beta"]


def test_standard_errors_scale_with_the_noise():
    rows = law_rows(designs.grid(SIZES, (10**5, 10**6, 10**7)))
    quiet, loud = judge(LAW, rows, QUIET), judge(LAW, rows, Noise(0.02, math.inf))
    for a, b in zip(quiet.report.errors, loud.report.errors, strict=True):
        assert b.se == pytest.approx(2 * a.se, rel=1e-6)


def test_a_law_fitted_by_group_is_judged_by_group():
    rows = law_rows(designs.grid(SIZES, (10**5, 10**6, 10**7)), seeds=(0, 1))
    rows["arm"] = np.where(rows.run_id.str.endswith("0"), "x", "y")
    found = judge(dataclasses.replace(LAW, group="arm"), rows, QUIET)
    assert {e.label for e in found.report.errors} >= {"alpha[x]", "alpha[y]"}
    assert set(found.left_out) <= {"x", "y"}


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.05, 1.0))
def test_what_is_left_out_fits_the_budget_and_leaves_the_rest_identified(seed, parameters, share):
    rng = np.random.default_rng(seed)
    runs = int(rng.integers(parameters, 20))
    rows = pd.DataFrame(
        {
            "run_id": [str(k // 2) for k in range(2 * runs)],  # two rows a run
            "parent": ["0" if k // 2 == 1 else None for k in range(2 * runs)],
            "flops_spent": np.repeat(rng.uniform(1, 10, runs), 2),
        }
    )
    jacobian = rng.normal(size=(2 * runs, parameters))
    total = rows.drop_duplicates("run_id").flops_spent.sum()
    dropped = least_missed(jacobian, rows, share * total)
    kept = ~rows.run_id.isin(dropped)
    assert np.linalg.matrix_rank(jacobian[kept]) == parameters
    if runs > 1 and "1" not in dropped:
        assert "0" not in dropped  # run 1 starts from it
    left = rows[kept].drop_duplicates("run_id").flops_spent.sum()
    if share == 1.0:
        assert not dropped
    elif left > share * total * (1 + 1e-6):  # then nothing more could go
        for run_id in set(rows.run_id[kept]) - ({"0"} if runs > 1 and "1" not in dropped else set()):
            without = jacobian[kept & (rows.run_id != run_id)]
            information = np.linalg.eigvalsh(without.T @ without) if len(without) else np.zeros(parameters)
            before = np.linalg.eigvalsh(jacobian[kept].T @ jacobian[kept])
            assert np.prod(information.clip(0)) <= 1e-5 * np.prod(before)


# The command.

STUDY = """
import tiny
from sweeps.study import Arm, DataSpec, LawFit, Scale, Study

def arms(data, scale):
    return tuple(
        Arm(f"{{steps}} steps", tiny.run(data, steps=steps, seed_init=s, seed_data=s))
        for steps in (20, 40, 80, 160) for s in (0, 1)
    )

LAWS = (LawFit({law!r}, columns={{"N": "n_nonembedding", "D": "tokens_seen"}}, params={params}),)
STUDY = Study("tiny", "Longer?", "yes", (Scale("nano", DataSpec(("tiny:aa",), 300), "seconds"),), arms, LAWS)
"""
KNOWN = ("reciprocal-perplexity", {"c": 0.03, "a": 1e-6, "b": 0.7})
UNKNOWN = ("chinchilla", {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3})


@pytest.fixture
def study(tmp_path, data, monkeypatch):
    import lab.devices

    monkeypatch.setattr("lab.data.prepare.prepare", lambda *_: data)
    monkeypatch.setattr(lab.devices, "prepare_process", lambda **_: None)
    monkeypatch.setattr(
        calibrate, "_measure", lambda program, shape, slots, k, limit: Speed(slots, k, 0.5, 1000.0, 3.0, 10**6)
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def write(law, params):
        path = tmp_path / "tiny_plan.py"
        path.write_text(STUDY.format(law=law, params=params))
        return [str(path), "--root", str(tmp_path / "out")]

    return write


def test_the_plan_of_a_study_is_printed_and_the_same_as_json(study, capsys):
    assert main(["sweep", "plan", *study(*KNOWN), "--price", "3600"]) == 0
    text = capsys.readouterr().out
    assert main(["sweep", "plan", *study(*KNOWN), "--price", "3600", "--json"]) == 0
    form = json.loads(capsys.readouterr().out)
    assert form["runs"] == 8 and form["seeds"] == [2, 2] and form["over"] == 0
    assert form["money"] == pytest.approx(form["seconds"])
    assert f"{form['money']:.2f} at the price given" in text
    assert "8 runs in 1 packs, of 1 compiled programs" in text and "assumed: no table of this study yet" in text
    (law,) = form["laws"]
    assert law["verdict"] == "identified" and law["half_flops"] <= law["flops"] / 2
    assert "Half: " in text
    assert {int(k) for k in form["detectable"]} == {2, 4, 8}


def test_a_study_that_cannot_identify_its_law_is_refused_unless_told_otherwise(study, capsys):
    arguments = study(*UNKNOWN)
    assert main(["sweep", "plan", *arguments]) == 3
    assert "Refused: with N = " in capsys.readouterr().out
    assert main(["sweep", "plan", *arguments, "--anyway"]) == 0


def test_a_plan_for_another_device_prints_its_assumption(study, capsys):
    assert main(["sweep", "plan", *study(*KNOWN), "--device", "h100", "--devices", "4", "--utilisation", "0.3"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "ASSUMED: 4 x h100 at 30% of the peak" in text
    assert "of 80 GB; activations are known only where the programs are compiled" in text


def test_bad_options_of_plan_are_one_line(study, capsys):
    for option, message in (
        (("--scale", "paper"), "has no scale 'paper'"),
        (("--device", "abacus"), "Unknown device 'abacus'. Known: a100-40"),
        (("--device", "h100", "--utilisation", "1.5"), "not a share of the peak"),
        (("--noise", "0"), "must be above 0"),
        (("--table", "none.parquet"), "none.parquet"),
    ):
        assert main(["sweep", "plan", *study(*KNOWN), *option]) == 1
        assert message in capsys.readouterr().err
