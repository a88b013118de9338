"""How fast this machine trains a shape, measured in seconds and remembered; and how many runs to pack side by side.

    speed = measured(Shape(model, batch=8), 2, mesh, steps_per_dispatch=8, root=root)    # or what is remembered
    slots, speed = pack_size(shape, plan_of, mesh_of, least=1, most=len(runs), root=root)

A measurement is kept below `<root>/cache/speed`, by device, shape, pack and the versions that compile it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from lab import optim, step
from lab.config import OptimConfig, fingerprint
from lab.evaluate.languages import WINDOWS_PER_DEVICE
from lab.evaluate.perplexity import plain, sliding
from lab.memory import compiled, device_memory, is_out_of_memory
from lab.pack import PackPlan, Shape
from lab.records import read_json, write_json
from lab.sharding import put_batches

MEASURE_S = 1.0  # of dispatches after the first
DISPATCHES = 3  # at least
MEMORY_SHARE = 0.9  # the rest is for evaluation, batches on their way, and fragments
GAIN = 1.1  # a pack twice as large must be faster by this factor


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a pack of one shape does on a mesh.

    Attributes:
      slots: runs side by side.
      steps_per_dispatch: updates of each run in one call.
      dispatch_s: mean seconds of a dispatch.
      evaluated_per_s: tokens a second through the forward pass of evaluation (each token of a stream passes once for
        the plain loss and several times for the sliding perplexity), on the whole mesh.
      compile_s: seconds to compile training and evaluation, as it was when this was measured.
      peak_bytes: on each device.
    """

    slots: int
    steps_per_dispatch: int
    dispatch_s: float
    evaluated_per_s: float
    compile_s: float
    peak_bytes: int


def measured(
    shape: Shape, slots: int, mesh: Mesh, steps_per_dispatch: int, root: Path, again: bool = False
) -> Speed | None:
    """The speed of `slots` runs of a shape; None where they do not fit into the memory.

    Args:
      again: measure, whatever is remembered.
    """
    devices = mesh.devices.ravel()
    kind = f"{devices[0].platform} {devices[0].device_kind}"
    made_from = [kind, list(mesh.devices.shape), shape, slots, steps_per_dispatch, jax.__version__]
    file = root / "cache" / "speed" / f"{fingerprint(made_from)}.json"
    if file.exists() and not again:
        known = read_json(file)["speed"]
        return None if known is None else Speed(**known)
    program = step.Program(shape.model, mesh)
    limit = MEMORY_SHARE * min(device_memory(d) for d in devices)
    try:
        speed = _measure(program, shape, slots, steps_per_dispatch, limit)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        speed = None
    form = None if speed is None else dataclasses.asdict(speed)
    write_json(file, {"device": kind, "mesh": list(mesh.devices.shape), "speed": form})
    return speed


def _measure(program: step.Program, shape: Shape, slots: int, steps_per_dispatch: int, limit: float) -> Speed | None:
    model, mesh = shape.model, program.mesh
    executable, need = compiled(program, slots, shape.batch, steps_per_dispatch)
    if need.peak > limit:
        return None
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, model.vocab, (steps_per_dispatch, slots, shape.batch, model.context + 1), np.int32)
    batches = put_batches(mesh, tokens)
    hyper = optim.stack([optim.hyper_of(OptimConfig(peak_lr=1e-4), 2**30)] * slots)
    state = step.init_state(program, list(range(slots)))

    def dispatch() -> None:
        nonlocal state
        state, metrics = executable(state, batches, hyper)
        jax.block_until_ready(metrics)

    dispatch_s, _ = _mean_seconds(dispatch)
    params = jax.tree.map(lambda leaf: leaf[: mesh.shape["run"]], state.params)
    passed = evaluation_s = 0.0  # for each token of a stream
    started, measured_s = time.monotonic(), 0.0
    # Sliding takes the windows that it shares with plain from there.
    for protocol, shared in ((plain(model.context), 0), (sliding(model.context), 1)):
        size = (mesh.shape["run"], WINDOWS_PER_DEVICE, protocol.window)
        windows = rng.integers(3, model.vocab, size, np.int32)

        def evaluate(windows: np.ndarray = windows, scored: int = protocol.stride) -> None:
            jax.block_until_ready(step.eval_nats(program, params, windows, windows[..., -scored:]))

        seconds, spent = _mean_seconds(evaluate)
        passes = protocol.window / protocol.stride - shared
        passed += passes
        evaluation_s += passes * seconds / windows.size
        measured_s += spent
    compile_s = need.compile_s + time.monotonic() - started - measured_s
    evaluated_per_s = passed / evaluation_s
    return Speed(slots, steps_per_dispatch, dispatch_s, evaluated_per_s, compile_s, need.peak)


def _mean_seconds(call: Callable[[], None]) -> tuple[float, float]:
    """Mean seconds of a call, and the seconds of all of them; the first, which compiles, is not counted."""
    call()
    seconds: list[float] = []
    while len(seconds) < DISPATCHES or sum(seconds) < MEASURE_S:
        started = time.monotonic()
        call()
        seconds.append(time.monotonic() - started)
    return sum(seconds) / len(seconds), sum(seconds)


def pack_size(
    shape: Shape,
    plan_of: Callable[[int], PackPlan],
    mesh_of: Callable[[int], Mesh],
    least: int,
    most: int,
    root: Path,
    say: Callable[[str], None] = lambda _: None,
    again: bool = False,
) -> tuple[int, Speed | None]:
    """How many runs of one shape to train side by side, and how fast they then are.

    On a CPU one a device: mapping over runs gains nothing there. On accelerators by `doubled`, each size measured once.

    Args:
      plan_of: the plan of all runs of the shape on so many slots (`plan_pack`).
      mesh_of: the mesh for so many slots (`Execution.mesh`).
      least: device groups that train a run each.
      most: how many runs there are.
      say: told what is measured before each measurement.

    Returns:
      The slots, and None for the speed where not even the smallest pack fits into the memory.
    """
    speeds: dict[int, Speed | None] = {}

    def seconds(slots: int) -> float:
        plan = plan_of(slots)
        say(f"d {shape.model.d_model}, {shape.model.n_layers} layers, {slots} side by side")
        speeds[slots] = speed = measured(shape, slots, mesh_of(slots), plan.steps_per_dispatch, root, again)
        return math.inf if speed is None else speed.dispatch_s * plan.dispatches

    least = min(least, most)
    slots = doubled(least, least if jax.default_backend() == "cpu" else most, seconds)
    return slots, speeds[slots]


def doubled(least: int, most: int, seconds: Callable[[int], float]) -> int:
    """`least`, doubled as long as that makes the whole faster by `GAIN` or more, up to `most`.

    Args:
      seconds: for all runs with so many side by side; infinite where they do not fit.
    """
    slots, now = least, seconds(least)
    while slots * 2 <= most and math.isfinite(now):  # what does not fit does not fit twice
        after = seconds(slots * 2)
        if not after * GAIN <= now:
            break
        slots, now = slots * 2, after
    return slots
