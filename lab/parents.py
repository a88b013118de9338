"""What must fit between a run and the run it starts from: a pure function of their configs."""

from __future__ import annotations

import dataclasses

import numpy as np

from lab.config import RunConfig
from lab.errors import LabError


def check_child(run: RunConfig, parent: RunConfig) -> None:
    """Checks that `run` can start from `parent`, whatever the state of their training.

    The models must have one shape, and the child's vocabulary layout must begin with the languages of its parent's, so
    that every id the parent knows still means the same; languages that follow may read those ids in another way, or
    bring ids of their own (`Parent.extension`). A branch is its trunk going on.

    Raises:
      LabError: when they do not fit, naming what differs.
    """
    assert run.parent is not None
    if run.parent.step > parent.steps:
        raise LabError(
            f"Run {run.run_id} starts from step {run.parent.step} of run {parent.run_id}, which has {parent.steps}.",
            "Start it from a step that its parent makes.",
        )
    old, new = parent.model, run.model
    if different := [
        f"{f.name} {getattr(new, f.name)} for {getattr(old, f.name)}"
        for f in dataclasses.fields(old)
        if f.name != "vocab" and getattr(old, f.name) != getattr(new, f.name)
    ]:
        raise LabError(
            f"Run {run.run_id} starts from run {parent.run_id}, which is of another shape: {', '.join(different)}.",
            "A run has the shape of its parent; only its vocabulary may be larger.",
        )
    known, wanted = parent.mixture.layout.languages, run.mixture.layout.languages
    if wanted[: len(known)] != known:
        names = (", ".join(entry.language for entry in layout) for layout in (wanted, known))
        raise LabError(
            f"Run {run.run_id} starts from run {parent.run_id}, which is of another vocabulary: the child's layout of "
            f"{next(names)} does not begin with that of {next(names)}.",
            "Let it begin with the parent's languages, each with its tokenizer; others follow.",
        )
    _check_size(run, parent)
    if run.parent.carry == "state":
        _check_branch(run, parent)


def _check_size(run: RunConfig, parent: RunConfig) -> None:
    assert run.parent is not None
    more, extension = run.model.vocab - parent.model.vocab, run.parent.extension
    if more and extension is None:
        raise LabError(
            f"Run {run.run_id} has a vocabulary of {run.model.vocab}, its parent {parent.run_id} one of "
            f"{parent.model.vocab}.",
            "Say how the rows of new pieces begin: Parent(..., extension='composition'), 'mean' or 'random'.",
        )
    if extension and not more:
        raise LabError(
            f"Run {run.run_id} is to extend the vocabulary of run {parent.run_id}, and has no piece more.",
            "Leave out `extension`, or add a language whose pieces are new.",
        )


def _check_branch(run: RunConfig, trunk: RunConfig) -> None:
    """Only a branch's length and the fall of its rate are its own."""
    from lab import optim

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
