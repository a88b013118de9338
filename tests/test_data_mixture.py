"""The exact plan keeps within one sequence of its target; the order and the stream are pure functions of integers."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import Component, LayoutConfig, MixtureConfig, Source, Stage
from lab.data.mixture import ComponentPlan
from lab.data.order import ExampleOrder, permute, uniform
from lab.data.store import StoreHeader, TokenStore
from lab.data.stream import ExampleStream, chain
from lab.data.vocabulary import Tokenizer, build_layout, train_tokenizer
from lab.errors import LabError


def mixture_of(*stages: tuple[float, tuple[float, ...]], sampling: str = "exact") -> MixtureConfig:
    languages = tuple(f"l{i}" for i in range(len(stages[0][1])))
    components = tuple(Component(language, Source("a", "b")) for language in languages)
    layout = LayoutConfig.clones(languages, "t")
    return MixtureConfig(components, layout, tuple(Stage(*s) for s in stages), sampling)  # type: ignore[arg-type]


def largest_deviation(mixture: MixtureConfig, n: int) -> float:
    """max over steps and components of |realised - cumulative target|, the target computed here from the shares."""
    k = len(mixture.components)
    chosen = ComponentPlan(mixture, n, 0).components(0, n)
    realised = np.cumsum(np.eye(k)[chosen], axis=0)
    edges = np.round(np.cumsum([s.fraction for s in mixture.stages]) * n)
    stage = np.searchsorted(edges, np.arange(n), side="right")
    target = np.cumsum(np.array([s.shares for s in mixture.stages])[stage], axis=0)
    return float(np.abs(realised - target).max())


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[MixtureConfig, int]:
    k = draw(st.integers(1, 12))
    weight = st.one_of(st.just(0.0), st.just(1.0), st.floats(1, 10_000))
    stages = []
    for _ in range(draw(st.integers(1, 5))):
        weights = np.array(draw(st.lists(weight, min_size=k, max_size=k)))
        weights[draw(st.integers(0, k - 1))] += 1
        stages.append((draw(st.integers(1, 20)), tuple((weights / weights.sum()).tolist())))
    total = sum(length for length, _ in stages)
    n = draw(st.integers(1, 3000))
    return mixture_of(*((length / total, shares) for length, shares in stages)), n


@given(mixtures())
@settings(max_examples=150)
def test_every_component_stays_within_one_of_its_target_at_every_step(case: tuple[MixtureConfig, int]) -> None:
    mixture, n = case
    k = len(mixture.components)
    bound = 0 if k == 1 else 1 - 1 / (2 * k - 2)  # Tijdeman's bound, below 1
    assert largest_deviation(mixture, n) <= bound + 1e-4


def test_bound_with_twelve_components_down_to_a_ten_thousandth_across_stages() -> None:
    rare = (0.9989, *(1e-4,) * 11)
    assert largest_deviation(mixture_of((0.4, rare), (0.2, rare[::-1]), (0.4, (1 / 12,) * 12)), 100_000) < 1


@pytest.mark.slow
def test_the_longest_runs_stay_exact_to_their_end() -> None:
    """At the end of the longest run that is accepted, targets and integers still agree."""
    n = 20_000_000
    plan = ComponentPlan(mixture_of((0.99, (1 / 12,) * 12), (0.01, (0.89, *(0.01,) * 11))), n, 0)
    realised = np.bincount(plan.components(0, n), minlength=12)
    target = np.array([0.99 / 12 + 0.0089, *(0.99 / 12 + 1e-4,) * 11]) * n
    assert np.abs(realised - target).max() < 1


def test_exact_shares_are_met_exactly() -> None:
    chosen = ComponentPlan(mixture_of((1.0, (0.9, 0.1))), 1000, 0).components(0, 1000)
    assert Counter(chosen.tolist()) == {0: 900, 1: 100}
    blocks = chosen.reshape(100, 10)
    assert (blocks == blocks[0]).all()  # no drift: every ten sequences are alike


@pytest.mark.parametrize("sampling", ["exact", "bernoulli"])
def test_a_longer_run_begins_with_the_shorter(sampling: str) -> None:
    mixture = mixture_of((1.0, (0.55, 0.25, 0.15, 0.05)), sampling=sampling)
    short, long = (ComponentPlan(mixture, n, 3).components(0, 500) for n in (500, 50_000))
    np.testing.assert_array_equal(short, long)


@given(st.integers(0, 40_000), st.integers(0, 20_000))
@settings(max_examples=30)
def test_any_range_agrees_with_the_whole(start: int, length: int) -> None:
    mixture = mixture_of((0.5, (0.6, 0.3, 0.1)), (0.5, (0.1, 0.3, 0.6)))
    whole = ComponentPlan(mixture, 60_000, 0).components(0, 60_000)
    part = ComponentPlan(mixture, 60_000, 0).components(start, start + length)
    np.testing.assert_array_equal(part, whole[start : start + length])


def test_bernoulli_draws_each_sequence_alone_by_its_stage() -> None:
    mixture = mixture_of((0.5, (0.9, 0.1)), (0.5, (0.2, 0.8)), sampling="bernoulli")
    chosen = ComponentPlan(mixture, 200_000, 1).components(0, 200_000)
    assert abs(chosen[:100_000].mean() - 0.1) < 4 * (0.09 / 1e5) ** 0.5
    assert abs(chosen[100_000:].mean() - 0.8) < 4 * (0.16 / 1e5) ** 0.5
    # Independent draws leave the +-1 band that exact sampling keeps.
    assert np.abs(np.cumsum(chosen[:100_000]) - 0.1 * np.arange(1, 100_001)).max() > 10
    other = ComponentPlan(mixture, 200_000, 2).components(0, 200_000)
    assert (chosen != other).any()


def test_mixture_refusals() -> None:
    with pytest.raises(LabError, match=r"sum to 0\.9, not 1"):
        mixture_of((1.0, (0.5, 0.4)))
    with pytest.raises(LabError, match="fractions must sum to 1"):
        mixture_of((0.5, (1.0,)))
    with pytest.raises(LabError, match="too wide"):
        ComponentPlan(mixture_of((1.0, (1 / 13,) * 13)), 10, 0)
    with pytest.raises(LabError, match="too many for exact shares"):
        ComponentPlan(mixture_of((1.0, (1 / 12,) * 12)), 10**8, 0)
    with pytest.raises(LabError, match=r"layout lacks: \['xx'\]"):
        MixtureConfig((Component("xx", Source("a", "b")),), LayoutConfig.clones(("l0",), "t"), (Stage(1.0, (1.0,)),))
    ends = (Component("l0", Source("a", "b")), Component("l1", Source("a", "b"), start=5))
    with pytest.raises(LabError, match="begins with example 5 of a, another component of the same counter with 0"):
        MixtureConfig(ends, LayoutConfig.clones(("l0", "l1"), "t"), (Stage(1.0, (0.5, 0.5)),))
    with pytest.raises(LabError, match="cannot begin with example -1"):
        Component("l0", Source("a", "b"), start=-1)


@given(st.integers(1, 5000), st.text(max_size=5))
@settings(max_examples=50)
def test_permutation_is_one(size: int, key: str) -> None:
    assert sorted(permute(key, size, np.arange(size)).tolist()) == list(range(size))


def test_permutation_looks_random() -> None:
    moved = permute("k", 10_000, np.arange(10_000))
    assert abs(np.corrcoef(moved, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(moved[1:], moved[:-1])[0, 1]) < 0.05
    assert (moved != permute("l", 10_000, np.arange(10_000))).mean() > 0.99
    draws = uniform("k", np.arange(100_000))
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.005


def test_order_is_pinned() -> None:
    """A change here would silently give every existing run other data."""
    assert permute("pinned", 1000, np.arange(5)).tolist() == [203, 549, 46, 795, 602]
    np.testing.assert_allclose(
        uniform("pinned", np.arange(2)), [0.25390393595284055, 0.1774333619493057], rtol=0, atol=0
    )
    assert ComponentPlan(mixture_of((1.0, (0.5, 0.3, 0.2))), 10, 0).components(0, 10).tolist() == [
        0,
        1,
        0,
        2,
        0,
        1,
        0,
        2,
        0,
        1,
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(str(i) for i in range(300))], 280)


def store_of(tokenizer: Tokenizer, n_tokens: int, corpus: str = "mem:a") -> TokenStore:
    """Every token is distinguishable by its window: ids count upwards in base 270."""
    pieces = tuple(tokenizer.byte_lengths.tolist())
    header = StoreHeader(corpus, "en", "none", corpus, "", "all", tokenizer.hash, pieces)
    ids = np.random.default_rng(n_tokens).integers(3, 280, n_tokens)
    return TokenStore.in_memory(header, [("train", "d", ids)])


def stream_of(
    tokenizer: Tokenizer,
    stores: list[TokenStore],
    shares: tuple[float, ...],
    batch: int = 4,
    n_sequences: int = 1000,
    seed_data: int | None = 0,
    context: int = 8,
    counters: tuple[str | None, ...] = (),
    starts: tuple[int | None, ...] = (),
) -> ExampleStream:
    """A stream of clones, component c reading stores[c]."""
    languages = tuple(f"l{i}" for i in range(len(stores)))
    layout = LayoutConfig.clones(languages, tokenizer.hash)
    nothing = (None,) * len(stores)
    components = tuple(
        Component(name, s.source, counter, start)
        for name, s, counter, start in zip(languages, stores, counters or nothing, starts or nothing, strict=True)
    )
    mixture = MixtureConfig(components, layout, (Stage(1.0, shares),))
    by_corpus = {s.manifest.corpus: s for s in stores}
    built = build_layout(layout, {tokenizer.hash: tokenizer})
    return ExampleStream(mixture, by_corpus, built, context, batch, n_sequences, seed_data)


def sequences(stream: ExampleStream, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, components and windows of the first `n` sequences."""
    batches = [stream.batch(step) for step in range(-(-n // stream.batch_size))]
    tokens = np.concatenate([b.tokens_BxT1 for b in batches])[:n]
    component = np.concatenate([b.component_B for b in batches])[:n]
    return tokens, component, np.concatenate([b.example_ids_B for b in batches])[:n]


def test_same_sequences_in_longer_runs_and_larger_batches(tokenizer: Tokenizer) -> None:
    stores = [store_of(tokenizer, 900), store_of(tokenizer, 700, "mem:b"), store_of(tokenizer, 900)]
    shares = (0.5, 0.3, 0.2)
    expected = sequences(stream_of(tokenizer, stores, shares, batch=1), 400)
    for batch, n_sequences in ((3, 400), (16, 1000), (400, 100_000)):
        for a, b in zip(
            expected, sequences(stream_of(tokenizer, stores, shares, batch, n_sequences), 400), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_any_step_alone_equals_the_step_in_sequence(tokenizer: Tokenizer) -> None:
    stores = [store_of(tokenizer, 5000)] * 2
    first = stream_of(tokenizer, stores, (0.7, 0.3), batch=64, n_sequences=64 * 400)
    for step in range(300):
        expected = first.batch(step)
    resumed = stream_of(tokenizer, stores, (0.7, 0.3), batch=64, n_sequences=64 * 400).batch(299)
    np.testing.assert_array_equal(resumed.tokens_BxT1, expected.tokens_BxT1)
    np.testing.assert_array_equal(resumed.example_ids_B, expected.example_ids_B)


def test_no_example_twice_in_an_epoch_and_epochs_are_counted(tokenizer: Tokenizer) -> None:
    store = store_of(tokenizer, 8 * 101 + 3)
    stream = stream_of(tokenizer, [store], (1.0,), batch=1)
    tokens, _, windows = sequences(stream, 303)
    epochs = windows.reshape(3, 101)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(101))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    for row, window in zip(tokens, windows, strict=True):
        np.testing.assert_array_equal(row, store.ids("train")[window * 8 : window * 8 + 9])
    realised = stream.realised(202)
    assert realised.epochs == {"l0": 2.0}
    assert realised.tokens == {"l0": 202 * 8} and realised.unique_tokens == {"l0": 101 * 8}
    assert stream.realised(50).unique_tokens == {"l0": 50 * 8}


def test_half_and_half_clones_read_the_texts_of_the_monolingual_run(tokenizer: Tokenizer) -> None:
    store = store_of(tokenizer, 8 * 120 + 1)
    mono, _, _ = sequences(stream_of(tokenizer, [store], (1.0,)), 120)
    clones, component, _ = sequences(stream_of(tokenizer, [store, store], (0.5, 0.5)), 120)
    v = tokenizer.vocab_size
    base = np.where(clones >= v, clones - v, clones)
    # Stronger than the multiset: the same texts in the same order, and each clone in its own ids.
    np.testing.assert_array_equal(base, mono)
    assert Counter(map(tuple, base.tolist())) == Counter(map(tuple, mono.tolist()))
    assert Counter(component.tolist()) == {0: 60, 1: 60}
    assert ((clones >= v) == (component == 1)[:, None]).all()


def test_clones_with_counters_of_their_own_read_parallel_text(tokenizer: Tokenizer) -> None:
    store = store_of(tokenizer, 8 * 120 + 1)
    stream = stream_of(tokenizer, [store, store], (0.5, 0.5), counters=(None, "parallel"))
    tokens, component, windows = sequences(stream, 160)
    first, second = (windows[component == c] for c in (0, 1))
    np.testing.assert_array_equal(first, second)
    alone = sequences(stream_of(tokenizer, [store], (1.0,)), 80)[0]
    np.testing.assert_array_equal(tokens[component == 0], alone)
    np.testing.assert_array_equal(tokens[component == 1] - tokenizer.vocab_size, alone)
    realised = stream.realised(40)
    assert realised.epochs == {"l0": 80 / 120, "l1": 80 / 120}
    assert realised.unique_tokens == {"l0": 640, "l1": 640}


@given(start=st.integers(0, 300), length=st.integers(1, 300), share=st.sampled_from((0.25, 1.0)))
def test_a_component_begins_where_it_is_told(tokenizer: Tokenizer, start: int, length: int, share: float) -> None:
    """Replay that goes on from its parent's position reads what the parent would have read next."""
    source, other = store_of(tokenizer, 8 * 101 + 1), store_of(tokenizer, 8 * 400 + 1, "mem:b")
    parent = sequences(stream_of(tokenizer, [source], (1.0,)), start + length)
    child = stream_of(tokenizer, [source, other], (share, 1 - share), batch=1, starts=(start, None))
    _, component, windows = sequences(child, length)
    replayed = windows[component == 0]
    np.testing.assert_array_equal(replayed, parent[2][start : start + len(replayed)])
    assert child.realised(length).unique_tokens["l0"] == 8 * len(set(replayed.tolist()))


def test_realised_counts_by_language_over_sources_and_epochs(tokenizer: Tokenizer) -> None:
    a, b = store_of(tokenizer, 8 * 40 + 1), store_of(tokenizer, 8 * 1000 + 1, "mem:b")
    stream = stream_of(tokenizer, [a, a, b], (0.3, 0.3, 0.4), batch=10)
    _, component, windows = sequences(stream, 200)
    realised = stream.realised(20)
    for c, language in enumerate(stream.languages):
        assert realised.tokens[language] == 8 * int((component == c).sum())
        assert realised.unique_tokens[language] == 8 * len(set(windows[component == c].tolist()))
    assert realised.epochs == {"l0": 3.0, "l1": 3.0, "l2": 0.08}


def test_seed_and_source_change_the_order(tokenizer: Tokenizer) -> None:
    a, b = store_of(tokenizer, 4001), store_of(tokenizer, 4002)
    windows = [sequences(stream_of(tokenizer, [s], (1.0,), seed_data=d), 400)[2] for s, d in ((a, 0), (a, 1), (b, 0))]
    assert (windows[0] != windows[1]).any() and (windows[0] != windows[2]).any()


def test_unshuffled_reads_as_stored(tokenizer: Tokenizer) -> None:
    store = store_of(tokenizer, 900)
    tokens, _, windows = sequences(stream_of(tokenizer, [store], (1.0,), seed_data=None), 112)
    np.testing.assert_array_equal(windows, np.arange(112))
    np.testing.assert_array_equal(tokens[:, :-1].ravel(), store.ids("train")[: 112 * 8])


def test_chain_tells_any_other_order_apart(tokenizer: Tokenizer) -> None:
    stream = stream_of(tokenizer, [store_of(tokenizer, 900)] * 2, (0.5, 0.5))
    batches = [stream.batch(step) for step in range(5)]
    whole = ""
    for batch in batches:
        whole = chain(whole, batch)
    resumed = chain(chain("", batches[0]), batches[1])
    for batch in batches[2:]:
        resumed = chain(resumed, batch)
    assert resumed == whole
    swapped = ""
    for batch in [batches[1], batches[0], *batches[2:]]:
        swapped = chain(swapped, batch)
    other = dataclasses.replace(batches[4], component_B=1 - batches[4].component_B)
    altered = ""
    for batch in [*batches[:4], other]:
        altered = chain(altered, batch)
    assert len({whole, swapped, altered}) == 3


def test_stream_refusals(tokenizer: Tokenizer) -> None:
    store = store_of(tokenizer, 900)
    with pytest.raises(LabError, match=r"mem:a has 900 training tokens, fewer than one context of 1000"):
        stream_of(tokenizer, [store], (1.0,), context=1000)
    languages, other = ("l0",), train_tokenizer([" ".join(str(i) for i in range(300))], 281)
    layout = LayoutConfig.clones(languages, tokenizer.hash)
    built = build_layout(layout, {tokenizer.hash: tokenizer})
    mixture = MixtureConfig((Component("l0", store.source),), layout, (Stage(1.0, (1.0,)),))
    with pytest.raises(LabError, match="no token store of mem:a"):
        ExampleStream(mixture, {}, built, 8, 1, 10, 0)
    with pytest.raises(LabError, match="the run was made with"):
        ExampleStream(mixture, {"mem:a": store_of(tokenizer, 901)}, built, 8, 1, 10, 0)
    foreign = build_layout(LayoutConfig.clones(languages, other.hash), {other.hash: other})
    with pytest.raises(LabError, match="was written with tokenizer"):
        ExampleStream(mixture, {"mem:a": store}, foreign, 8, 1, 10, 0)
    unknown = build_layout(LayoutConfig.clones(("xx",), tokenizer.hash), {tokenizer.hash: tokenizer})
    with pytest.raises(LabError, match="Unknown language 'l0'"):
        ExampleStream(mixture, {"mem:a": store}, unknown, 8, 1, 10, 0)


def test_windows_cover_every_target_once() -> None:
    ids = np.arange(100, dtype=np.uint16)
    order = ExampleOrder(ids, 9, "s", 0)
    targets = order.tokens(order.windows(0, order.n_windows))[:, 1:].ravel()
    assert sorted(targets.tolist()) == list(range(1, 100))
