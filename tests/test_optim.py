"""Schedules by their formulas, AdamW by its own, per-run hyper-parameters."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.config import OptimConfig
from lab.optim import adamw, decayed, hyper_of, learning_rate, stack


def rates(optim: OptimConfig, total: int) -> np.ndarray:
    return np.asarray(jax.vmap(lambda s: learning_rate(hyper_of(optim, total), s))(jnp.arange(1, total + 1)))


def test_cosine_is_the_papers() -> None:
    """arXiv:2404.07982's code: peak 6e-4, final 6e-6, 200 warm-up steps of 18,265."""
    S, W, peak, final = 18_265, 200, 6e-4, 6e-6
    got = rates(OptimConfig(peak, "cosine", warmup=W / S, final_lr=final / peak), S)
    want = [
        min(s, W) / W * (final + 0.5 * (1 + math.cos(math.pi * min(s, S) / S)) * (peak - final))
        for s in range(1, S + 1)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-10)
    assert got[-1] == pytest.approx(final, rel=1e-5)


def test_wsd_falls_as_one_minus_the_root() -> None:
    got = rates(OptimConfig(1e-3, "wsd", warmup=0.1, cooldown=0.2, final_lr=0.0), 100)
    np.testing.assert_allclose(got[:10], 1e-3 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(got[10:81], 1e-3, rtol=1e-6)  # the cooldown's update 0 is still at the peak
    np.testing.assert_allclose(got[80:], 1e-3 * (1 - np.sqrt(np.arange(20) / 20)), rtol=1e-5, atol=1e-10)
    floor = rates(OptimConfig(1e-3, "wsd", warmup=0.1, cooldown=0.2, final_lr=0.1), 100)
    np.testing.assert_allclose(floor[80:], 1e-4 + 0.9 * got[80:], rtol=1e-5)


def test_wsd_trunk_does_not_depend_on_the_branch() -> None:
    """Two branches of one trunk share its rates up to the earlier one's cooldown."""
    short = rates(OptimConfig(1e-3, "wsd", warmup=0.1, cooldown=0.2), 100)
    long = rates(OptimConfig(1e-3, "wsd", warmup=0.05, cooldown=0.2), 200)
    np.testing.assert_array_equal(short[:80], long[:80])


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_no_warmup_starts_at_the_peak_and_no_cooldown_stays_there(schedule: str) -> None:
    optim = dataclasses.replace(OptimConfig(2e-3), schedule=schedule, warmup=0.0, cooldown=0.0)
    got = rates(optim, 7)
    assert np.isfinite(got).all()
    assert got[0] == pytest.approx(2e-3, rel=0.06)
    if schedule != "cosine":
        np.testing.assert_allclose(got, 2e-3, rtol=1e-6)


def test_weight_decay_falls_on_matrices_only() -> None:
    tree = {"embed": {"tokens": 1, "positions": 1}, "layers": {"norm1": {"scale": 1, "bias": 1}, "q": {"kernel": 1}}}
    assert decayed(tree) == {
        "embed": {"tokens": True, "positions": True},
        "layers": {"norm1": {"scale": False, "bias": False}, "q": {"kernel": True}},
    }


def test_update_is_adamw_written_out() -> None:
    optim = OptimConfig(1e-2, "constant", warmup=0, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.3, clip=0.5)
    hyper = hyper_of(optim, 10)
    params = {"kernel": jnp.asarray([[1.0, -2.0]]), "bias": jnp.asarray([0.5])}
    grads = {"kernel": jnp.asarray([[3.0, 0.0]]), "bias": jnp.asarray([4.0])}  # norm 5
    step = adamw(hyper, 1e-2)
    state = step.init(params)
    moments = {"kernel": np.zeros((1, 2)), "bias": np.zeros(1)}
    squares = {k: v.copy() for k, v in moments.items()}
    want = {k: np.asarray(v, np.float64) for k, v in params.items()}
    for t in (1, 2, 3):
        updates, state = step.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for k in want:
            g = np.asarray(grads[k]) * 0.5 / 5
            moments[k] = 0.8 * moments[k] + 0.2 * g
            squares[k] = 0.9 * squares[k] + 0.1 * g**2
            move = moments[k] / (1 - 0.8**t) / (np.sqrt(squares[k] / (1 - 0.9**t)) + 1e-3)
            want[k] = want[k] - 1e-2 * (move + (0.3 * want[k] if k == "kernel" else 0))
    for k in want:
        np.testing.assert_allclose(params[k], want[k], rtol=1e-5)


def test_runs_of_a_pack_have_their_own_numbers() -> None:
    optims = [
        OptimConfig(1e-3, "cosine"),
        OptimConfig(2e-3, "wsd", weight_decay=0.1),
        OptimConfig(3e-3, "constant", clip=1),
    ]
    totals = [50, 80, 20]
    pack = stack([hyper_of(o, n) for o, n in zip(optims, totals, strict=True)])
    got = jax.jit(jax.vmap(learning_rate, (0, None)))(pack, 18)
    want = [learning_rate(hyper_of(o, n), 18) for o, n in zip(optims, totals, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert pack.clip.tolist() == [np.inf, np.inf, 1.0]
