"""Memory known before anything runs; packs made smaller where it was too much; pack sizes from measurements."""

from __future__ import annotations

import importlib.util
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import calibrate, ops
from lab.calibrate import GAIN, Speed, doubled, measured, pack_size
from lab.errors import LabError
from lab.flops import count
from lab.memory import device_memory, footprint, host_memory, is_out_of_memory, topology
from lab.pack import PackPlan, Placement, Shape
from lab.presets import preset
from lab.sharding import make_mesh
from lab.step import Program

MODEL = preset("nano-1", vocab=64, context=16)
EXHAUSTED = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.")


def test_a_footprint_holds_the_state_of_every_run_and_makes_no_array():
    program = Program(MODEL, make_mesh())
    before = len(jax.live_arrays())
    one, two = (footprint(program, slots, batch=2, steps_per_dispatch=2) for slots in (1, 2))
    assert len(jax.live_arrays()) == before
    state = 3 * 4 * count(MODEL).total  # parameters and two moments, float32
    tokens = 2 * 2 * (MODEL.context + 1) * 4
    for need, slots in ((one, 1), (two, 2)):
        assert 0 <= need.arguments - slots * (state + tokens) < slots * 200  # and some scalars
        assert need.aliased >= slots * state  # the state is updated in place
        assert need.peak >= need.arguments + need.temporaries > need.arguments
    assert two.temporaries > 1.5 * one.temporaries


def test_a_device_has_no_more_memory_than_its_machine():
    assert 0 < device_memory(jax.devices()[0]) * len(jax.devices()) <= host_memory()


def test_programs_are_traced_for_the_platform_named():
    assert ops.on_cpu()
    with ops.compiling_for("tpu"):
        assert not ops.on_cpu()
        assert ops.compute_dtype() == np.dtype("bfloat16")
    assert ops.on_cpu()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="the TPU compiler is installed")
def test_without_the_tpu_compiler_a_slice_is_refused_with_the_reason():
    with pytest.raises(LabError, match="libtpu, is not installed"):
        topology("v5e:2x2")


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (EXHAUSTED, True),
        (jax.errors.JaxRuntimeError("INTERNAL: Failed to allocate: out of memory"), True),
        (MemoryError(), True),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes"), False),
        (ValueError("RESOURCE_EXHAUSTED"), False),
        (LabError("The disk is full."), False),
    ],
)
def test_only_missing_memory_is_missing_memory(error, yes):
    assert is_out_of_memory(error) is yes


@given(
    st.integers(1, 4),
    st.integers(1, 100),
    st.lists(st.one_of(st.floats(0.1, 100), st.just(float("inf"))), min_size=8, max_size=8),
)
def test_packs_double_as_long_as_that_is_faster_by_the_margin(least, most, times):
    asked = []

    def seconds(slots: int) -> float:
        asked.append(slots)
        return times[len(asked) - 1]

    most = max(least, most)
    chosen = doubled(least, most, seconds)
    assert asked == [least * 2**k for k in range(len(asked))]
    assert max(asked) <= most
    at = asked.index(chosen)
    for k in range(at):
        assert times[k + 1] * GAIN <= times[k]
    if at + 1 < len(asked):  # the next was tried, and was not enough
        assert len(asked) == at + 2
        assert not times[at + 1] * GAIN <= times[at]
    else:
        assert chosen * 2 > most or times[0] == float("inf")
    assert times[at] < float("inf") or chosen == least


SHAPE = Shape(MODEL, 2)


def plan_of(slots: int) -> PackPlan:
    """32 runs of one dispatch each."""
    placements = [Placement(str(k), k % slots, k // slots, k // slots + 1, 0, ()) for k in range(32)]
    return PackPlan(slots, 4, tuple(placements))


def test_a_speed_is_measured_once_and_remembered(tmp_path, monkeypatch):
    calls = []

    def measure(program, shape, slots, steps_per_dispatch, limit):
        calls.append(slots)
        if slots == 8:
            raise EXHAUSTED
        return None if slots == 4 else Speed(slots, steps_per_dispatch, 0.5, 100.0, 1.0, 10)

    monkeypatch.setattr(calibrate, "_measure", measure)
    mesh = make_mesh()
    for _ in range(2):
        assert measured(SHAPE, 2, mesh, 4, tmp_path) == Speed(2, 4, 0.5, 100.0, 1.0, 10)
        assert measured(SHAPE, 4, mesh, 4, tmp_path) is None
        assert measured(SHAPE, 8, mesh, 4, tmp_path) is None
    assert calls == [2, 4, 8]
    measured(SHAPE, 2, mesh, 4, tmp_path, again=True)
    assert calls == [2, 4, 8, 2]
    assert {json.loads(f.read_text())["mesh"][0] for f in (tmp_path / "cache" / "speed").glob("*.json")} == {1}


def test_on_an_accelerator_the_pack_grows_with_the_measured_gain_and_within_memory(tmp_path, monkeypatch):
    seconds = {1: 1.0, 2: 1.1, 4: 1.3, 8: 2.5, 16: 4.9, 32: 4.9}  # twice as many in the same time is a gain; 8 are not

    def measure(program, shape, slots, steps_per_dispatch, limit):
        return None if slots > room else Speed(slots, steps_per_dispatch, seconds[slots], 100.0, 1.0, 10)

    monkeypatch.setattr(calibrate, "_measure", measure)

    def size(root, platform="gpu", most=32):
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        return pack_size(SHAPE, plan_of, lambda _: make_mesh(), 1, most, root)

    room = 32
    assert size(tmp_path / "a")[0] == 4
    assert size(tmp_path / "b", most=3)[0] == 2
    assert size(tmp_path / "c", platform="cpu")[0] == 1
    room = 2
    assert size(tmp_path / "d")[0] == 2
    room = 0
    assert size(tmp_path / "e") == (1, None)


def test_a_real_measurement_takes_what_the_compiler_says(tmp_path):
    mesh = make_mesh()
    speed = measured(SHAPE, 1, mesh, 2, tmp_path)
    assert speed is not None
    assert speed.peak_bytes == footprint(Program(MODEL, mesh), 1, 2, 2).peak
    assert speed.dispatch_s > 0 and speed.evaluated_per_s > 0


def test_a_program_larger_than_the_device_is_known_not_to_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "device_memory", lambda _: 1000)
    assert measured(SHAPE, 1, make_mesh(), 2, tmp_path) is None
