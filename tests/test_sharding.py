"""Meshes and placement; one pack trained on several meshes of 8 CPU devices gives the losses of one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from lab import model
from lab.config import ModelConfig
from lab.errors import LabError
from lab.sharding import RULES, make_mesh, param_spec

SOLO = "1x1x1x1"


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    script = Path(__file__).with_name("eight_devices.py")
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiles in half the time
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mesh", ["1x8x1x1", "1x1x8x1", "1x2x2x2", "2x1x1x1", "2x1x2x2"])
def test_every_mesh_gives_the_losses_of_one_device(reports: dict[str, Any], mesh: str) -> None:
    got, want = reports[mesh], reports[SOLO]
    runs = len(got["nats"])
    np.testing.assert_allclose(got["loss"], np.asarray(want["loss"])[:, :runs], atol=1e-5)
    np.testing.assert_allclose(got["nats"], want["nats"][:runs], atol=1e-5)
    assert np.asarray(got["loss"]).shape == (20, runs)
    assert got["shardings_kept"]


@pytest.mark.parametrize("mesh", [SOLO, "2x1x1x1", "2x1x2x2"])
def test_a_refilled_slot_starts_anew(reports: dict[str, Any], mesh: str) -> None:
    got = reports[mesh]
    assert got["refilled_step"] == [20, 20, 20, 0]
    np.testing.assert_allclose(got["refilled_loss"], np.asarray(reports[SOLO]["loss"])[:10, 3], atol=1e-5)


def test_runs_do_not_talk_to_each_other(reports: dict[str, Any]) -> None:
    assert reports["2x1x1x1"]["collectives"] == []
    assert reports["1x8x1x1"]["collectives"] != []  # the search does find them


def test_fsdp_shards_parameters_and_moments(reports: dict[str, Any]) -> None:
    whole = reports["1x8x1x1"]["bytes"]
    assert reports["1x1x8x1"]["bytes"] < whole / 6
    assert reports["1x2x2x2"]["bytes"] < whole / 3
    assert reports[SOLO]["bytes"] == 4 * whole == 2 * reports["2x1x1x1"]["bytes"]


def test_axes_are_auto() -> None:
    mesh = make_mesh()
    assert mesh.axis_types == (AxisType.Auto,) * 4
    assert mesh.axis_names == ("run", "data", "fsdp", "model")


def test_too_large_a_mesh_is_named() -> None:
    with pytest.raises(LabError, match=r"'fsdp': 512.* needs 512 devices"):
        make_mesh(fsdp=512)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_matrix_is_sharded(family: Any) -> None:
    cfg = ModelConfig(family, d_model=8, n_layers=3, n_heads=2, head_dim=4, d_ff=16, vocab=16, context=8)
    mesh = jax.sharding.AbstractMesh((1, 1, 2, 2), ("run", "data", "fsdp", "model"))
    specs = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))):
        name = "/".join(k.key for k in path)
        specs[name] = param_spec(name, leaf.shape, mesh)
        if not name.endswith(("bias", "scale")):
            assert "fsdp" in specs[name], name
    assert specs["layers/attn/q/kernel"] == PartitionSpec(None, "fsdp", "model")
    assert specs["layers/mlp/out/kernel"] == PartitionSpec(None, "model", "fsdp")
    assert specs["layers/norm1/scale"] == PartitionSpec(None, None)
    assert RULES[-1][1] == PartitionSpec()


def test_an_axis_that_does_not_divide_is_left_out() -> None:
    mesh = jax.sharding.AbstractMesh((1, 1, 4, 2), ("run", "data", "fsdp", "model"))
    assert param_spec("head/kernel", (6, 10), mesh) == PartitionSpec(None, "model")
    assert param_spec("mu/head/kernel", (8, 11), mesh) == PartitionSpec("fsdp", None)
