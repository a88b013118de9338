"""AdamW and its learning-rate schedules, with every hyper-parameter an array so that runs of one pack may differ.

    hyper    = hyper_of(optim, total_steps)        # numpy scalars of one run
    hypers_R = stack([hyper, ...])                 # one row a run, the form `step.train_steps` takes
    rate     = learning_rate(hyper, s)             # of update s = 1, 2, ..., total_steps; s and hyper may be traced

Gradients are clipped by global norm, then AdamW (arXiv:1711.05101). Weight decay is multiplied by the learning rate
and falls on matrices and embeddings only, not on biases and norms. In muP Adam's step of a hidden kernel is divided by
the width ratio and its decay is not: a weight shrinks by rate * decay an update at every width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.config import OptimConfig

SCHEDULES = ("cosine", "wsd", "constant")


class Hyper(NamedTuple):
    """`OptimConfig` in numbers, for a run of `total_steps`; each field a scalar, or [R] for a pack."""

    schedule: Any  # index into SCHEDULES
    total_steps: Any
    until: Any  # step at which the run pauses: a mark on its way, or its end
    warmup_steps: Any
    cooldown_steps: Any
    peak_lr: Any
    final_lr: Any  # share of peak_lr
    beta1: Any
    beta2: Any
    eps: Any
    weight_decay: Any
    clip: Any  # infinity: never clip


def hyper_of(optim: OptimConfig, total_steps: int) -> Hyper:
    """The hyper-parameters of a run of `total_steps` updates that pauses only at its end.

    Shares of the run are rounded to whole updates.
    """
    f, i = np.float32, np.int32
    return Hyper(
        schedule=i(SCHEDULES.index(optim.schedule)),
        total_steps=i(total_steps),
        until=i(total_steps),
        warmup_steps=i(round(optim.warmup * total_steps)),
        cooldown_steps=i(round(optim.cooldown * total_steps)),
        peak_lr=f(optim.peak_lr),
        final_lr=f(optim.final_lr),
        beta1=f(optim.beta1),
        beta2=f(optim.beta2),
        eps=f(optim.eps),
        weight_decay=f(optim.weight_decay),
        clip=f(np.inf if optim.clip is None else optim.clip),
    )


def stack(hypers: Sequence[Hyper]) -> Hyper:
    """Hyper-parameters of a pack: every field [R]."""
    return Hyper(*(np.stack(values) for values in zip(*hypers, strict=True)))


def learning_rate(hyper: Hyper, step: Any) -> jax.Array:
    """Learning rate of update `step`, counted from 1, as a float32 array.

    With s the step, S the total, W the warm-up, C the cooldown, f the final share, all times `peak_lr`:
      warm-up, in every schedule: min(s, W) / W.
      cosine (arXiv:2404.07982, its code): f + (1 - f) (1 + cos(pi min(s, S) / S)) / 2, over all S steps.
      wsd (arXiv:2405.18392, "1-sqrt"): 1 until S - C, then f + (1 - f) (1 - sqrt(n / C)) with n = s - 1 - (S - C)
        counted from 0, so that the last update still moves.
      constant: 1.
    """
    s = jnp.asarray(step, jnp.float32)
    S, W, C = (jnp.asarray(n, jnp.float32) for n in (hyper.total_steps, hyper.warmup_steps, hyper.cooldown_steps))
    warm = jnp.where(W > 0, jnp.minimum(s, W) / jnp.maximum(W, 1), 1.0)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(s, S) / jnp.maximum(S, 1)))
    wsd = 1 - jnp.sqrt(jnp.clip((s - 1 - (S - C)) / jnp.maximum(C, 1), 0, 1))
    fall = jnp.select([jnp.equal(hyper.schedule, i) for i in range(3)], [cosine, wsd, jnp.ones_like(s)])
    return jnp.asarray(hyper.peak_lr * warm * (hyper.final_lr + (1 - hyper.final_lr) * fall), jnp.float32)


def adamw(hyper: Hyper, rate: Any, width_ratio: float = 1.0) -> optax.GradientTransformation:
    """The optimiser of one update of one run at learning rate `rate`; arguments but `width_ratio` may be traced.

    Args:
      hyper: of the run; scalars.
      rate: learning rate of this update.
      width_ratio: `ModelConfig.width_ratio`; hidden kernels learn at `rate` divided by it (arXiv:2203.03466, Table 8).
    """
    steps = [optax.clip_by_global_norm(hyper.clip), optax.scale_by_adam(b1=hyper.beta1, b2=hyper.beta2, eps=hyper.eps)]
    if width_ratio != 1:
        shrink = optax.stateless(lambda updates, _: _scale_hidden(updates, 1 / width_ratio))
        steps.append(shrink)
    decay = optax.add_decayed_weights(hyper.weight_decay, mask=decayed)
    return optax.chain(*steps, decay, optax.scale_by_learning_rate(rate))


def _scale_hidden(updates: Any, factor: float) -> Any:
    """Scales the kernels whose inputs and outputs both grow with the width: those of the layers, not the head's."""

    def scale(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return leaf * factor if path[0].key == "layers" and path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(scale, updates)


def decayed(params: Any) -> Any:
    """Which leaves weight decay falls on, by name: a bias of stacked layers has two axes, too."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)
