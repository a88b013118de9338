"""What a pack takes of a device's memory, known before anything runs.

    program = Program(cfg, make_mesh())
    need    = footprint(program, slots=8, batch=32, steps_per_dispatch=8)     # compiles; makes no array
    need.peak <= 0.9 * device_memory(jax.devices()[0])

A TPU that is not here can be asked as well, where its compiler `libtpu` is installed:

    with compiling_for("tpu"):
        footprint(Program(cfg, make_mesh(devices=topology("v5e:2x2")[:1])), ...)
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lab import optim, step
from lab.config import OptimConfig
from lab.errors import LabError
from lab.sharding import batch_sharding, state_shardings


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes on each device, and work, of one dispatch of a training program, as the compiler counts them.

    Attributes:
      arguments: parameters, moments, batches and hyper-parameters.
      outputs: the new state and the metrics; `aliased` of them take the place of arguments.
      temporaries: activations, gradients and whatever else lives during the dispatch only.
      code: the program.
      compile_s: seconds that compiling took; little where the compilation cache had it.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    compile_s: float

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def footprint(program: step.Program, slots: int, batch: int, steps_per_dispatch: int) -> Footprint:
    """Compiles `step.train_steps` for a pack of `slots` runs from shapes alone; nothing is put on a device.

    The evaluation's program is not counted: it holds the parameters a second time and no gradients, and is smaller but
    for tiny batches.

    Raises:
      jax.errors.JaxRuntimeError: where the compiler itself finds that the program cannot fit (`is_out_of_memory`).
      LabError: where it does not say what the program takes.
    """
    return compiled(program, slots, batch, steps_per_dispatch)[1]


def compiled(program: step.Program, slots: int, batch: int, steps_per_dispatch: int) -> tuple[Any, Footprint]:
    """The compiled `step.train_steps` (called without its static `program`), and its footprint."""
    mesh = program.mesh

    def like(leaf: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)

    state = jax.eval_shape(lambda: step.init_state(program, [0] * slots))
    state = jax.tree.map(like, state, state_shardings(mesh, state))
    tokens = (steps_per_dispatch, slots, batch, program.cfg.context + 1)
    batches = jax.ShapeDtypeStruct(tokens, np.int32, sharding=batch_sharding(mesh, leading=1))
    hyper = jax.tree.map(like, optim.stack([optim.hyper_of(OptimConfig(peak_lr=1e-3), 1)] * slots))
    started = time.monotonic()
    executable = step.train_steps.lower(program, state, batches, hyper).compile()
    seconds = time.monotonic() - started
    memory = executable.memory_analysis()
    if memory is None:
        raise LabError("This device's compiler does not say how much memory a program takes.", "Choose --slots.")
    return executable, Footprint(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        compile_s=seconds,
    )


def device_memory(device: jax.Device) -> int:
    """Bytes that a device offers: what its allocator may take, or the machine's memory over its CPU devices."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return host_memory() // len(jax.devices())


def host_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's limit if that is less (Linux)."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # not there, or `max`
            continue
    return min(limits)


def topology(name: str) -> Sequence[jax.Device]:
    """Devices of a TPU slice that is not here, such as `v5e:2x2`, to compile for.

    Raises:
      LabError: where the TPU compiler is not installed, or does not know the slice.
    """
    from jax.experimental import topologies

    # libtpu would otherwise ask a metadata server, for minutes, which TPU this machine is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    try:
        described = topologies.get_topology_desc(name, platform="tpu")
    except Exception as error:  # whatever libtpu or its absence raises
        if "not installed" in str(error):
            raise LabError(
                f"The TPU slice {name} cannot be described: JAX's TPU compiler, the package libtpu, is not installed.",
                "Install jax[tpu]; no TPU is needed.",
            ) from None
        raise LabError(
            f"There is no TPU slice {name!r}: {str(error).splitlines()[0][:120]}.", "Write v5e:2x2."
        ) from None
    devices: Sequence[jax.Device] = described.devices
    return devices


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, its compiler or the host ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and (
        "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    )
