"""Best rates of a sweep, the rule through them, and `lab tune` from corpus to recipe."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.rates import Cell, cells, fit_rule, optima, optimum, tuned
from analysis.table import read
from figures.rates import rates as draw
from lab.cli import main
from lab.config import OptimConfig
from lab.errors import LabError
from lab.recipes import Fitted, RateRule, load
from sweeps.rates import RateSweep

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "sweeps" / "results" / "demo_rates.parquet"
GRID = (2e-3, 4e-3, 8e-3, 16e-3, 32e-3)


def frame(sizes: Any, budgets: Any, best: Any, curvature: float = 0.05, seeds: int = 1, **more: Any) -> pd.DataFrame:
    """A sweep whose loss is a parabola in ln rate with its bottom at best(n, d)."""
    rows = [
        {
            "family": "gpt2", "mixture": "en:1", "layout_hash": "l", "context": 8, "batch_tokens": 32,
            "schedule": "cosine", "warmup": 0.25, "base_width": None, "weight_decay": 0.0,
            "eval_hash": "e", "n_nonembedding": n, "tokens_seen": d,
            "n_layers": 2, "d_model": n // 100, "language": "en", "peak_lr": rate, "seed_init": seed,
            "seed_data": seed, "run_id": f"{n} {d} {rate} {seed}", "status": "done",
            "loss": 4 - 1e-7 * n + 0.01 * seed + curvature * math.log(rate / best(n, d)) ** 2, **more,
        }
        for n in sizes for d in budgets for rate in GRID for seed in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@given(
    bottom=st.floats(math.log(4.1e-3), math.log(15.9e-3)),
    curvature=st.floats(1e-3, 1.0),
    low=st.floats(0.1, 10),
)
def test_a_parabola_is_found_exactly(bottom: float, curvature: float, low: float) -> None:
    x = np.log(GRID)
    cell = Cell(100, 1000, 2, 16, np.array(GRID), (low + curvature * (x - bottom) ** 2)[None])
    found = optimum(cell)
    assert found.edge is None
    assert math.log(found.rate) == pytest.approx(bottom, abs=1e-6)
    assert found.loss == pytest.approx(low, abs=1e-8) and found.curvature == pytest.approx(curvature, rel=1e-6)
    assert found.worse_below >= 0 and found.worse_above >= 0


@pytest.mark.parametrize(("losses", "edge", "rate"), [([3, 4, 5], "low", 1e-3), ([5, 4, 3], "high", 4e-3)])
def test_the_best_on_the_edge_only_bounds(losses: list[float], edge: str, rate: float) -> None:
    found = optimum(Cell(1, 1, 1, 1, np.array([1e-3, 2e-3, 4e-3]), np.array([losses], float)))
    assert found.edge == edge and found.rate == rate and math.isnan(found.curvature)
    assert sum(map(math.isnan, (found.worse_below, found.worse_above))) == 1


def test_a_diverged_neighbour_brackets_the_best() -> None:
    found = optimum(Cell(1, 1, 1, 1, np.array([1e-3, 2e-3, 4e-3]), np.array([[4, 3, np.inf]])))
    assert found.edge == "diverges" and found.rate == 2e-3
    with pytest.raises(LabError, match="Every rate diverged"):
        optimum(Cell(1, 1, 1, 1, np.array([1e-3, 2e-3]), np.full((1, 2), np.inf)))


def test_rates_that_a_seed_lacks_do_not_count() -> None:
    losses = np.array([[4.0, 3.0, 3.5, 2.0], [4.1, 3.2, 3.4, np.nan]])
    found = optimum(Cell(1, 1, 1, 1, np.array([1e-3, 2e-3, 4e-3, 8e-3]), losses))
    assert found.edge is None and 1e-3 < found.rate < 4e-3 and found.spread > 0


@settings(max_examples=8)
@given(p=st.floats(-1, 1), q=st.floats(-0.5, 0.5))
def test_a_power_law_of_best_rates_is_found_exactly(p: float, q: float) -> None:
    def best(n: float, d: float) -> float:
        return 8e-3 * (n / 3e4) ** p * (d / 3e5) ** q

    sizes, budgets = (2e4, 3e4, 4e4), (2e5, 4e5)
    table = frame(sizes, budgets, best, seeds=2)
    fit = fit_rule(optima(table))
    assert fit.rule.p == pytest.approx(p, abs=1e-6) and fit.rule.q == pytest.approx(q, abs=1e-6)
    assert fit.rule.n_range == (2e4, 4e4) and fit.rule.d_range == (2e5, 4e5)
    assert abs(fit.residual).max() < 1e-6 and fit.regret.max() < 1e-9
    want = np.log(table.peak_lr / best(table.n_nonembedding, table.tokens_seen))
    np.testing.assert_allclose(tuned(table, fit.rule), want, atol=1e-6)
    assert np.isnan(tuned(table.assign(n_nonembedding=5e4), fit.rule)).all()


def test_one_size_gives_a_rule_for_that_size() -> None:
    fit = fit_rule(optima(frame((1e4,), (1e5, 2e5, 4e5), lambda n, d: 8e-3 * (d / 2e5) ** 0.3)))
    assert fit.rule.p == 0 and fit.rule.q == pytest.approx(0.3)
    assert not fit.rule.covers(2e4, 2e5) and fit.rule.covers(1e4, 4.01e5)


def test_what_a_sweep_cannot_say_is_refused() -> None:
    together = pd.concat([frame((n,), (20 * n,), lambda n, d: 8e-3) for n in (1e4, 2e4, 3e4)])
    with pytest.raises(LabError, match="rise together"):
        fit_rule(optima(together))
    with pytest.raises(LabError, match="edge of its grid"):
        fit_rule(optima(frame((1e4,), (1e5,), lambda n, d: 1.0)))
    with pytest.raises(LabError, match="cannot fix 3 parameters"):
        fit_rule(optima(together[together.n_nonembedding < 3e4].assign(tokens_seen=lambda t: t.tokens_seen)))
    with pytest.raises(LabError, match=r"differ in batch_tokens.*32, 64"):
        cells(pd.concat([together, together.assign(batch_tokens=64)]))
    with pytest.raises(LabError, match=r"columns \['peak_lr'\]"):
        cells(together.drop(columns="peak_lr"))


def test_the_demos_own_sweep() -> None:
    """The committed table: best rates as its authors read them, and the shipped rule `nano` is what it gives."""
    found = optima(read(DEMO))
    assert [(o.cell.n, o.cell.d) for o in found] == sorted((o.cell.n, o.cell.d) for o in found)
    tried = {(o.cell.n_layers, o.cell.d): float(o.cell.rates[np.argmin(o.cell.losses[0])]) for o in found}
    assert {k: v for k, v in tried.items() if k[0] == 4} == {(4, 149504): 8e-3, (4, 1199616): 8e-3}
    assert [o.edge for o in found] == [None] * 8
    for o in found:
        assert abs(math.log(o.rate / tried[o.cell.n_layers, o.cell.d])) <= math.log(2) / 2 + 1e-9
    fit, shipped = fit_rule(found), load(ROOT / "lab" / "nano_rates.json")
    for field in dataclasses.fields(RateRule):
        assert getattr(shipped.rule, field.name) == pytest.approx(getattr(fit.rule, field.name), rel=1e-9)
    assert shipped.batch_tokens == 512 and shipped.optim.warmup == 0.25
    assert [c.edge for c in shipped.cells] == [o.edge for o in found]
    assert not fit.contradicted.any()


def test_the_picture_marks_every_cell(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = frame((1e4, 2e4), (1e5, 2e5), lambda n, d: 8e-3 if n < 2e4 else 1.0, seeds=2)
    rows.to_csv(table)
    png = draw(optima(rows), RateRule(8e-3, 0, 0, (1e4, 2e4), (1e5, 2e5)), table, rows.run_id, tmp_path / "rates")
    assert png.stat().st_size > 10_000
    svg = png.with_suffix(".svg").read_text()
    assert svg.count('id="axes_') == 2  # one a size


SWEEP = RateSweep(
    ("nano-1", "nano-2"),
    (1e5,),
    5,
    2.0,
    None,
    RateRule(0.5, -0.4, 0.1, (1, 2), (1, 2)),
    2,
    300,
    16,
    4,
    OptimConfig(1.0),
)


def test_grids_lie_on_one_lattice() -> None:
    for n in (5e3, 1e5):
        grid = SWEEP.grid(n, 1e5)
        middle = SWEEP.start.rate(n, 1e5)
        assert len(grid) == 5 and grid[2] == pytest.approx(middle, rel=0.42)
        assert all(math.log2(r / 1e-3) == int(math.log2(r / 1e-3)) for r in grid)
    assert set(SWEEP.grid(1e4, 1e5)) < set(dataclasses.replace(SWEEP, rates=7).grid(1e4, 1e5))
    assert dataclasses.replace(SWEEP, centre=8e-3).grid(1, 1) == [2e-3, 4e-3, 8e-3, 16e-3, 32e-3]
    with pytest.raises(LabError, match="at least 3 rates"):
        dataclasses.replace(SWEEP, rates=2)


def test_a_sweep_is_every_size_budget_rate_and_seed(tmp_path: Path) -> None:
    run = tiny.run(tiny.prepared(tmp_path))
    arms = dataclasses.replace(SWEEP, base_width=16).arms(run.mixture, 300)
    assert len(arms) == len({a.run.run_id for a in arms}) == 2 * 1 * 5 * 2
    assert {a.run.model.base_width for a in arms} == {16}
    assert {a.run.steps for a in arms} == {round(1e5 / 64)}


def test_tune_from_a_table_writes_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--table", str(DEMO), "--root", str(tmp_path), "--name", "n"]) == 0
    out = capsys.readouterr().out
    assert "LR = 5.048 N^-0.443 D^-0.067" in out and "≥" not in out
    assert isinstance(load(tmp_path / "n" / "rates.json"), Fitted)
    assert (tmp_path / "n" / "rates.png").exists()
    form = json.loads((tmp_path / "n" / "rates.json").read_text())
    assert form["table"] == DEMO.name and len(form["cells"]) == 8
    assert main(["tune", "--root", str(tmp_path)]) == 1
    assert "Name a corpus" in capsys.readouterr().err


def test_a_best_rate_on_the_edge_of_its_grid_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read(DEMO)
    table = tmp_path / "narrow.csv"
    whole[whole.peak_lr < 0.033].to_csv(table)
    assert main(["tune", "--table", str(table), "--root", str(tmp_path), "--name", "n"]) == 0
    assert "≥ 0.032" in capsys.readouterr().out


@pytest.mark.slow
def test_tune_trains_and_the_rule_is_used(tmp_path: Path) -> None:
    """From text to a rule to a run with it, each a command of its own; a second sweep trains nothing."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(tiny.documents("aa", 80)))
    corpus, root = f"text:{text}?split=blank2", tmp_path / "out"
    shared = ["--vocab", "300", "--context", "16", "--root", str(root)]

    def lab(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "lab", *argv, *shared], capture_output=True, text=True)

    sweep = ("tune", corpus, "--models", "nano-1", "--tokens", "12k", "--rates", "7", "--centre", "32e-3")
    first = lab(*sweep)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "7 of 7 runs to train" in first.stdout and "LR = " in first.stdout
    assert "All 7 runs are done" in lab(*sweep).stdout
    rule = load(root / "tune" / "rates.json")
    done = lab("train", corpus, "--model", "nano-1", "--tokens", "12k", "--recipe", str(root / "tune" / "rates.json"))
    assert done.returncode == 0, done.stderr
    used = [json.loads(p.read_text())["optim"]["peak_lr"] for p in root.glob("runs/*/config.json")]
    assert any(rate == pytest.approx(rule.cells[0].rate, rel=1e-6) for rate in used)
