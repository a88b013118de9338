"""The one place that makes a mesh and decides what lies where on it.

Axes: `run` holds different runs (nothing crosses it), `data` different sequences of one run, `fsdp` different sequences
and a shard of each parameter, `model` a shard of heads, feed-forward and vocabulary. Parameters, moments and any other
tree with the parameters' names are placed by one table of regular expressions over the path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lab.errors import LabError

P = PartitionSpec
AXES = ("run", "data", "fsdp", "model")

# First match wins; kernels are [inputs, outputs]. Leaves under `layers` have one more, unsharded, axis in front.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embed/tokens$", P("model", "fsdp")),
    (r"embed/positions$", P(None, "fsdp")),
    (r"head/kernel$", P("fsdp", "model")),
    (r"(attn/[qkv]|mlp/(in|gate))/kernel$", P("fsdp", "model")),
    (r"(attn/o|mlp/out)/kernel$", P("model", "fsdp")),
    (r"(attn/[qkv]|mlp/(in|gate))/bias$", P("model")),
    (r"", P()),
)


def make_mesh(
    run: int = 1, data: int = 1, fsdp: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of the first run * data * fsdp * model devices, always with Auto axes (Flax linen needs them).

    Raises:
      LabError: if there are fewer devices than that.
    """
    available = list(jax.devices() if devices is None else devices)
    shape = (run, data, fsdp, model)
    need = math.prod(shape)
    if min(shape) < 1 or need > len(available):
        raise LabError(
            f"A mesh of {dict(zip(AXES, shape, strict=True))} needs {need} devices; {len(available)} are here.",
            "Make the axes smaller, or start with more devices.",
        )
    return Mesh(np.array(available[:need]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def param_spec(path: str, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Where one leaf of one run goes: the first rule that matches `path`, less the axes that do not divide `shape`.

    Args:
      path: names joined by `/`, as in `layers/attn/q/kernel`.
      shape: without the run axis.
    """
    rule = next(spec for pattern, spec in RULES if re.search(pattern, path))
    axes = [None] * (len(shape) - len(rule)) + list(rule)
    return P(*(a if a and n % mesh.shape[a] == 0 else None for a, n in zip(axes, shape, strict=True)))


def state_shardings(mesh: Mesh, tree_R: Any) -> Any:
    """A NamedSharding for every leaf of a tree whose leaves lead with the run axis."""

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
        return NamedSharding(mesh, P("run", *param_spec(name, leaf.shape[1:], mesh)))

    return jax.tree_util.tree_map_with_path(place, tree_R)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """For token arrays [..., R, B, T] with `leading` unsharded axes in front of the run axis."""
    return NamedSharding(mesh, P(*[None] * leading, "run", ("data", "fsdp")))


def put_batches(mesh: Mesh, batches_KxRxBxT1: np.ndarray) -> jax.Array:
    """Moves the host's batches to the devices that will use them; returns at once (the copy is asynchronous)."""
    return jax.device_put(batches_KxRxBxT1, batch_sharding(mesh, leading=1))


def over_runs(mesh: Mesh, one_run: Callable[..., Any], in_axes: Sequence[int], out_axes: Any) -> Callable[..., Any]:
    """Turns a function of one run into a function of a pack, where `in_axes` and `out_axes` say which axis is the run.

    Each device group of the mesh's `run` axis works on its own runs, without any communication. A group that holds one
    run drops the axis (a mapped axis of length 1 still costs); one that holds several maps over them.
    """

    def local(*args: Any) -> Any:
        size = jax.tree.leaves(args[0])[0].shape[in_axes[0]]
        if size > 1:
            return jax.vmap(one_run, tuple(in_axes), out_axes)(*args)
        solo = [jax.tree.map(lambda x, a=a: x.squeeze(a), arg) for arg, a in zip(args, in_axes, strict=True)]
        out = one_run(*solo)
        if isinstance(out_axes, int):
            return jax.tree.map(lambda x: jax.numpy.expand_dims(x, out_axes), out)
        return tuple(
            jax.tree.map(lambda x, a=a: jax.numpy.expand_dims(x, a), part)
            for part, a in zip(out, out_axes, strict=True)
        )

    if mesh.shape["run"] == 1:
        return local

    def spec(axis: int) -> PartitionSpec:
        return P(*[None] * axis, "run")

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=tuple(spec(a) for a in in_axes),
        out_specs=spec(out_axes) if isinstance(out_axes, int) else tuple(spec(a) for a in out_axes),
        axis_names={"run"},
        check_vma=False,
    )
