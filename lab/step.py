"""Training and evaluation of a pack of runs of one shape, several updates a dispatch.

Every leaf of the state leads with the run axis R; a solo run is a pack of one. What is compiled depends on a `Program`
and on the arrays' shapes only: learning rates, schedules, lengths and seeds are arrays, so a slot is refilled without
compiling.

    program = Program(cfg, make_mesh(run=2))
    state   = init_state(program, seeds_R)                # or blank_state, and then insert
    state, metrics = train_steps(program, state, put_batches(program.mesh, batches_KxRxBxT1), hyper_R)
    state   = insert(program, state, slot, single)        # single: a state with R = 1, fresh or restored
    single  = extract(state, slot)                        # on the host, for checkpoints
    nats    = eval_nats(program, state.params, tokens_RxBxT, targets_RxBxS)

`train_steps` and `insert` consume the state they are given (its buffers are reused).

A run pauses when its step reaches `hyper.until`. It dies (`alive` False, state kept as it was after its last good
update) when its gradient norm is not finite or its loss is not below `EXPLODED` times that of a uniform guess. The
other runs of the pack notice neither.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lab import model, sharding
from lab.config import ModelConfig
from lab.optim import Hyper, adamw, learning_rate

# A language that was never seen may cost some times a uniform guess (2.6 ln V in arXiv:2404.07982, Table 1, row 8).
EXPLODED = 10.0


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled: a shape on a mesh. Equal programs share their compiled functions.

    Attributes:
      remat: recompute layers in the backward pass.
      compute_dtype: name of the activations' type; None: bfloat16 on accelerators, float32 on CPU.
    """

    cfg: ModelConfig
    mesh: Mesh
    remat: bool = False
    compute_dtype: str | None = None


class TrainState(NamedTuple):
    """Parameters, AdamW moments, updates done and whether the run goes on; every leaf leads with the run axis."""

    params: Any
    opt: Any
    step: jax.Array  # int32 [R]
    alive: jax.Array  # bool [R]


class Metrics(NamedTuple):
    """Of each update [K, R], float32; rows of runs that had stopped repeat nothing useful: look at `applied`."""

    loss: jax.Array  # mean nats a target, of the parameters before the update
    grad_norm: jax.Array  # global, before clipping
    lr: jax.Array
    applied: jax.Array  # bool: the update happened


