"""What must be set before JAX is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from lab.devices import prepare_process


def run(code: str, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | env
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=clean)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_devices_and_dispatch_are_what_was_asked_for() -> None:
    code = (
        "import sys; from lab.devices import prepare_process; prepare_process(3, collectives={})\n"
        "early = 'jax' in sys.modules; import jax\n"
        "print(jax.device_count(), early, jax.config._read('jax_cpu_enable_async_dispatch'))"
    )
    assert run(code.format(False), JAX_PLATFORMS="cpu") == "3 False True"
    assert run(code.format(True), JAX_PLATFORMS="cpu") == "3 True False"


def test_flags_given_by_the_user_win() -> None:
    code = "import os; from lab.devices import prepare_process; prepare_process(3); print(os.environ['XLA_FLAGS'])"
    given = "--xla_force_host_platform_device_count=2"
    assert run(code, XLA_FLAGS=given) == given
    assert run(code, XLA_FLAGS="--xla_cpu_enable_fast_math=false").endswith("device_count=3")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept() -> None:
    """Resident memory after a large block is freed: gone by default, still there when kept."""
    code = (
        "import ctypes; from lab.devices import keep_freed_memory\n"
        "libc = ctypes.CDLL('libc.so.6'); libc.malloc.restype = ctypes.c_void_p\n"
        "kept = {call}\n"
        "n = 200 * 2**20; p = libc.malloc(ctypes.c_size_t(n)); ctypes.memset(p, 1, n); libc.free(ctypes.c_void_p(p))\n"
        "pages = int(open('/proc/self/statm').read().split()[1]); print(kept, pages * 4096 > n)"
    )
    assert run(code.format(call="keep_freed_memory()")) in ("True True", "False False")  # the second: not glibc
    assert run(code.format(call="False")) == "False False"


def test_too_late_is_said() -> None:
    assert jax.__name__ in sys.modules
    with pytest.raises(RuntimeError, match="before jax is imported"):
        prepare_process(2)
