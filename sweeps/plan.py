"""What a study will cost, before it is paid for: programs, packs, tokens, FLOPs, memory, time and money."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lab.config import RunConfig, Source
from lab.errors import LabError
from lab.evaluate.perplexity import plain, sliding, window_starts
from lab.flops import count, flops_per_token
from lab.pack import Mark, PackPlan, Shape, group_by_shape, marks_of, plan_pack, shape_of
from sweeps.study import Arm

if TYPE_CHECKING:
    import pandas as pd

    from lab.calibrate import Speed
    from lab.data.store import TokenStore

STATE_BYTES = 16  # a parameter with its two moments and its gradient, float32


@dataclasses.dataclass(frozen=True)
class Device:
    """A known accelerator.

    Attributes:
      flops: peak dense bfloat16 FLOPs a second, as its maker states them.
      memory: bytes.
      topology: the smallest TPU slice of it that its compiler describes; None for GPUs.
    """

    flops: float
    memory: float
    topology: str | None = None


DEVICES = {
    "a100-40": Device(312e12, 40e9),
    "a100-80": Device(312e12, 80e9),
    "h100": Device(989e12, 80e9),
    "h200": Device(989e12, 141e9),
    "b200": Device(2250e12, 180e9),
    "l4": Device(121e12, 24e9),
    "rtx4090": Device(165e12, 24e9),
    "v4": Device(275e12, 32 * 2**30, "v4:2x2x1"),
    "v5e": Device(197e12, 16 * 2**30, "v5e:2x2"),
    "v5p": Device(459e12, 95 * 2**30, "v5p:2x2x1"),
    "v6e": Device(918e12, 32 * 2**30, "v6e:2x2"),
}


@dataclasses.dataclass(frozen=True)
class Assumed:
    """Time from a device's peak: `utilisation` of it is an assumption, and too much for models of a few million
    parameters trained one by one."""

    device: Device
    count: int
    utilisation: float


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one shape and order: one pack. Packs of one shape and as many slots share their compiled program.

    Attributes:
      shape, runs: what trains.
      plan: on which slots.
      evaluated: tokens through the forward pass of evaluation, all runs.
      tokens, flops_6nd, flops_exact: of training, a branch from where it leaves its trunk.
      seconds: predicted for training, evaluation and, with the first pack of a program, compilation; None where the
        program does not fit.
      peak_bytes: on each device; None where it is not known.
    """

    shape: Shape
    runs: int
    plan: PackPlan
    tokens: int
    evaluated: int
    flops_6nd: float
    flops_exact: float
    seconds: float | None
    peak_bytes: int | None

    @property
    def state_bytes(self) -> int:
        """Parameters, moments and gradients of the runs side by side: the least memory."""
        return STATE_BYTES * count(self.shape.model).total * self.plan.slots


def spent_tokens(run: RunConfig) -> int:
    """Tokens that this run itself trains on: a branch's trunk is paid for once."""
    return (run.steps - run.first_step) * run.batch * run.model.context


def flops_spent(run: RunConfig) -> float:
    return float(flops_per_token(run.model).exact * spent_tokens(run))


def evaluated_tokens(run: RunConfig, sizes: Mapping[str, int]) -> int:
    """Tokens through the model in one evaluation of a run, given the evaluation tokens of each store."""
    whole = plain(run.model.context)
    return sum(
        len(window_starts(sizes[c.source.store] - 1, protocol, besides)) * whole.window
        for c in run.mixture.components
        for protocol, besides in ((whole, None), (sliding(whole.window), whole))
    )


SpeedOf = Callable[[Shape, Callable[[int], PackPlan], int], "tuple[int, Speed | None]"]


