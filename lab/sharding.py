"""The one place that makes a mesh and decides what lies where on it.

Axes: `run` holds different runs (nothing crosses it), `data` different sequences of one run, `fsdp` different sequences
and a shard of each parameter, `model` a shard of heads, feed-forward and vocabulary. Parameters, moments and any other
tree with the parameters' names are placed by one table of regular expressions over the path.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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


def param_spec(path: str, shape: Sequence[int], mesh: Mesh | jax.sharding.AbstractMesh) -> PartitionSpec:
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
    sharding = batch_sharding(mesh, leading=1)
    return jax.make_array_from_process_local_data(sharding, batches_KxRxBxT1, batches_KxRxBxT1.shape)


def over_runs(mesh: Mesh, one_run: Callable[..., Any], in_axes: Sequence[int], out_axes: Any) -> Callable[..., Any]:
    """Turns a function of one run into a function of a pack.

    Each device of a mesh whose only long axis is `run` works on its own runs, without any communication; it drops the
    run axis if it holds one run (a mapped axis of length 1 still costs) and maps over it if it holds several. On other
    meshes the compiler splits each run over its devices.

    Args:
      mesh: of `make_mesh`.
      one_run: takes and returns trees without a run axis.
      in_axes: which axis of each argument is the run.
      out_axes: which axis the run becomes in the result: an int, or a tuple for a tuple of results.
    """
    run_only = mesh.size == mesh.shape["run"]

    def local(*args: Any) -> Any:
        size = jax.tree.leaves(args[0])[0].shape[in_axes[0]]
        with contextlib.nullcontext() if run_only else jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            if size > 1:
                return jax.vmap(one_run, tuple(in_axes), out_axes, spmd_axis_name=None if run_only else "run")(*args)
            out = one_run(*(_map_axis(jnp.squeeze, arg, axis) for arg, axis in zip(args, in_axes, strict=True)))
        if isinstance(out_axes, int):
            return _map_axis(jnp.expand_dims, out, out_axes)
        return tuple(_map_axis(jnp.expand_dims, part, axis) for part, axis in zip(out, out_axes, strict=True))

    if mesh.size == 1 or not run_only:
        return local

    def spec(axis: int) -> PartitionSpec:
        return P(*[None] * axis, "run")

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=tuple(spec(a) for a in in_axes),
        out_specs=spec(out_axes) if isinstance(out_axes, int) else tuple(spec(a) for a in out_axes),
        check_vma=False,
    )


def _map_axis(change: Callable[[jax.Array, int], jax.Array], tree: Any, axis: int) -> Any:
    return jax.tree.map(lambda leaf: change(leaf, axis), tree)


def spread_batch(x_BxTxD: jax.Array) -> jax.Array:
    """Keeps activations split by sequence in a function that `over_runs` runs on a mesh; elsewhere does nothing."""
    return _constrain(x_BxTxD, P(("data", "fsdp")))


def gathered(table_VxD: jax.Array) -> jax.Array:
    """Brings a sharded table together for lookups, which XLA cannot split well by rows or columns."""
    return _constrain(table_VxD, P())


def _constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == mesh.shape.get("run", 1):
        return x
    return jax.lax.with_sharding_constraint(x, spec)
