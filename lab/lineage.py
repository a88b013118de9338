"""Runs that start from other runs: what is kept of a parent, what a child takes over, and what must fit.

A run directory's `checkpoints/` holds, by step, the checkpoints that the run's marks asked for, its best evaluated
parameters and its last ones. Each is the parameters alone (`weights`) or the whole training state (`state`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lab import optim, step
from lab.checkpoint import Checkpoints
from lab.config import Carry, RunConfig, canonical
from lab.errors import LabError
from lab.records import RunDir, read_json
from lab.sharding import make_mesh


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins: its state, and the hash of the examples its trajectory has consumed so far."""

    state: step.TrainState
    examples_hash: str = ""


@dataclasses.dataclass(frozen=True)
class Ancestry:
    """What a run's rows say of the runs before it.

    Attributes:
      group: the run that begins the trajectory: a branch belongs to its trunk's.
      parent_tokens: tokens the parent had seen where this run began, those of its own ancestors left out.
    """

    group: str
    parent_tokens: int | None = None


def kept(files: RunDir, model: Any, layout_hash: str) -> Checkpoints:
    """The kept checkpoints of one run; those of another model or vocabulary are refused."""
    return Checkpoints(files.checkpoint_dir, {"model": canonical(model), "layout": layout_hash}, keep=None)


def keep(checkpoints: Checkpoints, number: int, state: step.TrainState, carry: Carry, examples_hash: str) -> None:
    """Keeps a run's state after `number` updates (what is already kept is the same, and stays)."""
    if number in checkpoints.numbers():
        if carry == "weights" or checkpoints.record(number)["carry"] == "state":
            return
        checkpoints.delete(number)
    tree = state._asdict() if carry == "state" else {"params": state.params}
    checkpoints.save(number, tree, {"carry": carry, "examples_hash": examples_hash})


def start(program: step.Program, run: RunConfig, root: Path, layout_hash: str) -> Start | str:
    """The state a run begins with, placed on the program's mesh; or why it cannot begin: its parent diverged.

    Raises:
      LabError: when the parent is missing, unfinished, of another shape or vocabulary, or no trunk for this branch.
    """
    fresh = step.init_state(program, [run.seed_init])
    parent = run.parent
    if parent is None:
        return Start(fresh)
    files = RunDir(root, parent.run_id)
    config = _parent_config(run, root)
    result = files.result()
    if result is not None and result["run"]["status"] == "diverged" and result["steps_done"] < parent.step:
        return f"with its parent {parent.run_id}: {result['run']['exclusion']}"
    if parent.carry == "state":
        _check_branch(run, config)
    with kept(files, run.model, layout_hash) as checkpoints:
        record = checkpoints.record(parent.step) if parent.step in checkpoints.numbers() else {}
        if record.get("carry") not in ("state", parent.carry):
            raise LabError(
                f"Run {run.run_id} starts from step {parent.step} of run {parent.run_id}, which has not kept its "
                f"{parent.carry} there.",
                "Train both in one study: it trains the parent as far as its children need.",
            )
        if parent.carry == "state":
            state = step.TrainState(**checkpoints.tree(parent.step, fresh._asdict()))
            return Start(state, record["examples_hash"])
        whole = record["carry"] == "state"
        tree = checkpoints.tree(parent.step, fresh._asdict() if whole else {"params": fresh.params})
        return Start(fresh._replace(params=tree["params"]))


def kept_params(run: RunConfig, root: Path, layout_hash: str, share: float = 1.0) -> Any:
    """The parameters a run had after a share of its updates, as numpy arrays without a run axis.

    Raises:
      LabError: when the run kept none there, or is of another model or vocabulary than its directory says.
    """
    files, number = RunDir(root, run.run_id), run.at(share)
    if not has_kept(root, run.run_id, number, "weights"):
        raise LabError(
            f"Run {run.run_id} has kept no parameters of step {number} of {run.steps} in {files.checkpoint_dir}.",
            "Name the share in `probed` of its arm, move its directory away and train it again."
            if share < 1
            else "Move its directory away and train it again.",
        )
    program = step.Program(run.model, make_mesh())
    shapes = jax.eval_shape(lambda: step.init_state(program, [0]))
    like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes._asdict())
    with kept(files, run.model, layout_hash) as checkpoints:
        whole = checkpoints.record(number)["carry"] == "state"
        tree = checkpoints.tree(number, like if whole else {"params": like["params"]})
    return jax.tree.map(lambda x: np.asarray(x[0]), tree["params"])


def has_kept(root: Path, run_id: str, number: int, carry: Carry) -> bool:
    """Whether a finished or running run has kept what a child needs, read from its files alone."""
    record = RunDir(root, run_id).checkpoint_dir / str(number) / "record" / "metadata"
    return record.exists() and (carry == "weights" or read_json(record)["carry"] == "state")


def ancestry(run: RunConfig, root: Path) -> Ancestry:
    """Whom a run descends from, read from the run directories below `root`."""
    if run.parent is None:
        return Ancestry(run.run_id)
    config = _parent_config(run, root)
    tokens = run.parent.step * config.batch * config.model.context
    return Ancestry(ancestry(config, root).group if run.parent.carry == "state" else run.run_id, tokens)


def _parent_config(run: RunConfig, root: Path) -> RunConfig:
    assert run.parent is not None
    files = RunDir(root, run.parent.run_id)
    if not files.config_file.exists():
        raise LabError(
            f"Run {run.run_id} starts from run {run.parent.run_id}, which is not below {root}.",
            "Train the parent first, or put both into one study.",
        )
    return files.read_config()


def _check_branch(run: RunConfig, trunk: RunConfig) -> None:
    """A branch is its trunk going on: only its length and the fall of its rate are its own."""
    assert run.parent is not None
    free = {f: getattr(trunk.optim, f) for f in ("schedule", "warmup", "cooldown", "final_lr")}
    as_trunk = dataclasses.replace(
        run, steps=trunk.steps, parent=trunk.parent, optim=dataclasses.replace(run.optim, **free)
    )
    if as_trunk != trunk:
        names = [f.name for f in dataclasses.fields(run) if getattr(as_trunk, f.name) != getattr(trunk, f.name)]
        raise LabError(
            f"Branch {run.run_id} differs from its trunk {trunk.run_id} in {', '.join(names)}.",
            "Only steps, schedule, warm-up, cooldown and final rate may differ.",
        )
    if len(run.mixture.stages) > 1:
        raise LabError(
            f"Branch {run.run_id} has stages, which are parts of the whole length: its trunk has read other shares.",
            "Branch runs with one stage, or train each length by itself.",
        )
    at = run.parent.step
    before, after = (float(optim.learning_rate(optim.hyper_of(r.optim, r.steps), at)) for r in (trunk, run))
    if not np.isclose(before, after, rtol=1e-6):
        raise LabError(
            f"Branch {run.run_id} begins at rate {after:.3g} where its trunk {trunk.run_id} was at {before:.3g}.",
            "Let the trunk's rate be constant, and branch after its warm-up and before the cooldown.",
        )
