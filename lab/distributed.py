"""Several processes that train one run together: on several hosts, or one for each GPU of a host.

Every process runs the same program on the same run and holds its part of each batch, and of the state if that is
sharded. One of them leads: it alone writes files, and what files decide is decided by it. A process that is alone
leads, and nothing here costs it anything; JAX is imported only by `join`.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lab.errors import LabError

if TYPE_CHECKING:
    import jax

T = TypeVar("T")

_process, _processes = 0, 1


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> int:
    """Joins the processes that train together; returns how many they are. Call it before JAX's devices are used.

    Without arguments, the tasks of one `srun` train together, and a process outside of one is alone.

    Args:
      coordinator: HOST:PORT of process 0, free there and reachable from all; `auto` lets JAX find the others (it knows
        TPU pods, Kubernetes and MPI).
      processes: how many there are.
      process: which this one is, from 0.

    Raises:
      LabError: when they do not find each other, or arguments are missing.
    """
    global _process, _processes
    if coordinator is None and expected() == 1:
        return 1
    if coordinator not in (None, "auto") and (processes is None or process is None):
        raise LabError("Processes that train together are numbered.", "Give --processes and --process, too.")
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from the trainer
    try:
        jax.distributed.initialize(None if coordinator == "auto" else coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise LabError(f"The processes that train together do not find each other: {_first_line(error)}") from None
    _process, _processes = jax.process_index(), jax.process_count()
    return _processes


def expected(processes: int | None = None) -> int:
    """How many processes will train together: as given, or the tasks of this `srun`, or 1."""
    if processes is None:
        return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_NODELIST" in os.environ else 1
    return processes


def alone() -> bool:
    return _processes == 1


def leads() -> bool:
    """Whether this process writes files."""
    return _process == 0


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in any process. All processes call it together."""
    if alone():
        return flags
    from jax.experimental import multihost_utils

    return tuple(bool(f) for f in multihost_utils.process_allgather(np.array(flags)).any(axis=0))


def from_leader(make: Callable[[], T]) -> T:
    """What `make` returns in the leader, in every process; a LabError there is raised in all of them."""
    if alone():
        return make()
    from jax.experimental import multihost_utils

    message = b""
    if leads():
        try:
            message = pickle.dumps((make(), None))
        except LabError as error:
            message = pickle.dumps((None, (error.problem, error.mend)))
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.frombuffer(message.ljust(length, b"\0"), np.uint8)
    value, failure = pickle.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
    if failure is not None:
        raise LabError(*failure)
    return value


def leader_first(make: Callable[[], T]) -> T:
    """What `make` returns in this process; the others call it when the leader has done so, and find its files."""
    made: list[T] = []
    from_leader(lambda: made.append(make()))
    return made[0] if made else make()


def whole(x: jax.Array) -> jax.Array:
    """`x` with all of it in every process, copied between devices where that is not so. All processes call it together.

    Returns at once, as JAX does.
    """
    if alone() or x.is_fully_replicated:
        return x
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    assert isinstance(x.sharding, NamedSharding)
    return jax.device_put(x, NamedSharding(x.sharding.mesh, PartitionSpec()))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
