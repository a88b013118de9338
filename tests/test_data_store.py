"""A store is whole or absent, reads back what was written, and says what is wrong with a damaged one."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.data.evalset import DOCUMENTS, evaluation_set, parallel_verses
from lab.data.files import replace_folder
from lab.data.store import SPLITS, StoreHeader, TokenStore, write_store
from lab.errors import LabError

HEADER = StoreHeader("mem:a", "en", "none", "1", "group", "rule", "tok", (0, 0, 0, *[1] * 97))
Record = tuple[str, str, np.ndarray]


def records(n: int = 6, length: int = 10) -> list[Record]:
    rng = np.random.default_rng(0)
    splits = [SPLITS[d % 4] for d in range(n)]
    return [(s, f"doc {d}", np.append(rng.integers(3, 100, length + d), 2)) for d, s in enumerate(splits)]


@pytest.mark.parametrize("vocabulary", [100, 70_000])
def test_reads_back_what_was_written(tmp_path: Path, vocabulary: int) -> None:
    header = dataclasses.replace(HEADER, piece_bytes=(0, 0, 0, *[2] * (vocabulary - 3)))
    written = records()
    for store in (write_store(tmp_path / "s", header, iter(written)), TokenStore.in_memory(header, written)):
        for split in SPLITS:
            mine = [(key, ids) for s, key, ids in written if s == split]
            assert list(store.keys(split)) == [key for key, _ in mine]
            offsets = store.offsets(split)
            for d, (_, ids) in enumerate(mine):
                np.testing.assert_array_equal(store.ids(split)[offsets[d] : offsets[d + 1]], ids)
            counts = store.manifest.splits[split]
            assert (counts.documents, counts.tokens) == (len(mine), sum(len(ids) for _, ids in mine))
            assert counts.bytes == 2 * (counts.tokens - counts.documents)
        assert store.ids("train").dtype == (np.uint16 if vocabulary == 100 else np.uint32)
        store.verify()
    assert TokenStore.open(tmp_path / "s").manifest == TokenStore.in_memory(header, written).manifest


def test_fingerprint_follows_text_tokenizer_and_splits_only(tmp_path: Path) -> None:
    base = TokenStore.in_memory(HEADER, records()).fingerprint
    renamed = dataclasses.replace(HEADER, corpus="mem:b", release="2", licence="other")
    assert TokenStore.in_memory(renamed, records()).fingerprint == base
    others = [
        TokenStore.in_memory(dataclasses.replace(HEADER, tokenizer="x"), records()),
        TokenStore.in_memory(dataclasses.replace(HEADER, split_rule="x"), records()),
        TokenStore.in_memory(HEADER, records(7)),
        TokenStore.in_memory(HEADER, [("train", *r[1:]) for r in records()]),
    ]
    assert len({base, *(s.fingerprint for s in others)}) == 5


def test_empty_splits_are_readable(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", HEADER, records(1))
    assert len(store.ids("test")) == 0 and store.keys("probe") == []
    with pytest.raises(LabError, match="mem:a has no test documents"):
        evaluation_set(store)


def test_empty_corpus_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="mem:a is empty"):
        write_store(tmp_path / "s", HEADER, [])
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_leaves_the_old_store(tmp_path: Path) -> None:
    old = write_store(tmp_path / "s", HEADER, records()).fingerprint

    def broken() -> Iterator[Record]:
        yield from records(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", HEADER, broken())
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert TokenStore.open(tmp_path / "s").fingerprint == old


def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(LabError, match="No space is left"):
            write_store(tmp_path / "s", HEADER, records(8, length=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".s.new-{dead.pid}"
    left.mkdir()
    alive = tmp_path / f".s.new-{os.getppid()}"
    alive.mkdir()
    with replace_folder(tmp_path / "s") as new:
        (new / "file").write_text("x")
    assert not left.exists() and alive.exists() and (tmp_path / "s" / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["manifest.json", "train.ids", "test.offsets.npy", "piece_bytes.npy"])
def test_half_written_store_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write_store(tmp_path / "s", HEADER, records())
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LabError, match=r"(?s)damaged.*prepare"):
        TokenStore.open(tmp_path / "s")
    path.unlink()
    with pytest.raises(LabError, match=f"not a whole token store: {name} is missing"):
        TokenStore.open(tmp_path / "s")


def test_verify_finds_changed_ids(tmp_path: Path) -> None:
    write_store(tmp_path / "s", HEADER, records())
    path = tmp_path / "s" / "train.ids"
    changed = bytearray(path.read_bytes())
    changed[0] ^= 1
    path.write_bytes(changed)
    with pytest.raises(LabError, match="train ids"):
        TokenStore.open(tmp_path / "s").verify()


def test_refuses_unknown_split_and_foreign_ids(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="Unknown split 'dev'"):
        TokenStore.in_memory(HEADER, records()).ids("dev")
    with pytest.raises(LabError, match="outside its vocabulary"):
        TokenStore.in_memory(HEADER, [("train", "d", np.array([100]))])


def split_of(lengths: list[int]) -> TokenStore:
    """A test split whose document d is d + 3 repeated, and its end."""
    documents = [("train", "t", np.array([5, 2]))]
    documents += [("test", f"d{d}", np.append(np.full(n - 1, 3 + d), 2)) for d, n in enumerate(lengths)]
    return TokenStore.in_memory(HEADER, documents)


def test_evaluation_set_takes_short_documents_whole_and_counts_bytes() -> None:
    store = split_of([10] * 40)
    evalset = evaluation_set(store, tokens=315)
    assert evalset.keys == tuple(f"d{d}" for d in range(32)) and evalset.n_tokens == 320
    assert evalset.bytes.tolist() == ([1] * 9 + [0]) * 32
    assert evaluation_set(store, tokens=320).n_tokens == 320
    assert evaluation_set(store).n_tokens == 400
    np.testing.assert_array_equal(evalset.mapped(np.arange(100, dtype=np.int32) + 7), evalset.ids + 7)
    assert evalset.hash == evaluation_set(store, tokens=315).hash != evaluation_set(store, tokens=325).hash


def test_evaluation_set_takes_the_middles_of_long_documents() -> None:
    evalset = evaluation_set(split_of([1000, 40, 1000]), tokens=160)
    assert np.diff(evalset.offsets).tolist() == [60, 40, 60]  # the short one whole, the others share the rest
    assert evalset.ids.tolist() == [3] * 60 + [4] * 39 + [2] + [5] * 60
    many = evaluation_set(split_of([1000] * 40), tokens=320)
    assert np.diff(many.offsets).tolist() == [10] * 32


@given(st.lists(st.integers(2, 60), min_size=1, max_size=60), st.integers(32, 800))
def test_evaluation_sets_are_large_enough_and_spread(lengths: list[int], tokens: int) -> None:
    evalset = evaluation_set(split_of(lengths), tokens=tokens)
    taken = np.diff(evalset.offsets)
    assert min(tokens, sum(lengths)) <= evalset.n_tokens
    assert (taken > 0).all() and (taken <= lengths[: len(taken)]).all()
    cut = taken[taken < lengths[: len(taken)]]
    assert len(set(cut.tolist())) <= 1  # long documents give equally
    if len(cut) and cut[0] > -(-tokens // DOCUMENTS):  # more than their share: then less from each would not do
        assert np.minimum(lengths, cut[0] - 1).sum() < tokens


def test_parallel_verses_pair_by_key() -> None:
    def store(keys: str, group: str = "group") -> TokenStore:
        header = dataclasses.replace(HEADER, parallel=group)
        verses = [("probe", k, np.array([ord(k), 2])) for k in keys]
        return TokenStore.in_memory(header, [("train", "t", np.array([5, 2])), *verses])

    pairs = parallel_verses(store("ABC"), store("CAX"))
    assert [(k, a.tolist(), b.tolist()) for k, a, b in pairs] == [("A", [65, 2], [65, 2]), ("C", [67, 2], [67, 2])]
    with pytest.raises(LabError, match="not parallel"):
        parallel_verses(store("A"), store("A", "other"))
