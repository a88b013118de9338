"""Run by test_sharding in a process of its own: trains one pack on several meshes of 8 CPU devices, prints JSON."""

from __future__ import annotations

import json

from lab.devices import prepare_process

prepare_process(host_devices=8, collectives=True)

import jax  # noqa: E402
import numpy as np  # noqa: E402

from lab.config import ModelConfig, OptimConfig  # noqa: E402
from lab.optim import hyper_of, stack  # noqa: E402
from lab.sharding import make_mesh, put_batches  # noqa: E402
from lab.step import Program, eval_nats, init_state, insert, train_steps  # noqa: E402

CFG = ModelConfig("gpt2", d_model=32, n_layers=1, n_heads=4, head_dim=8, d_ff=64, vocab=64, context=16)
MESHES = [(1, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (1, 2, 2, 2), (2, 1, 1, 1), (2, 1, 2, 2)]
RUNS, UPDATES = 4, 20


def report(axes: tuple[int, ...]) -> dict[str, object]:
    runs = RUNS if axes[0] > 1 or axes == (1, 1, 1, 1) else 1
    program = Program(CFG, make_mesh(*axes))
    hyper = stack([hyper_of(OptimConfig(2e-3 * (r + 1), weight_decay=0.1, clip=1.0), UPDATES) for r in range(runs)])
    ids = np.random.default_rng(0).integers(1, CFG.vocab, (UPDATES // 2, RUNS, 8, CFG.context + 1), np.int32)[:, :runs]
    batches = put_batches(program.mesh, ids)
    state = init_state(program, range(runs))
    before = jax.tree.map(lambda x: x.sharding, state)
    held = max(
        sum(s.data.nbytes for leaf in jax.tree.leaves(state) for s in leaf.addressable_shards if s.device == device)
        for device in program.mesh.devices.flat
    )
    compiled = train_steps.lower(program, state, batches, hyper).compile()
    state, first = compiled(state, batches, hyper)
    state, second = compiled(state, batches, hyper)
    nats = eval_nats(program, state.params, ids[0, ..., :-1], ids[0, ..., 1:])
    state = insert(program, state, runs - 1, init_state(Program(CFG, make_mesh()), [runs - 1]))
    step = state.step.tolist()
    kept = jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, before))
    state, again = compiled(state, batches, hyper)
    text = compiled.as_text()
    names = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
    return {
        "loss": np.concatenate([first.loss, second.loss]).tolist(),
        "nats": np.asarray(nats).mean((1, 2)).tolist(),
        "refilled_step": step,
        "refilled_loss": np.asarray(again.loss)[:, -1].tolist(),
        "bytes": held,
        "shardings_kept": kept,
        "collectives": [name for name in names if name in text],
    }


if __name__ == "__main__":
    print(json.dumps({"x".join(map(str, axes)): report(axes) for axes in MESHES}))
