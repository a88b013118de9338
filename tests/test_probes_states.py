"""Hidden states and gradients of models whose clones are exact copies, and how sequences of two languages are made."""

from __future__ import annotations

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import documents

from lab import model
from lab.config import LayoutConfig, ModelConfig
from lab.data.vocabulary import build_layout, train_tokenizer
from lab.errors import LabError
from lab.evaluate import gradients, hidden
from lab.evaluate.paired import Paired, file_lines, parallel_text

V, CONTEXT = 20, 12
GPT2 = ModelConfig("gpt2", 16, 2, 2, 8, 24, 2 * V, CONTEXT)
DEEP = ModelConfig("llama", 16, 9, 2, 8, 24, 2 * V, CONTEXT)  # its layers are scanned, not unrolled
FAMILIES = pytest.mark.parametrize("cfg", [GPT2, DEEP], ids=["gpt2", "deep llama"])
residual = jax.jit(model.residual, static_argnums=0)
apply = jax.jit(model.apply, static_argnums=0)
NO_GRADIENT = "attn.k.bias"  # softmax does not see it: what is left is rounding


def twins(cfg: ModelConfig, seed: int = 0):
    """Parameters in which id i + V is an exact copy of id i; padding is an id of its own."""
    params = model.init(cfg, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32), params)
    table, kernel = params["embed"]["tokens"][:V], params["head"]["kernel"][:, :V]
    params["embed"]["tokens"] = jnp.vstack([table, table])
    params["head"]["kernel"] = jnp.hstack([kernel, kernel])
    return params


def clone_pairs(n: int = 6, shift: int = V) -> Paired:
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, V, CONTEXT - i % 3).astype(np.int32) for i in range(n)]
    return Paired(tuple((t, t + shift) for t in texts), True, "made up")


@FAMILIES
def test_every_layer_of_the_residual_stream_leads_to_the_next(cfg):
    params = twins(cfg)
    tokens = np.stack([pair[0][:8] for pair in clone_pairs(3).pairs])
    h = residual(cfg, params, tokens)
    assert h.shape == (cfg.n_layers, 3, 8, cfg.d_model)
    # What the shallower model of the first layers ends with is what the deeper one passes through.
    for layer in (1, cfg.n_layers - 1):
        shallow = {**params, "layers": jax.tree.map(lambda x, n=layer: x[:n], params["layers"])}
        small = ModelConfig(cfg.family, 16, layer, 2, 8, 24, 2 * V, CONTEXT)
        np.testing.assert_allclose(h[layer - 1], residual(small, shallow, tokens)[-1], rtol=2e-5, atol=2e-5)
    logits = model._Norm(cfg.family == "gpt2").apply({"params": params["final_norm"]}, h[-1]) @ params["head"]["kernel"]
    np.testing.assert_allclose(logits, apply(cfg, params, tokens), rtol=1e-4, atol=1e-4)


@FAMILIES
def test_an_exact_clone_has_hidden_cosines_of_1(cfg):
    np.testing.assert_allclose(hidden.layer_cosines(cfg, twins(cfg), clone_pairs()), 1, atol=1e-5)


def test_an_exact_clone_has_gradient_cosines_of_1():
    got = gradients.tensor_cosines(GPT2, twins(GPT2), clone_pairs())
    real = [name != NO_GRADIENT for name in got.tensors]
    np.testing.assert_allclose(got.pairs_KxL[real], 1, atol=1e-3)
    # Two halves of the text agree as much across the languages as within one, and less than one.
    np.testing.assert_allclose(got.pooled_KxL[real], got.halves_KxL[real], atol=1e-3)
    assert got.halves_KxL[real].max() < 0.999
    assert got.random_KxL[real].mean() < 0.9


def test_a_clone_that_is_another_language_has_not():
    params = model.init(GPT2, jax.random.key(0))
    paired = clone_pairs()
    assert hidden.layer_cosines(GPT2, params, paired)[0] < 0.5
    got = gradients.tensor_cosines(GPT2, params, paired)
    real = [name != NO_GRADIENT for name in got.tensors]
    assert np.nanmean(got.pairs_KxL[real]) < 0.5


def test_gpt2_has_the_sixteen_tensors_of_the_paper():
    got = gradients.tensor_cosines(GPT2, twins(GPT2), clone_pairs(2))
    assert len(got.tensors) == 16 and got.pairs_KxL.shape == (16, 2) and got.n == 2
    assert "attn.q.kernel" in got.tensors and "norm2.bias" in got.tensors


def test_gradient_cosines_are_those_of_the_training_loss():
    params, paired = twins(GPT2, seed=3), clone_pairs(2, shift=V - 7)  # a "clone" that is not one
    paired = Paired(tuple((a, np.minimum(b, 2 * V - 1)) for a, b in paired.pairs), True, "made up")

    def gradient(ids: np.ndarray) -> np.ndarray:
        grads = jax.grad(lambda p: model.mean_nats(GPT2, p, ids[None, :-1], ids[None, 1:]))(params)
        return np.asarray(grads["layers"]["mlp"]["in"]["kernel"][1]).ravel()

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    (a0, b0), (a1, b1) = [tuple(gradient(ids) for ids in pair) for pair in paired.pairs]
    got = gradients.tensor_cosines(GPT2, params, paired)
    k = got.tensors.index("mlp.in.kernel")
    assert got.pairs_KxL[k, 1] == pytest.approx((cosine(a0, b0) + cosine(a1, b1)) / 2, abs=1e-4)
    assert got.random_KxL[k, 1] == pytest.approx((cosine(a0, b1) + cosine(a1, b0)) / 2, abs=1e-4)
    assert got.halves_KxL[k, 1] == pytest.approx((cosine(a0, a1) + cosine(b0, b1)) / 2, abs=1e-4)


