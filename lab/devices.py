"""Settings of the process that only count before JAX is imported. Importing this module imports nothing heavy."""

from __future__ import annotations

import ctypes
import os
import sys

# Options of glibc's mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory; returns whether it could (Linux with glibc only).

    XLA on CPU takes and frees hundreds of MB of temporaries in every step; by default each of them is mapped anew and
    paid for in page faults, about a third of a step. The process then holds on to its peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others have no mallopt
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    return sum(mallopt(option, value) for option, value in settings) == len(settings)


def prepare_process(host_devices: int = 1, collectives: bool = False) -> None:
    """Prepares this process for training; call it before the first import of `jax`.

    Args:
      host_devices: how many devices the CPU shows to JAX; several let it train that many runs at once. Ignored on
        accelerators. An `XLA_FLAGS` that already sets the number is left alone.
      collectives: whether several of these CPU devices will train one run together. Then dispatch becomes synchronous:
        with asynchronous dispatch, a loaded machine can starve one participant of an all-reduce until XLA aborts.

    Raises:
      RuntimeError: if jax was imported before, since the settings would silently not count.
    """
    if "jax" in sys.modules:
        raise RuntimeError("prepare_process must be called before jax is imported.")
    keep_freed_memory()
    flag = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "")
    if host_devices > 1 and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}={host_devices}".strip()
    if collectives:
        import jax  # this one setting has no environment variable; it counts until the first device is used

        jax.config.update("jax_cpu_enable_async_dispatch", False)
