"""Recipes say what their papers say, inside their range alone; files of fitted rules come back as they were."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from lab.commands.train import Train
from lab.config import OptimConfig
from lab.errors import LabError
from lab.flops import count
from lab.presets import preset
from lab.recipes import BestRate, Fitted, MuP, RateRule, StepLaw, load, power_of_two, recipe, save

SMALL = preset("languini-small", 16_384, 512)


def test_languini() -> None:
    """arXiv:2404.07982, A.2: 18,265 steps of 128 x 512 for 1,197,015,040 tokens; its largest size doubles the batch."""
    found = recipe("languini").setup(SMALL, 1_197_015_040)
    assert (found.batch, found.steps) == (128, 18_265)
    o = found.optim
    assert (o.peak_lr, o.schedule, o.beta1, o.beta2, o.eps, o.weight_decay, o.clip) == (
        6e-4, "cosine", 0.9, 0.95, 1e-8, 0.0, None,
    )  # fmt: skip
    assert o.final_lr * o.peak_lr == pytest.approx(6e-6) and round(o.warmup * found.steps) == 200
    medium = recipe("languini").setup(preset("languini-medium", 16_384, 512), 1_196_949_504)
    assert (medium.batch, medium.steps) == (256, 18_265 // 2)
    with pytest.raises(LabError, match="200 steps; this run has 2"):
        recipe("languini").setup(SMALL, 2 * 65_536)


@pytest.mark.parametrize(("size", "batch"), [(992, 512), (1085, 1024), (2452, 1024), (2791, 2048), (5534, 2048)])
def test_cpt(size: int, batch: int) -> None:
    """arXiv:2407.02118, B.2: 1M, 2M, 4M tokens a batch by printed size; 2e-4 with 5 % warm-up at all of them."""
    found = recipe("cpt").setup(preset(f"cpt-{size}", 32_000, 2048), 20e6 * size)
    assert found.batch == batch
    assert (found.optim.peak_lr, found.optim.warmup) == (2e-4, 0.05)


def test_bilingual() -> None:
    """arXiv:2411.12986: 30,000 steps of 1024 x 1024 at 300M; no rate printed at 2.7B."""
    medium = dataclasses.replace(SMALL, d_model=1024, n_layers=24, n_heads=16, d_ff=4096, context=1024)
    found = recipe("bilingual").setup(medium, 30_000 * 2**20)
    assert (found.batch, found.steps, found.optim.peak_lr) == (1024, 30_000, 3e-4)
    assert (found.optim.beta2, found.optim.clip, found.optim.weight_decay, found.optim.warmup) == (0.999, 1, 0.01, 0.01)
    assert found.optim.final_lr * 3e-4 == pytest.approx(1e-5)
    big = dataclasses.replace(medium, d_model=2048, d_ff=8192)
    assert recipe("bilingual").setup(big, 1e11).optim.peak_lr == 2e-4
    with pytest.raises(LabError, match="prints no learning rate"):
        recipe("bilingual").setup(dataclasses.replace(big, d_model=2560, n_layers=32, d_ff=10_240), 1e11)


def test_step_law() -> None:
    """arXiv:2503.04715, eq. 1, by hand: 85.4M parameters on 10B tokens."""
    found = recipe("step-law").setup(SMALL, 10e9)
    n = count(SMALL).nonembedding
    assert found.optim.peak_lr == pytest.approx(math.exp(math.log(1.79) - 0.713 * math.log(n) + 0.307 * math.log(1e10)))
    assert found.optim.peak_lr == pytest.approx(4.7e-3, rel=0.03)
    assert StepLaw.batch_tokens(10e9) == pytest.approx(297e3, rel=0.01) and found.batch == 512  # 580 sequences
    assert found.optim.final_lr * found.optim.peak_lr == pytest.approx(1e-5)
    assert recipe("step-law").setup(SMALL, 10e9, batch=64).batch == 64


def test_a_rule_says_when_it_leaves_its_range() -> None:
    nano = preset("nano-4", 1024, 128)
    with pytest.raises(LabError, match=r"fitted on 6e\+07 to 1\.1e\+09 parameters.*1e\+09 to 1e\+11 tokens.*lab tune"):
        recipe("step-law").setup(nano, 1e6)
    notes = recipe("step-law", extrapolate=True).setup(nano, 1e6).notes
    assert len(notes) == 2 and all("outside its range" in note for note in notes)
    assert recipe("step-law", extrapolate=True).setup(SMALL, 10e9).notes == ()


@given(st.floats(0.01, 1e9))
def test_batches_are_the_nearest_power_of_two(value: float) -> None:
    found = power_of_two(value)
    assert found >= 1 and math.log2(found) == int(math.log2(found))
    assert found == 1 or abs(math.log2(value / found)) <= 0.5 + 1e-9


RULE = Fitted(
    RateRule(0.5, -0.4, 0.1, (2e4, 3e5), (1e5, 2e6)),
    OptimConfig(1.0, warmup=0.25, clip=1.0),
    "gpt2",
    512,
    "t.parquet",
    "0" * 64,
    (BestRate(2e4, 1e5, 0.03, "high", 0.1, False), BestRate(3e5, 2e6, 0.01, None, -0.01, True)),
)


def test_a_fitted_rule_comes_back_from_its_file(tmp_path: Path) -> None:
    mup = MuP(*(getattr(RULE, f.name) for f in dataclasses.fields(Fitted)), base_width=64, n_layers=4)
    for rule in (RULE, mup):
        save(rule, tmp_path / "rates.json")
        assert load(tmp_path / "rates.json") == rule == recipe(str(tmp_path / "rates.json"))
    (tmp_path / "rates.json").write_text('{"recipe": "Fitted"}')
    with pytest.raises(LabError, match="is not a recipe"):
        load(tmp_path / "rates.json")
    with pytest.raises(LabError, match="does not exist"):
        recipe(str(tmp_path / "none.json"))
    with pytest.raises(LabError, match=r"no recipe 'x'.*nano"):
        recipe("x")


def test_a_fitted_rule_gives_its_rate_and_the_sweeps_optimiser() -> None:
    model = preset("nano-4", 1024, 128)
    n = count(model).nonembedding
    found = RULE.setup(model, 1e6)
    assert found.optim == dataclasses.replace(RULE.optim, peak_lr=0.5 * n**-0.4 * 1e6**0.1)
    assert (found.batch, found.steps, found.notes, found.model) == (4, 1953, (), model)
    for other, tokens, batch, problem in (
        (preset("nano-6", 1024, 128), 1e6, None, "parameters"),
        (model, 1e7, None, "tokens"),
        (model, 1e6, 8, "512 tokens a step, not 1,024"),
        (preset("nano-4", 1024, 128, "llama"), 1e6, None, "gpt2 family, not llama"),
    ):
        with pytest.raises(LabError, match=problem):
            RULE.setup(other, tokens, batch)
        allowed = dataclasses.replace(RULE, extrapolate=True).setup(other, tokens, batch)
        assert problem in allowed.notes[0]


def test_mup_transfers_across_width_alone() -> None:
    rule = dataclasses.replace(RULE.rule, p=0.0)
    shared = {f.name: getattr(RULE, f.name) for f in dataclasses.fields(Fitted)} | {"rule": rule}
    mup = MuP(**shared, base_width=64, n_layers=4)
    narrow, wide = (mup.setup(preset(name, 1024, 128), 1e6) for name in ("nano-4", "nano-4x512"))
    assert narrow.optim == wide.optim and wide.notes == ()
    assert wide.model.width_ratio == 8 and narrow.model.width_ratio == 1
    with pytest.raises(LabError, match="depth 4"):
        mup.setup(preset("nano-5", 1024, 128), 1e6)
    with pytest.raises(LabError, match="tokens"):
        mup.setup(preset("nano-4", 1024, 128), 1e8)


def test_train_takes_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny.prepared(tmp_path)
    train = Train(("tiny:aa",), model="nano-3", tokens="300k", recipe="nano")
    setup = train._setup(1024)
    assert setup.batch == 4 and setup.optim == recipe("nano").setup(preset("nano-3", 1024, 128), 3e5).optim
    assert 0.01 < setup.optim.peak_lr < 0.016
    assert Train(("tiny:aa",))._setup(1024).batch == 8
    with pytest.raises(LabError, match=r"nano sets --lr, --weight-decay itself"):
        dataclasses.replace(train, lr=1e-3, weight_decay=0.1)._setup(1024)
    with pytest.raises(LabError, match="512 tokens a step, not 1,024"):
        dataclasses.replace(train, batch=8)._setup(1024)
    assert dataclasses.replace(train, batch=8, extrapolate=True)._setup(1024).notes
    assert data.stores
