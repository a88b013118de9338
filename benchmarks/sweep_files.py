"""Processor seconds that status and collect of a large study take, beside a plain loop that reads every JSON file.

    python benchmarks/sweep_files.py --runs 10000

Writes synthetic run directories (valid configs, logs, results, packs) below a temporary folder: nine runs in ten are
over, the others are running or were stopped, and packs hold eight runs each. Every row of the table is real in form and
made up in content.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.config import Component, LayoutConfig, MixtureConfig, OptimConfig, RunConfig, Source, Stage, to_json
from lab.presets import preset
from lab.records import RunDir
from lab.result import CURVE_POINTS, described
from lab.table import read_arrow
from sweeps.collect import collect
from sweeps.exclusion import parse
from sweeps.status import study_status
from sweeps.status_table import status_report
from sweeps.study import Arm

PACK = 8
LOG_LINES = 200


def study(runs: int) -> tuple[Arm, ...]:
    """Sizes, budgets, rates and seeds."""
    layout = LayoutConfig.merged(("en", "enm"), ("a" * 16, "b" * 16))
    components = tuple(Component(name, Source(f"embedded:{name}", name * 8)) for name in ("en", "enm"))
    arms = []
    for i in range(runs):
        size, rate, share = (f"nano-{1 + i % 4}", (4e-3, 8e-3, 16e-3, 32e-3)[i // 4 % 4], (0.1, 0.25, 0.5)[i // 16 % 3])
        mixture = MixtureConfig(components, layout, (Stage(1.0, (1 - share, share)),))
        run = RunConfig(
            preset(size, vocab=1802, context=128), OptimConfig(rate), mixture, 300 * (1 + i // 48 % 5), 4, i // 240
        )
        arms.append(Arm(f"{size}, {share:.0%} Middle English", run))
    return tuple(arms)


def write(arms: tuple[Arm, ...], root: Path, documents: int) -> None:
    """The run directories and packs."""
    rng = random.Random(0)
    for i, arm in enumerate(arms):
        run = arm.run
        directory = RunDir(root, run.run_id)
        directory.path.mkdir(parents=True)
        directory.config_file.write_text(json.dumps(to_json(run), indent=1) + "\n")
        over = i % 10 < 9
        steps = run.steps if over else run.steps // 2
        lines = [
            {"step": s, "tokens": s * 512, "loss": 8 * s**-0.1, "grad_norm": 0.5, "lr": 1e-3, "wall_s": s / 20}
            for s in range(math.ceil(steps / LOG_LINES), steps + 1, math.ceil(steps / LOG_LINES))
        ]
        directory.metrics.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if over:
            directory.result_file.write_text(json.dumps(result(run, lines, documents, rng), indent=1) + "\n")
    for start in range(0, len(arms), PACK):
        members = [arm.run for arm in arms[start : start + PACK]]
        folder = root / "packs" / f"{start:08d}"
        folder.mkdir(parents=True)
        placements = [{"run_id": r.run_id, "slot": k, "start": 0, "stop": r.steps} for k, r in enumerate(members)]
        (folder / "plan.json").write_text(json.dumps({"plan": {"slots": PACK, "placements": placements}}))
        (folder / ".lock").touch()


def result(run: RunConfig, lines: list[dict[str, Any]], documents: int, rng: random.Random) -> dict[str, Any]:
    """A `result.json` whose losses follow a law with noise."""
    facts = described(run)
    thinned = lines[:: max(1, len(lines) // CURVE_POINTS)][:CURVE_POINTS]
    loss = (1.5 + 25 / facts["n_nonembedding"] ** 0.3 + 120 / run.tokens_seen**0.35) * math.exp(rng.gauss(0, 0.003))
    shared = {
        **facts,
        "group": run.run_id,
        "parent_tokens": None,
        "layout_hash": "c" * 16,
        "curve_tokens": [line["tokens"] for line in thinned],
        "curve_loss": [line["loss"] for line in thinned],
        "tuned": None,
        "train_loss": loss,
        "status": "done",
        "exclusion": None,
        "pack": "0123456789abcdef:0/8",
        "examples_hash": "d" * 16,
        "wall_s": run.steps / 20,
        "device": "8 x a device",
        "versions": "python-3 jax-0",
        "commit": "e" * 12,
    }
    evaluations = [
        {
            "language": c.language,
            "v_language": 1024,
            "tokenizer_hash": "f" * 16,
            "tokens_language": int(run.tokens_seen * share),
            "unique_tokens": int(run.tokens_seen * share),
            "epochs": 0.5,
            "eval_hash": "0" * 16,
            "eval_tokens": 200_000,
            "eval_bytes": 500_000,
            "loss": loss,
            "bits_per_byte": loss / 2,
            "document_nats": [rng.uniform(1e3, 9e3) for _ in range(documents)],
            "document_tokens": [rng.randrange(300, 3000) for _ in range(documents)],
            "ppl": math.exp(loss),
            "ppl_window": 128,
            "ppl_stride": 64,
            "eval_curve_tokens": [run.tokens_seen],
            "eval_curve_loss": [loss],
        }
        for c, share in zip(run.mixture.components, run.mixture.stages[0].shares, strict=True)
    ]
    return {"run": shared, "evaluations": evaluations, "steps_done": run.steps, "tokens_per_s": 1e4}


def plain_loop(root: Path) -> int:
    """Reads and parses every config and result."""
    files = [*(root / "runs").glob("*/config.json"), *(root / "runs").glob("*/result.json")]
    return sum(bool(json.loads(file.read_text())) for file in files)


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds: other work on the machine does not count."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=106, help="evaluation documents a language")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    arms = study(options.runs)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print(f"writing {len(arms)} run directories below {root}", flush=True)
        write(arms, root, options.documents)
        size = sum(f.stat().st_size for f in (root / "runs").glob("*/result.json"))
        print(f"results hold {size / 1e6:.0f} MB of JSON")
        rules = parse(("diverged", "incomplete", "learning-rate"))

        def fresh() -> tuple[Arm, ...]:
            return tuple(dataclasses.replace(a, run=dataclasses.replace(a.run)) for a in arms)

        def status() -> None:
            status_report("synthetic", study_status(fresh(), root))

        for _ in range(options.repeats):
            loop = seconds(lambda: plain_loop(root))
            shown = seconds(status)
            made = seconds(lambda: collect("synthetic", fresh(), root, rules))
            read = seconds(lambda: read_arrow(root / "synthetic" / "results.parquet"))
            print(
                f"plain loop {loop:.2f} s, status {shown:.2f} s ({shown / loop:.2f} of it), collect {made:.2f} s "
                f"({made / loop:.2f} of it), reading the table {read:.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
