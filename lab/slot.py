"""One run in its slot of a pack: what it reads, what it has done, and what it leaves on disk."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from lab import distributed, lineage, optim, step
from lab.config import RunConfig
from lab.data.stream import chain
from lab.evaluate.languages import evaluate
from lab.pack import Mark, PackPlan, Placement
from lab.records import RunDir, write_json
from lab.result import Outcome, result
from lab.rundata import open_run


class ActiveRun:
    """A run that trains. Its position and the hash of its examples are all that a checkpoint must know of it."""

    def __init__(self, plan: PackPlan, placement: Placement, run: RunConfig, root: Path):
        self.plan, self.placement, self.run, self.root = plan, placement, run, root
        self.files = RunDir(root, run.run_id)
        self.files.create(run)
        self.data = open_run(run, root)
        self.hyper = optim.hyper_of(run.optim, run.steps)
        self.steps_done = run.first_step
        self.examples_hash = ""
        self.train_loss = math.nan
        self.wall_s = 0.0
        self.diverged: str | None = None

    def start(self, program: step.Program) -> step.TrainState | None:
        """The state the run begins with; None where it cannot begin because its parent diverged.

        Raises:
          LabError: when the parent is missing or does not fit.
        """
        begun = lineage.start(program, self.run, self.root, self.data.layout)
        self.files.metrics.truncate(-1)
        self.files.evaluations.truncate(-1)
        if isinstance(begun, str):
            self.diverged = begun
            return None
        self.examples_hash = begun.examples_hash
        return begun.state

    def resume(self, record: dict[str, Any]) -> None:
        """Takes up what `record` said when the pack was saved; what was logged later is logged again."""
        self.steps_done, self.examples_hash = record["steps_done"], record["examples_hash"]
        self.train_loss, self.wall_s, self.diverged = record["train_loss"], record["wall_s"], record["diverged"]
        self.files.metrics.truncate(self.steps_done)
        self.files.evaluations.truncate(self.steps_done)

    def record(self) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "steps_done": self.steps_done,
            "examples_hash": self.examples_hash,
            "train_loss": self.train_loss,
            "wall_s": self.wall_s,
            "diverged": self.diverged,
        }

    def mark_of(self, dispatch: int) -> Mark:
        """The mark that the run must not pass in this dispatch."""
        return self.plan.steps(self.placement, dispatch)[1]

    def batches(self, dispatch: int) -> list[np.ndarray]:
        """The token ids [B, T + 1] of each step of this dispatch; at most as many as a dispatch has."""
        first, mark = self.plan.steps(self.placement, dispatch)
        batches = []
        for number in range(first, min(first + self.plan.steps_per_dispatch, mark.step)):
            batch = self.data.stream.batch(number)
            self.examples_hash = chain(self.examples_hash, batch)
            batches.append(batch.tokens_BxT1)
        return batches

    def log(self, metrics: step.Metrics, until: int) -> None:
        """Takes in the metrics [K] of a dispatch that was to bring the run to `until` at most."""
        if self.diverged:
            return
        asked = min(len(metrics.loss), until - self.steps_done)
        loss_K, norm_K = metrics.loss[:asked], metrics.grad_norm[:asked]
        updates = int(metrics.applied[:asked].sum())
        self.steps_done += updates
        if updates < asked:
            limit = step.EXPLODED * math.log(self.run.model.vocab)
            self.diverged = (
                f"at step {self.steps_done + 1}: loss {loss_K[updates]:g}, gradient norm {norm_K[updates]:g} "
                f"(allowed: a finite norm and a loss below {limit:.0f} nats)"
            )
        if updates:
            self.train_loss = float(loss_K[:updates].mean())
            self.files.metrics.append(
                {
                    "step": self.steps_done,
                    "tokens": self._tokens(self.steps_done),
                    "loss": self.train_loss,
                    "grad_norm": float(norm_K[updates - 1]),
                    "lr": float(metrics.lr[updates - 1]),
                    "wall_s": self.wall_s,
                }
            )

    def pause(self, program: step.Program, mark: Mark, single: step.TrainState) -> dict[str, Any] | None:
        """Does what `mark` asks for, with the run's state (R = 1); returns the result if the run is over.

        The kept checkpoints end up as those that children start from, the best evaluated one and the last.
        """
        started = time.monotonic()
        over = self.diverged is not None or mark.step == self.run.steps
        if over and (known := distributed.from_leader(self.files.result)) is not None:
            evaluations = known["evaluations"]  # it ended before a kill, and was trained again from a checkpoint
        else:
            known = None
            params = None if self.diverged else single.params
            evaluations = (
                evaluate(program, params, self.run, self.data, self.steps_done) if mark.evaluate or over else []
            )
        if self.diverged is None:
            best_before = distributed.from_leader(self.best)
            curve = ("language", "loss", "bits_per_byte", "ppl")
            position = {"step": self.steps_done, "tokens": self._tokens(self.steps_done)}
            self.files.evaluations.append(*({**position, **{k: e[k] for k in curve}} for e in evaluations))
            self._keep(mark, single, best_before)
        self.wall_s += time.monotonic() - started
        if not over:
            return None
        if known is None:
            outcome = Outcome(
                steps_done=self.steps_done,
                diverged=self.diverged,
                metrics=self.files.metrics.read(),
                evaluations=self.files.evaluations.read(),
                examples_hash=self.examples_hash,
                layout_hash=self.data.layout.hash,
                pack=f"{self.plan.pack_id}:{self.placement.slot}/{self.plan.slots}",
                wall_s=self.wall_s,
                ancestry=lineage.ancestry(self.run, self.root),
            )
            known = result(self.run, outcome, evaluations)
            write_json(self.files.result_file, known)
        return known

    def best(self) -> int | None:
        """The step of the lowest loss, averaged over languages, of all evaluations so far."""
        losses: dict[int, list[float]] = {}
        for line in self.files.evaluations.read():
            losses.setdefault(line["step"], []).append(line["loss"])
        return min(losses, key=lambda s: sum(losses[s]) / len(losses[s]), default=None)

    def _keep(self, mark: Mark, single: step.TrainState, best_before: int | None) -> None:
        best = distributed.from_leader(self.best)
        wanted = {m.step for m in self.placement.marks if m.keep} | {self.run.steps, best}
        with lineage.kept(self.files, self.run.model, self.data.layout.hash) as checkpoints:
            if mark.step in wanted:
                lineage.keep(checkpoints, mark.step, single, mark.keep or "weights", self.examples_hash)
            if best_before not in wanted and best_before in checkpoints.numbers():
                checkpoints.delete(best_before)

    def _tokens(self, steps: int) -> int:
        return steps * self.run.batch * self.run.model.context