def init_state(program: Program, seeds: Sequence[int] | np.ndarray) -> TrainState:
    """Fresh runs, one for each `seed_init`; row r depends on seed r alone. Already placed on the mesh."""
    return _init_state(program, jnp.asarray(np.asarray(seeds, np.uint32)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def blank_state(program: Program, runs: int) -> TrainState:
    """Room for a pack of runs that are still to be inserted: all zeros. Random numbers take seconds to compile."""
    shapes = jax.eval_shape(functools.partial(_init_state, program), jax.ShapeDtypeStruct((runs,), jnp.uint32))
    return _placed(program, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))


@functools.partial(jax.jit, static_argnums=0)
def _init_state(program: Program, seeds_R: jax.Array) -> TrainState:
    def one(seed: jax.Array) -> TrainState:
        params = model.init(program.cfg, jax.random.key(seed))
        opt = adamw(_ANY_HYPER, 0.0, program.cfg.width_ratio).init(params)
        return TrainState(params, opt, jnp.int32(0), jnp.bool_(True))

    return _placed(program, jax.vmap(one)(seeds_R))


# The optimiser's state does not depend on its hyper-parameters.
_ANY_HYPER = Hyper(0, 1, 1, 0, 0, 0.0, 0.0, 0.9, 0.95, 1e-8, 0.0, 1.0)


def insert(program: Program, state: TrainState, slot: int, single: TrainState) -> TrainState:
    """The pack with slot `slot` replaced by the run in `single` (R = 1). Consumes `state`; nothing is recompiled."""
    everywhere = NamedSharding(program.mesh, PartitionSpec())
    return _insert(program, state, jnp.int32(slot), jax.device_put(single, everywhere))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _insert(program: Program, state: TrainState, slot: jax.Array, single: TrainState) -> TrainState:
    # A mask, not a dynamic slice: it partitions over the run axis without communication.
    def put(old_R: jax.Array, new_1: jax.Array) -> jax.Array:
        mine = jnp.arange(old_R.shape[0]) == slot
        return jnp.where(mine.reshape(-1, *[1] * (old_R.ndim - 1)), new_1, old_R)

    return _placed(program, jax.tree.map(put, state, single))


def extract(state: TrainState, slot: int) -> TrainState:
    """The run in slot `slot` as numpy arrays with R = 1. Copies from the devices that hold it."""

    def take(leaf: jax.Array) -> np.ndarray:
        for shard in leaf.addressable_shards:
            start, stop, _ = shard.index[0].indices(leaf.shape[0])
            if start <= slot < stop and shard.data.shape[1:] == leaf.shape[1:]:
                return np.asarray(shard.data[slot - start : slot - start + 1])
        return np.asarray(leaf[slot : slot + 1])

    return jax.tree.map(take, state)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_steps(
    program: Program, state: TrainState, batches_KxRxBxT1: jax.Array, hyper: Hyper
) -> tuple[TrainState, Metrics]:
    """K updates of every run of the pack in one dispatch. Consumes `state`.

    Args:
      program: what to compile (static).
      state: of `init_state` or an earlier call.
      batches_KxRxBxT1: token ids, one column more than the context: inputs are [..., :-1], targets [..., 1:].
      hyper: fields [R].
    """

    def one_run(state: TrainState, batches_KxBxT1: jax.Array, hyper: Hyper) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda s, batch: _update(program, s, batch, hyper), state, batches_KxBxT1)

    pack = sharding.over_runs(program.mesh, one_run, in_axes=(0, 1, 0), out_axes=(0, 1))
    state, metrics = pack(state, batches_KxRxBxT1, hyper)
    return _placed(program, state), metrics


def _update(program: Program, state: TrainState, batch_BxT1: jax.Array, hyper: Hyper) -> tuple[TrainState, Metrics]:
    tokens, targets = batch_BxT1[:, :-1], batch_BxT1[:, 1:]

    def loss_of(params: Any) -> jax.Array:
        return model.mean_nats(
            program.cfg, params, tokens, targets, remat=program.remat, compute_dtype=program.compute_dtype
        )

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    norm = optax.global_norm(grads)
    rate = learning_rate(hyper, state.step + 1)
    updates, opt = adamw(hyper, rate, program.cfg.width_ratio).update(grads, state.opt, state.params)
    good = jnp.isfinite(norm) & (loss < EXPLODED * math.log(program.cfg.vocab))
    running = state.alive & (state.step < hyper.until)
    applied = running & good
    params, opt = jax.tree.map(
        lambda new, old: jnp.where(applied, new, old),
        (optax.apply_updates(state.params, updates), opt),
        (state.params, state.opt),
    )
    return TrainState(params, opt, state.step + applied, state.alive & (good | ~running)), Metrics(
        loss, norm, rate, applied
    )


@functools.partial(jax.jit, static_argnums=0)
def eval_nats(program: Program, params_R: Any, tokens_RxBxT: jax.Array, targets_RxBxS: jax.Array) -> jax.Array:
    """Nats of the targets of the last S positions under each run's parameters, [R, B, S] float32; 0 for padding."""

    def one_run(params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        return model.token_nats(program.cfg, params, tokens, targets, compute_dtype=program.compute_dtype)

    return sharding.over_runs(program.mesh, one_run, in_axes=(0, 0, 0), out_axes=0)(
        params_R, tokens_RxBxT, targets_RxBxS
    )


def _placed(program: Program, state: TrainState) -> TrainState:
    return jax.lax.with_sharding_constraint(state, sharding.state_shardings(program.mesh, state))
