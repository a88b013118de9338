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

from lab import step
from lab.checkpoint import Checkpoints
from lab.config import Kept, RunConfig, canonical
from lab.data.vocabulary import LanguageLayout, build_layout
from lab.errors import LabError
from lab.extension import extended
from lab.parents import check_child
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


def keep(checkpoints: Checkpoints, number: int, state: step.TrainState, carry: Kept, examples_hash: str) -> None:
    """Keeps a run's state after `number` updates (what is already kept is the same, and stays)."""
    if number in checkpoints.numbers():
        if carry == "weights" or checkpoints.record(number)["carry"] == "state":
            return
        checkpoints.delete(number)
    checkpoints.save(number, _like(carry, state), {"carry": carry, "examples_hash": examples_hash})


def start(program: step.Program, run: RunConfig, root: Path, layout: LanguageLayout) -> Start | str:
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
    check_child(run, config)
    like = fresh
    if config.model != run.model:
        like = step.init_state(dataclasses.replace(program, cfg=config.model), [run.seed_init])
    known = build_layout(config.mixture.layout, {t.hash: t for t in layout.tokenizers.values()})
    with kept(files, config.model, known.hash) as checkpoints:
        record = checkpoints.record(parent.step) if parent.step in checkpoints.numbers() else {}
        if record.get("carry") not in ("state", parent.needs):
            raise LabError(
                f"Run {run.run_id} starts from step {parent.step} of run {parent.run_id}, which has not kept its "
                f"{parent.needs} there.",
                "Train both in one study: it trains the parent as far as its children need.",
            )
        if parent.carry == "weights":
            tree = checkpoints.tree(parent.step, _like(record["carry"], like))
            params = tree["params"]
            if parent.extension is not None:
                params = extended(params, fresh.params, layout, parent.extension)
                params = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, fresh.params))
            return Start(fresh._replace(params=params))
        state = step.TrainState(**checkpoints.tree(parent.step, _like("state", like)))
        if parent.carry == "state":
            return Start(state, record["examples_hash"])
        return Start(fresh._replace(params=state.params, opt=state.opt))


def _like(carry: Kept, state: step.TrainState) -> dict[str, Any]:
    """The tree that a kept checkpoint holds, given a state of its shape."""
    return state._asdict() if carry == "state" else {"params": state.params}


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
    like = step.TrainState(*jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tuple(shapes)))
    with kept(files, run.model, layout_hash) as checkpoints:
        tree = checkpoints.tree(number, _like(checkpoints.record(number)["carry"], like))
    return jax.tree.map(lambda x: np.asarray(x[0]), tree["params"])


def origin(run: RunConfig, root: Path) -> RunConfig:
    """The run that began a run's trajectory: of a branch its trunk, of any other itself.

    Raises:
      LabError: when a trunk is not below `root`.
    """
    while run.parent is not None and run.parent.carry == "state":
        run = _parent_config(run, root)
    return run


def begun_params(run: RunConfig, root: Path, layout: LanguageLayout) -> Any:
    """The parameters that a run's trajectory began with, before its first update, as numpy arrays without a run axis:
    its parent's, extended where its vocabulary is larger, or random ones.

    Raises:
      LabError: when the parent is missing, diverged, or kept nothing there.
    """
    first = origin(run, root)
    begun = start(step.Program(first.model, make_mesh()), first, root, layout)
    if isinstance(begun, str):
        raise LabError(f"Run {run.run_id} never began: {begun}.")
    return jax.tree.map(lambda x: np.asarray(x[0]), begun.state.params)


def has_kept(root: Path, run_id: str, number: int, carry: Kept) -> bool:
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