def test_matching_recovers_a_permutation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 6, 40))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    order = rng.permutation(6)
    np.testing.assert_allclose(hidden.matched_cosines(x, x[:, order]), 1)
    assert hidden.aligned_cosines(x, x[:, order]).max() < 0.9
    # Of sequences of two lengths, the shorter is matched whole.
    np.testing.assert_allclose(hidden.matched_cosines(x, x[:, order[:4]]), 1)


def test_one_matching_serves_all_layers():
    # Layer 1 pulls to the identity, layer 2 more strongly to the swap.
    e = np.eye(2)
    x = np.stack([e, e])
    y = np.stack([0.4 * e, 0.9 * e[::-1]])
    np.testing.assert_allclose(hidden.matched_cosines(x, y), [0.0, 0.9])


def test_states_are_compared_at_the_positions_that_both_have():
    params = model.init(GPT2, jax.random.key(1))
    first, second = np.arange(3, 8), np.arange(3, 10) + V
    got = hidden.layer_cosines(GPT2, params, Paired(((first, second),), True, "made up"))
    x, y = (np.asarray(residual(GPT2, params, ids[None]))[:, 0] for ids in (first, second))
    x, y = (h / np.linalg.norm(h, axis=-1, keepdims=True) for h in (x, y[:, :5]))
    np.testing.assert_allclose(got, (x * y).sum(-1).mean(-1), atol=1e-5)


@pytest.fixture(scope="module")
def layout():
    tokenizers = [train_tokenizer(documents(name), 300) for name in ("aa", "bb")]
    hashes = tuple(t.hash for t in tokenizers)
    return build_layout(LayoutConfig.disjoint(("aa", "bb"), hashes), {t.hash: t for t in tokenizers})


def test_parallel_lines_are_joined_up_to_the_context(layout):
    lines = [(f"pa gi {i}", f"do {i} la") for i in range(9)]
    context = 30
    paired = parallel_text(lines, layout, "aa", "bb", context, "lines")
    assert not paired.aligned
    for a, b in paired.pairs:
        assert context / 4 <= min(len(a), len(b)) and max(len(a), len(b)) <= context
    texts = [tuple(layout.decode(ids) for ids in pair) for pair in paired.pairs]
    # Both sides of a sequence hold the same lines, and no line is lost or comes twice.
    assert " ".join(t[0] for t in texts) == " ".join(a for a, _ in lines)
    assert " ".join(t[1] for t in texts) == " ".join(b for _, b in lines)
    assert all(a.count("pa gi") == b.count("do") for a, b in texts)
    # A line too long for the context goes, and its neighbours stay.
    long = [lines[0], ("pa " * 60, "do"), lines[1]]
    (a, _), *rest = parallel_text(long, layout, "aa", "bb", context, "lines").pairs
    assert layout.decode(a) == "pa gi 0 pa gi 1" and not rest


def test_a_clone_reads_the_first_line_in_its_own_ids(layout):
    tokenizer = layout.tokenizers["aa"]
    clones = build_layout(LayoutConfig.clones(("aa", "aa#1"), tokenizer.hash), {tokenizer.hash: tokenizer})
    paired = parallel_text([("pa gi do", "la")] * 4, clones, "aa", "aa#1", 30, "lines", clone=True)
    for a, b in paired.pairs:
        np.testing.assert_array_equal(a + 300, b)


def test_too_little_parallel_text_is_refused(layout):
    with pytest.raises(LabError, match="lines makes no sequence that fills a quarter"):
        parallel_text([("pa", "do")], layout, "aa", "bb", 100, "lines")
    with pytest.raises(LabError, match="only 1 sequence"):
        Paired(clone_pairs(1).pairs, True, "one").unrelated()


def test_unrelated_sequences_never_meet_their_own_pair():
    paired = clone_pairs(5)
    for (a, b), (c, d) in zip(paired.pairs, paired.unrelated().pairs, strict=True):
        assert a is c and d is not b


def test_files_of_parallel_lines(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    a.write_text("one\n\ntwo\n")
    b.write_bytes(gzip.compress(b"eins\nleer\nzwei\n"))
    assert file_lines(a, b) == [("one", "eins"), ("two", "zwei")]
    a.write_text("one\n")
    with pytest.raises(LabError, match=r"a\.txt has 1 lines and .*b\.txt\.gz has 3"):
        file_lines(a, b)
    with pytest.raises(LabError, match=r"nowhere\.txt cannot be read"):
        file_lines(tmp_path / "nowhere.txt", b)
