"""Run directories of made-up runs, as training leaves them behind."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from lab.config import (
    Component,
    LayoutConfig,
    MixtureConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Source,
    Stage,
    canonical,
)
from lab.pack import plan_pack
from lab.records import RunDir, write_json
from lab.result import described
from sweeps.study import Arm

MODEL = ModelConfig("gpt2", 16, 1, 1, 16, 32, 300, 16)


def run(languages: tuple[str, ...] = ("aa",), lr: float = 1e-2, steps: int = 40, **changes: Any) -> RunConfig:
    layout = LayoutConfig.joint(languages, "t" * 16)
    components = tuple(Component(name, Source(f"tiny:{name}", name * 8)) for name in languages)
    shares = tuple(1 / len(languages) for _ in languages)
    config = RunConfig(MODEL, OptimConfig(lr), MixtureConfig(components, layout, (Stage(1.0, shares),)), steps, 4)
    return dataclasses.replace(config, **changes)


def arm(name: str = "arm", **changes: Any) -> Arm:
    return Arm(name, run(**changes))


def begin(config: RunConfig, root: Path, step: int | None = None, seconds: float = 10.0) -> RunDir:
    """A run's directory, with its log up to `step`."""
    directory = RunDir(root, config.run_id)
    directory.create(config)
    for done in range(8, (step or 0) + 1, 8):
        line = {"step": done, "tokens": done * 64, "loss": 6 - done / 10, "wall_s": seconds * done / (step or 1)}
        directory.metrics.append(line)
    return directory


def finish(config: RunConfig, root: Path, loss: float | None = 4.0, seconds: float = 10.0, **changes: Any) -> RunDir:
    """A run that is over: done with a loss, or diverged where it is None."""
    directory = begin(config, root, config.steps, seconds)
    write_json(directory.result_file, result(config, loss, seconds, **changes))
    return directory


def result(config: RunConfig, loss: float | None, seconds: float = 10.0, **changes: Any) -> dict[str, Any]:
    facts = {
        **described(config),
        "group": config.run_id,
        "parent_tokens": None,
        "layout_hash": "l",
        "curve_tokens": [64, 128],
        "curve_loss": [5.0, 4.5],
        "tuned": None,
        "train_loss": 4.5,
        "status": "diverged" if loss is None else "done",
        "exclusion": "diverged at step 9: loss nan" if loss is None else None,
        "pack": "p:0/1",
        "examples_hash": "e",
        "wall_s": seconds,
        "device": "a device",
        "versions": "v",
        "commit": "c",
        **changes,
    }
    tokens = config.tokens_seen // len(config.mixture.components)
    evaluations = [
        {
            "language": c.language,
            "v_language": 300,
            "tokenizer_hash": "t",
            "tokens_language": tokens,
            "unique_tokens": tokens,
            "epochs": 0.5,
            "eval_hash": "h",
            "eval_tokens": None if loss is None else 100,
            "eval_bytes": None if loss is None else 300,
            "loss": loss,
            "bits_per_byte": None if loss is None else loss / 2,
            "document_nats": None if loss is None else [1.0, 2.0],
            "document_tokens": None if loss is None else [1, 2],
            "ppl": None if loss is None else math.exp(loss),
            "ppl_window": 16,
            "ppl_stride": 8,
            "eval_curve_tokens": [config.tokens_seen],
            "eval_curve_loss": [loss],
        }
        for c in config.mixture.components
    ]
    return {"run": facts, "evaluations": evaluations, "steps_done": config.steps, "tokens_per_s": 100.0}


def pack(configs: list[RunConfig], root: Path) -> Path:
    """The folder of a pack that was begun with these runs."""
    plan = plan_pack(configs, 2, 8)
    folder = root / "packs" / plan.pack_id
    write_json(folder / "plan.json", {"plan": canonical(plan)})
    return folder


def edit(file: Path, **changes: Any) -> None:
    """Changes a JSON file by hand."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
