"""Designs of a sweep: which sizes and budgets to train, and the runs that follow. Pure functions, made to be combined.

    sizes = [preset(f"nano-{k}", vocab=1024, context=128) for k in (1, 2, 3, 4)]
    cells = isoflop(sizes, budgets=(1e12, 1e13))
    runs  = [r for cell in cells for r in replicates(make_run(cell.model, cell.tokens), seeds=(0, 1))]

A *cell* is one size at one budget. Which to choose: an L is the cheapest, and good for screening arms; isoFLOP cells
far off the optimum, N times 1/10 to 10, tell more than many near it; D proportional to N in every run identifies no
law with an exponent for each. `lab sweep plan` says what a design identifies, and how precisely.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from lab.config import ModelConfig, OptimConfig, Parent, RunConfig
from lab.errors import LabError
from lab.flops import count, flops_per_token

Convention = Literal["total", "nonembedding", "layers", "tied"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One size trained on one number of tokens."""

    model: ModelConfig
    tokens: int


def size_of(model: ModelConfig, convention: Convention = "tied") -> int:
    """N in one of the conventions of `lab.flops`."""
    n: int = getattr(count(model), convention)
    return n


def grid(models: Sequence[ModelConfig], tokens: Sequence[int]) -> tuple[Cell, ...]:
    """Every size on every budget."""
    return tuple(Cell(m, d) for m in models for d in tokens)


def l_shape(models: Sequence[ModelConfig], tokens: Sequence[int], corner: Cell | None = None) -> tuple[Cell, ...]:
    """Every budget at one size, and every size at one budget, that meet in `corner`: a screening design.

    Args:
      corner: by default the smallest size on the fewest tokens, which is cheapest: the arms reach to the largest size
        on few tokens and to the most tokens at the smallest size.
    """
    corner = corner or Cell(min(models, key=size_of), min(tokens))
    cells = [Cell(corner.model, d) for d in tokens] + [Cell(m, corner.tokens) for m in models]
    return tuple(dict.fromkeys(cells))


def isoflop(
    models: Sequence[ModelConfig],
    budgets: Sequence[float],
    tokens_per_parameter: float = 20.0,
    spread: float = 10.0,
    convention: Convention = "tied",
) -> tuple[Cell, ...]:
    """At each budget C of training FLOPs, the sizes from 1/`spread` to `spread` times the guess of the best one.

    The guess is N* = sqrt(C / (6 r)) with r = `tokens_per_parameter` (arXiv:2203.15556: about 20). A size's tokens are
    C over its exact FLOPs a token, so that all runs of a budget cost the same.

    Raises:
      LabError: for a budget to which fewer than three sizes belong: it shows no minimum.
    """
    cells = []
    for budget in budgets:
        guess = math.sqrt(budget / (6 * tokens_per_parameter))
        near = [m for m in models if guess / spread <= size_of(m, convention) <= guess * spread]
        if len(near) < 3:
            raise LabError(
                f"Only {len(near)} sizes lie within a factor {spread:g} of {guess:.3g} parameters, the guess for "
                f"{budget:.3g} FLOPs.",
                "Give more sizes there, or other budgets.",
            )
        cells += [Cell(m, round(budget / flops_per_token(m).exact)) for m in near]
    return tuple(cells)


def ladder(
    models: Sequence[ModelConfig], factors: Sequence[float], convention: Convention = "tied"
) -> tuple[Cell, ...]:
    """Every size on `factor` tokens a parameter, for each factor. One factor alone identifies no law in N and D."""
    return tuple(Cell(m, round(f * size_of(m, convention))) for m in models for f in factors)


def steps_of(tokens: int, batch: int, context: int) -> int:
    """Whole updates of `batch` sequences in a budget of tokens.

    Raises:
      LabError: when the budget pays for none.
    """
    steps = tokens // (batch * context)
    if steps < 1:
        raise LabError(
            f"{tokens:,} tokens are less than one batch of {batch} sequences of {context}.", "Give more tokens."
        )
    return steps


def replicates(run: RunConfig, seeds: Sequence[int]) -> list[RunConfig]:
    """The run with each seed, of its parameters and of its data alike: their spread is what a new run would show.

    Raises:
      LabError: for a run with a parent, whose replicates need parents of their own.
    """
    if run.parent is not None:
        raise LabError("A run that starts from another cannot be replicated alone.", "Replicate its parent first.")
    return [dataclasses.replace(run, seed_init=s, seed_data=s) for s in seeds]


def trunk_and_branches(run: RunConfig, steps: Sequence[int]) -> list[RunConfig]:
    """One trunk at a constant rate, and for each number of steps a branch that cools down to its end.

    The trunk costs .8 of the longest run and each branch .2 of its own (arXiv:2405.18392, with its 1-sqrt cooldown):
    several budgets for little more than one. All of them are one trajectory, and one cluster for every interval.

    Args:
      run: the longest run: the trunk ends where its cooldown would begin, so that further branches can be added later.
        Its cooldown is that of every branch (a share of the branch); its warm-up is that of the trunk, in steps.
      steps: total updates of each branch, of at most `run.steps`.

    Returns:
      The trunk, then the branches in the order of `steps`. A branch is the run as if trained by itself on `steps` with
      schedule `wsd`, but that its state before the cooldown is the trunk's.

    Raises:
      LabError: for a mixture of several stages, which are shares of the run and so differ between branches; for a run
        that is a branch itself; for steps that repeat, are more than `run.steps`, leave no cooldown, or would branch
        off before the trunk's warm-up is over.
    """
    if len(run.mixture.stages) > 1:
        raise LabError(
            f"A mixture of {len(run.mixture.stages)} stages has no branches: a stage is a share of each run.",
            "Use one stage, or train each length by itself.",
        )
    if run.first_step:
        raise LabError("A branch cannot be the trunk of other branches.", "Give the run that it started from.")
    if len(set(steps)) != len(steps) or not steps or max(steps) > run.steps:
        raise LabError(f"Branches of {list(steps)} steps do not fit a run of {run.steps}.", "Name each once, up to it.")
    warmup = round(run.optim.warmup * run.steps)

    def branch_point(length: int) -> int:
        return length - round(run.optim.cooldown * length)

    def optim(schedule: Literal["wsd", "constant"], length: int) -> OptimConfig:
        return dataclasses.replace(run.optim, schedule=schedule, warmup=warmup / length)

    for length in steps:
        if not max(warmup, 1) <= branch_point(length) < length:
            raise LabError(
                f"A branch of {length} steps would leave its trunk at step {branch_point(length)}; the warm-up takes "
                f"{warmup} steps, and a branch needs one at least.",
                "Drop the shortest budgets, or shorten the warm-up.",
            )
    trunk_steps = branch_point(run.steps)
    trunk = dataclasses.replace(run, steps=trunk_steps, optim=optim("constant", trunk_steps))
    return [
        trunk,
        *(
            dataclasses.replace(
                run,
                steps=length,
                optim=optim("wsd", length),
                parent=Parent(trunk.run_id, branch_point(length), "state"),
            )
            for length in steps
        ),
    ]
