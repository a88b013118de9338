"""Packs of runs: one golden update, freezing, refilling, and independence of neighbours."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

from lab import model
from lab.config import ModelConfig, OptimConfig
from lab.optim import hyper_of, stack
from lab.sharding import make_mesh, put_batches
from lab.step import Program, TrainState, blank_state, eval_nats, extract, init_state, insert, train_steps

CFG = ModelConfig("gpt2", d_model=16, n_layers=1, n_heads=2, head_dim=8, d_ff=32, vocab=40, context=12)
PROGRAM = Program(CFG, make_mesh())
OPTIM = OptimConfig(3e-3, weight_decay=0.1, clip=1.0, warmup=0.1)


def batches(runs: int, updates: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, CFG.vocab, (updates, runs, 4, CFG.context + 1), np.int32)


def train(state: TrainState, ids: np.ndarray, optims: list[OptimConfig], total: int = 100) -> Any:
    """One update a dispatch, so that all tests share the compiled programs; metrics [K, R]."""
    hyper = stack([hyper_of(o, total) for o in optims])
    metrics = []
    for k in range(len(ids)):
        state, one = train_steps(PROGRAM, state, put_batches(PROGRAM.mesh, ids[k : k + 1]), hyper)
        metrics.append(jax.tree.map(np.asarray, one))
    return state, jax.tree.map(lambda *rows: np.concatenate(rows), *metrics)


def row(tree: Any, r: int) -> list[np.ndarray]:
    return [np.asarray(leaf)[r] for leaf in jax.tree.leaves(tree)]


def assert_same_bits(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


GOLDEN = {
    "gpt2": {
        "loss_0": 3.8503885,
        "loss_3": 3.5606661,
        "grad_norm_0": 0.86621153,
        "grad_norm_3": 0.80251193,
        "embed": 0.16546212,
        "layers": 0.14227471,
        "final_norm": 0.025766123,
        "head": 0.17917122,
    },
    "llama": {
        "loss_0": 3.8167956,
        "loss_3": 3.4400394,
        "grad_norm_0": 1.4452301,
        "grad_norm_3": 0.98091853,
        "embed": 0.14357559,
        "layers": 0.20776217,
        "final_norm": 0.016123381,
        "head": 0.17088655,
    },
}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_golden_updates(family: Any) -> None:
    """Losses, gradient norms and first moments over four updates of a fixed tiny run."""
    cfg = ModelConfig(family, d_model=16, n_layers=2, n_heads=2, head_dim=8, d_ff=32, vocab=40, context=12)
    program = Program(cfg, make_mesh(), compute_dtype="float32")
    state = init_state(program, [11])
    leaves, treedef = jax.tree.flatten(state.params)
    rng = np.random.default_rng(5)  # noise on top, so that biases and scales take part
    noisy = [leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32) for leaf in leaves]
    state = state._replace(params=jax.tree.unflatten(treedef, noisy))
    ids = np.tile(batches(1, updates=1, seed=7), (4, 1, 1, 1))
    state, metrics = train_steps(program, state, ids, stack([hyper_of(OPTIM, 10)]))
    got = {f"loss_{k}": float(metrics.loss[k, 0]) for k in (0, 3)}
    got |= {f"grad_norm_{k}": float(metrics.grad_norm[k, 0]) for k in (0, 3)}
    got |= {name: float(optax.global_norm(part)) for name, part in state.opt[1].mu.items()}
    assert got == pytest.approx(GOLDEN[family], rel=2e-5), (
        f"What the {family} decoder computes has changed: now {got}. If that is meant (another initialiser, norm, "
        "activation, schedule, random generator), results of earlier runs no longer compare with new ones: say so in "
        "the commit and put these numbers into GOLDEN. If not, it is a bug."
    )


def test_training_learns_a_batch() -> None:
    ids = np.tile(batches(1, updates=1), (60, 1, 1, 1))
    state, metrics = train(init_state(PROGRAM, [0]), ids, [OptimConfig(3e-2)])
    loss = metrics.loss[:, 0]
    assert loss[0] == pytest.approx(np.log(CFG.vocab), rel=0.05)
    assert loss[-1] < 0.5 * loss[0]
    assert state.step.tolist() == [60] and state.alive.tolist() == [True]


def test_several_updates_a_dispatch_are_single_ones_in_turn() -> None:
    ids = batches(3)
    hyper = stack([hyper_of(OPTIM, 3)] * 3)
    together, metrics = train_steps(PROGRAM, init_state(PROGRAM, [0, 1, 2]), put_batches(PROGRAM.mesh, ids), hyper)
    state, singly = train(init_state(PROGRAM, [0, 1, 2]), ids, [OPTIM] * 3, total=3)
    assert together.step.tolist() == state.step.tolist() == [3, 3, 3]
    np.testing.assert_array_equal(metrics.applied, singly.applied)
    np.testing.assert_allclose(metrics.loss, singly.loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_pack_agrees_with_solo_runs() -> None:
    ids, optims = batches(3), [OPTIM, OptimConfig(1e-2, "constant"), OptimConfig(1e-3, "wsd", beta2=0.99)]
    pack, metrics = train(init_state(PROGRAM, [4, 5, 6]), ids, optims)
    for r in range(3):
        solo, alone = train(init_state(PROGRAM, [4 + r]), ids[:, r : r + 1], optims[r : r + 1])
        np.testing.assert_allclose(metrics.loss[:, r], alone.loss[:, 0], rtol=1e-5)
        np.testing.assert_allclose(metrics.lr[:, r], alone.lr[:, 0])
        for a, b in zip(row(pack, r), row(solo, 0), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_a_fresh_run_depends_on_its_seed_alone() -> None:
    pack = init_state(PROGRAM, [3, 8, 3])
    assert_same_bits(row(pack, 0), row(pack, 2))
    assert_same_bits(row(pack, 1), row(init_state(PROGRAM, [8]), 0))
    tokens = np.asarray(pack.params["embed"]["tokens"])
    assert not np.array_equal(tokens[0], tokens[1])


def test_neighbours_of_a_diverged_run_do_not_notice() -> None:
    ids, wild = batches(3, updates=6), OptimConfig(1e30, "constant", warmup=0)
    calm, _ = train(init_state(PROGRAM, [0, 1, 2]), ids, [OPTIM] * 3)
    mixed, metrics = train(init_state(PROGRAM, [0, 1, 2]), ids, [OPTIM, wild, OPTIM])
    assert mixed.alive.tolist() == [True, False, True]
    for r in (0, 2):
        assert_same_bits(row(calm, r), row(mixed, r))
    applied = metrics.applied[:, 1]
    assert 0 < applied.sum() < 6 and not applied[applied.sum() :].any()
    assert mixed.step.tolist() == [6, int(applied.sum()), 6]
    assert not np.isfinite(metrics.loss[applied.sum(), 1])


def test_a_diverged_run_keeps_its_last_finite_state() -> None:
    ids, wild = batches(1, updates=6), OptimConfig(1e30, "constant", warmup=0)
    frozen, metrics = train(init_state(PROGRAM, [0]), ids, [wild])
    good = int(metrics.applied.sum())
    before, _ = train(init_state(PROGRAM, [0]), ids[:good], [wild])
    assert_same_bits(row(frozen._replace(alive=before.alive), 0), row(before, 0))
    assert all(np.isfinite(leaf).all() for leaf in row(frozen, 0))


def test_a_run_pauses_where_it_is_told_and_goes_on() -> None:
    ids = batches(3, updates=5)
    state, metrics = train(init_state(PROGRAM, [0, 1, 2]), ids, [OPTIM] * 3, total=3)
    short, _ = train(init_state(PROGRAM, [0, 1, 2]), ids[:3], [OPTIM] * 3, total=3)
    assert state.step.tolist() == [3, 3, 3] and state.alive.all()
    assert metrics.applied.tolist() == [[True] * 3] * 3 + [[False] * 3] * 2
    assert_same_bits(row(state, 0), row(short, 0))
    hyper = stack([hyper_of(OPTIM, 5)] * 3)
    paused = init_state(PROGRAM, [0, 1, 2])
    for until in (2, 5):
        paused, _ = train_steps(
            PROGRAM,
            paused,
            put_batches(PROGRAM.mesh, ids[until - 2 - (until == 5) :]),
            hyper._replace(until=np.full(3, until, np.int32)),
        )
    whole, _ = train(init_state(PROGRAM, [0, 1, 2]), ids, [OPTIM] * 3, total=5)
    assert paused.step.tolist() == [5, 5, 5]
    for a, b in zip(jax.tree.leaves(paused), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("slot", [0, 2])
def test_refilling_a_slot_leaves_the_rest_and_compiles_nothing(slot: int) -> None:
    ids = batches(3)
    fresh = extract(init_state(PROGRAM, [9]), 0)
    state, _ = train(init_state(PROGRAM, [0, 1, 2]), ids, [OPTIM] * 3, total=4)
    finished = [row(state, r) for r in range(3)]
    programs = train_steps._cache_size()
    state = insert(PROGRAM, state, slot, fresh)
    for r in range(3):
        assert_same_bits(row(state, r), row(fresh, 0) if r == slot else finished[r])
    other = [OptimConfig(1e-2, "wsd", weight_decay=0.3)] * 3
    state, metrics = train(state, ids, other, total=4)
    assert train_steps._cache_size() == programs
    for r in range(3):
        assert metrics.applied[:, r].all() == (r == slot)
        if r != slot:
            assert_same_bits(row(state, r), finished[r])


def test_a_refilled_run_is_the_run_it_would_have_been() -> None:
    ids = batches(3)
    state, _ = train(init_state(PROGRAM, [0, 1, 2]), batches(3, seed=3), [OPTIM] * 3)
    state = insert(PROGRAM, state, 1, init_state(PROGRAM, [7]))
    state, _ = train(state, ids, [OPTIM] * 3)
    direct, _ = train(init_state(PROGRAM, [0, 7, 2]), ids, [OPTIM] * 3)
    assert_same_bits(row(state, 1), row(direct, 1))


def test_room_for_a_pack_holds_what_is_inserted() -> None:
    blank, fresh = blank_state(PROGRAM, 3), init_state(PROGRAM, [4, 5, 6])
    assert jax.tree.structure(blank) == jax.tree.structure(fresh)
    for a, b in zip(jax.tree.leaves(blank), jax.tree.leaves(fresh), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding) and not np.asarray(a).any()
    filled = insert(PROGRAM, blank, 1, init_state(PROGRAM, [5]))
    assert_same_bits(row(filled, 1), row(fresh, 1))


def test_extract_and_insert_of_a_solo_run() -> None:
    state, _ = train(init_state(PROGRAM, [0]), batches(1), [OPTIM])
    single = extract(state, 0)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(single))
    back = insert(PROGRAM, init_state(PROGRAM, [5]), 0, single)
    assert_same_bits(row(back, 0), row(single, 0))
    # The caller's copy stays usable although train_steps reuses the state's memory.
    train(back, batches(1), [OPTIM])
    assert_same_bits(row(single, 0), row(extract(insert(PROGRAM, state, 0, single), 0), 0))


def test_evaluation_is_per_run_and_per_token() -> None:
    state, ids = init_state(PROGRAM, [0, 1]), batches(2, updates=1)[0]
    targets = ids[..., 1:].copy()
    targets[1, 0, 3:] = model.PAD
    nats = np.asarray(eval_nats(PROGRAM, state.params, ids[..., :-1], targets))
    for r in range(2):
        params = jax.tree.map(lambda x, r=r: x[r], state.params)
        want = model.token_nats(CFG, params, ids[r, :, :-1], targets[r])
        np.testing.assert_allclose(nats[r], want, rtol=1e-5, atol=1e-6)
    assert not nats[1, 0, 3:].any() and nats[0].all()


def test_metrics_are_of_the_parameters_before_the_update() -> None:
    state, ids = init_state(PROGRAM, [0]), batches(1, updates=1)
    nats = eval_nats(PROGRAM, state.params, ids[0, ..., :-1], ids[0, ..., 1:])
    _, metrics = train(state, ids, [OPTIM])
    assert float(metrics.loss[0, 0]) == pytest.approx(float(nats.mean()), rel=1e-5)
    assert float(metrics.lr[0, 0]) == pytest.approx(3e-3 / 10, rel=1e-2)