def programs(arms: Sequence[Arm], runs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Runs of a study that can train in one program, in the order in which they train: by their arms' order, then by
    shape, parents first."""
    order = {arm.run.run_id: arm.order for arm in arms}
    ordered = sorted(runs, key=lambda run: order[run.run_id])
    by_order = [list(members) for _, members in itertools.groupby(ordered, key=lambda run: order[run.run_id])]
    return [group for members in by_order for group in group_by_shape(members)]


def marks(arms: Sequence[Arm]) -> dict[str, tuple[Mark, ...]]:
    """Where the runs of a study pause: for their children, for probes, and as often as their arms are evaluated."""
    return marks_of(
        [arm.run for arm in arms],
        {arm.run.run_id: arm.evaluations for arm in arms},
        {arm.run.run_id: [arm.run.at(share) for share in arm.probed] for arm in arms},
    )


def groups(
    arms: Sequence[Arm],
    sizes: Mapping[str, int],
    steps_per_dispatch: int,
    timing: SpeedOf | Assumed,
    slots: int | None = None,
) -> list[Group]:
    """The study's packs in the order in which they train, each with its cost.

    Args:
      sizes: evaluation tokens of each store.
      timing: measures (shape, plan on so many slots, number of runs) -> (slots, speed); or an assumption.
      slots: runs side by side; by default chosen by `timing`, one a device where that is an assumption.
    """
    found: list[Group] = []
    pauses, evaluations = marks(arms), {arm.run.run_id: arm.evaluations for arm in arms}
    for members in programs(arms, [arm.run for arm in arms]):
        shape = shape_of(members[0])
        per_token = flops_per_token(shape.model)
        evaluated = sum(evaluations[run.run_id] * evaluated_tokens(run, sizes) for run in members)
        tokens = sum(map(spent_tokens, members))

        def plan_of(n: int, members: Sequence[RunConfig] = members) -> PackPlan:
            return plan_pack(members, n, steps_per_dispatch, pauses)

        seconds: float | None
        peak: int | None = None
        if isinstance(timing, Assumed):
            plan = plan_of(slots or timing.count)
            forward = evaluated * per_token.exact / 3
            rate = timing.device.flops * timing.utilisation * timing.count
            seconds = (tokens * per_token.exact / (1 - plan.idle_share) + forward) / rate
        else:
            chosen, speed = timing(shape, plan_of, len(members))
            plan = plan_of(chosen)
            seconds = None
            if speed is not None:
                peak = speed.peak_bytes
                seconds = plan.dispatches * speed.dispatch_s + evaluated / speed.evaluated_per_s
                if (shape, plan.slots) not in {(g.shape, g.plan.slots) for g in found}:
                    seconds += speed.compile_s
        found.append(
            Group(
                shape=shape,
                runs=len(members),
                plan=plan,
                tokens=tokens,
                evaluated=evaluated,
                flops_6nd=float(per_token.six_n * tokens),
                flops_exact=float(per_token.exact * tokens),
                seconds=seconds,
                peak_bytes=peak,
            )
        )
    return found


def idle_share(found: Sequence[Group]) -> float:
    """Share of slot time in which no run trains, over all programs, weighed by their time where that is known."""
    weights = [g.seconds if g.seconds is not None else float(g.plan.dispatches) for g in found]
    return sum(w * g.plan.idle_share for w, g in zip(weights, found, strict=True)) / sum(weights)


def planned_rows(arms: Sequence[Arm], stores: Mapping[str, TokenStore]) -> pd.DataFrame:
    """The result table's rows before any training: one a run and language, with the columns that are known by then.

    Token counts of a language are those its shares aim at; the realised ones differ by less than a sequence (`exact`).
    """
    import pandas as pd

    from lab.result import mixture_text

    rows: list[dict[str, Any]] = []
    for arm in arms:
        run = arm.run
        parameters, per_token = count(run.model), flops_per_token(run.model)
        shares = [
            sum(stage.fraction * stage.shares[k] for stage in run.mixture.stages)
            for k in range(len(run.mixture.components))
        ]
        read: Counter[tuple[Source, str | None]] = Counter()
        for component, share in zip(run.mixture.components, shares, strict=True):
            read[component.reading] += round(share * run.tokens_seen)
        for component, share in zip(run.mixture.components, shares, strict=True):
            manifest = stores[component.source.store].manifest
            unique = manifest.splits["train"].tokens
            own = round(share * run.tokens_seen)
            rows.append(
                {
                    "run_id": run.run_id,
                    "arm": arm.name,
                    "language": component.language,
                    "mixture": mixture_text(run),
                    "share": share,
                    "seed_init": run.seed_init,
                    "seed_data": run.seed_data,
                    "parent": run.parent.run_id if run.parent else None,
                    "family": run.model.family,
                    "d_model": run.model.d_model,
                    "n_layers": run.model.n_layers,
                    "context": run.model.context,
                    "n_total": parameters.total,
                    "n_nonembedding": parameters.nonembedding,
                    "n_embedding": parameters.embedding,
                    "n_head": parameters.head,
                    "v_total": run.model.vocab,
                    "v_language": manifest.vocab_size,
                    "tokens_seen": run.tokens_seen,
                    "tokens_language": own,
                    "unique_tokens": min(own, unique),
                    "epochs": read[component.reading] / unique,
                    "flops_6nd": float(per_token.six_n * run.tokens_seen),
                    "flops_exact": float(per_token.exact * run.tokens_seen),
                    "flops_spent": flops_spent(run),
                    "schedule": run.optim.schedule,
                    "peak_lr": run.optim.peak_lr,
                    "weight_decay": run.optim.weight_decay,
                    "batch_tokens": run.batch * run.model.context,
                }
            )
    return pd.DataFrame(rows)


def select(rows: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The rows for which a pandas query holds.

    Raises:
      LabError: when the query fails or keeps nothing.
    """
    if where is None:
        return rows
    try:
        kept = rows.query(where, engine="python")
    except Exception as error:
        raise LabError(
            f"The rows of a law, {where!r}, cannot be chosen before training: {error}.",
            f"Columns known by then: {', '.join(rows.columns)}.",
        ) from None
    if kept.empty:
        raise LabError(f"No planned row satisfies {where!r}.", f"Arms: {', '.join(dict.fromkeys(rows.arm))}.")
    return kept.reset_index(drop=True)
