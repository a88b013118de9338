"""The result of a finished run: everything its table rows say, gathered in one place."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.config import RunConfig
from lab.flops import count, flops_per_token
from lab.records import provenance

if TYPE_CHECKING:
    from lab.lineage import Ancestry

CURVE_POINTS = 48


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the training of one run ended.

    Attributes:
      steps_done: updates that happened.
      diverged: what went wrong and when, or None.
      metrics: the lines of `metrics.jsonl`.
      evaluations: the lines of `evaluations.jsonl`.
      examples_hash: chained hash of the consumed examples.
      layout_hash: of the vocabulary layout's tables.
      pack: pack and slot.
      wall_s: seconds, shared with the other runs of the pack.
      ancestry: whom the run descends from.
    """

    steps_done: int
    diverged: str | None
    metrics: Sequence[dict[str, float]]
    evaluations: Sequence[dict[str, Any]]
    examples_hash: str
    layout_hash: str
    pack: str
    wall_s: float
    ancestry: Ancestry


def described(run: RunConfig) -> dict[str, Any]:
    """What a run's rows say that its config alone determines."""
    model = run.model
    parameters = count(model)
    per_token = flops_per_token(model)
    flops = float(per_token.exact * run.tokens_seen)
    return {
        "run_id": run.run_id,
        "mixture": mixture_text(run),
        "seed_init": run.seed_init,
        "seed_data": run.seed_data,
        "parent": run.parent.run_id if run.parent else None,
        "family": model.family,
        "d_model": model.d_model,
        "n_layers": model.n_layers,
        "base_width": model.base_width,
        "context": model.context,
        "n_total": parameters.total,
        "n_nonembedding": parameters.nonembedding,
        "n_embedding": parameters.embedding,
        "n_head": parameters.head,
        "v_total": model.vocab,
        "tokens_seen": run.tokens_seen,
        "flops_6nd": float(per_token.six_n * run.tokens_seen),
        "flops_exact": flops,
        "flops_spent": flops * (run.steps - run.first_step) / run.steps,
        "schedule": run.optim.schedule,
        "warmup": run.optim.warmup,
        "peak_lr": run.optim.peak_lr,
        "weight_decay": run.optim.weight_decay,
        "batch_tokens": run.batch * model.context,
    }


def result(run: RunConfig, outcome: Outcome, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of `result.json`."""
    curve_tokens, curve_loss = thin(outcome.metrics, CURVE_POINTS)
    facts = {
        **described(run),
        "group": outcome.ancestry.group,
        "parent_tokens": outcome.ancestry.parent_tokens,
        "layout_hash": outcome.layout_hash,
        "curve_tokens": curve_tokens,
        "curve_loss": curve_loss,
        "tuned": None,
        "train_loss": outcome.metrics[-1]["loss"] if outcome.metrics else None,
        "status": "diverged" if outcome.diverged else "done",
        "exclusion": f"diverged {outcome.diverged}" if outcome.diverged else None,
        "pack": outcome.pack,
        "examples_hash": outcome.examples_hash,
        "wall_s": outcome.wall_s,
        "device": device_name(),
        **provenance(),
    }
    tokens = (outcome.steps_done - run.first_step) * run.batch * run.model.context
    return {
        "run": facts,
        "evaluations": [{**e, **evaluation_curve(e["language"], outcome.evaluations)} for e in evaluations],
        "steps_done": outcome.steps_done,
        "tokens_per_s": tokens / max(outcome.wall_s, 1e-9),
    }


def evaluation_curve(language: str, evaluations: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The plain loss in one language at every evaluation of the run, by tokens seen."""
    own = [line for line in evaluations if line["language"] == language]
    return {"eval_curve_tokens": [e["tokens"] for e in own], "eval_curve_loss": [e["loss"] for e in own]}


def mixture_text(run: RunConfig) -> str:
    """Languages and shares of each stage, e.g. `en:0.9 enm:0.1 -> en:0.1 enm:0.9`."""
    languages = [c.language for c in run.mixture.components]
    stages = (
        " ".join(f"{n}:{s:g}" for n, s in zip(languages, stage.shares, strict=True)) for stage in run.mixture.stages
    )
    return " -> ".join(stages)


def thin(metrics: Sequence[dict[str, float]], points: int) -> tuple[list[int], list[float]]:
    """The training curve as at most `points` (tokens, mean loss since the point before)."""
    if not metrics:
        return [], []
    n = min(points, len(metrics))
    ends = len(metrics) * np.arange(1, n + 1) // n
    starts = np.concatenate([[0], ends[:-1]])
    sums = np.add.reduceat(np.array([line["loss"] for line in metrics]), starts)
    return [int(metrics[end - 1]["tokens"]) for end in ends.tolist()], (sums / (ends - starts)).tolist()


def device_name() -> str:
    """What the process trains on, e.g. `2 x cpu (AMD EPYC 7B13, 2 cores)`."""
    import jax

    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"cpu ({_cpu_model()}, {os.cpu_count()} cores)"
    return f"{len(devices)} x {kind}"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
