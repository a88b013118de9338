"""A study of a few small runs of two shapes on text files that lie beside it; tests copy it to where they need it."""

from __future__ import annotations

from pathlib import Path

from lab.config import Component, LayoutConfig, MixtureConfig, ModelConfig, OptimConfig, RunConfig, Stage
from lab.data.prepare import Prepared
from sweeps.study import Arm, DataSpec, Scale, Study

TEXT = f"text:{Path(__file__).parent / 'text.txt'}?split=line"
STEPS = 900


def arms(prepared: Prepared, scale: Scale) -> tuple[Arm, ...]:
    layout = LayoutConfig.joint(("en",), prepared.tokenizer(TEXT).hash)
    mixture = MixtureConfig((Component("en", prepared.source(TEXT)),), layout, (Stage(1.0, (1.0,)),))
    found = []
    for width in (32, 64):
        model = ModelConfig("gpt2", width, 1, 2, width // 2, 4 * width, prepared.layout(layout).v_total, 32)
        for seed in (0, 1, 2):
            run = RunConfig(model, OptimConfig(3e-3), mixture, STEPS // (1 + seed), 8, seed_init=seed, seed_data=seed)
            found.append(Arm(f"width {width}", run))
    return tuple(found)


STUDY = Study(
    name="small",
    question="Does it run?",
    expected="Yes.",
    scales=(Scale("nano", DataSpec((TEXT,), 300), "seconds"),),
    arms=arms,
)
