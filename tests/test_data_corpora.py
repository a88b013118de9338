"""Corpora read what they say, split by stable keys, and parallel ones agree chapter by chapter."""

from __future__ import annotations

import gzip
import json
import lzma
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.data.corpora import EMBEDDED, Corpus, open_corpus
from lab.data.embedded import Document
from lab.data.splits import PROBE, USUAL, SplitRule
from lab.errors import LabError


@pytest.fixture(scope="module")
def bibles() -> dict[str, list[Document]]:
    return {name: list(open_corpus(name).documents()) for name in ("embedded:en", "embedded:enm")}


def parallel_groups() -> list[list[str]]:
    groups = defaultdict(list)
    for name, entry in EMBEDDED.items():
        if entry.parallel:
            groups[entry.parallel].append(name)
    return list(groups.values())


def documents_of(name: str) -> list[Document]:
    try:
        return list(open_corpus(name).documents())
    except LabError as error:
        pytest.skip(str(error))


def test_embedded_english_is_the_whole_bible(bibles: dict[str, list[Document]]) -> None:
    english = bibles["embedded:en"]
    assert len(english) == 1189 and len({d.key for d in english}) == 1189
    assert english[0].key == "Genesis 1" and english[0].text.startswith("In the beginning God created the heavens")
    assert english[-1].key == "Revelation 22"
    assert 3.9e6 < sum(len(d.text) for d in english) < 4.2e6
    assert dict(english[0].verses)["Genesis 1:3"] == 'God said, "Let there be light," and there was light.'
    for document in english:
        assert document.text == " ".join(text for _, text in document.verses)


def test_embedded_middle_english(bibles: dict[str, list[Document]]) -> None:
    by_key = {d.key: d for d in bibles["embedded:enm"]}
    assert by_key["Genesis 1"].text.startswith("In the bigynnyng God made of nouyt heuene and erthe.")
    assert "Wisdom of Solomon 1" in by_key
    # The shepherd's psalm is the 22nd in the Vulgate's numbering and the 23rd in the Hebrew one.
    assert "The Lord gouerneth me" in by_key["Psalms 22"].text and by_key["Psalms 22"].align == "Psalms 23"


def test_embedded_arabic_has_no_vowel_signs() -> None:
    arabic = documents_of("embedded:ar")
    assert sum(len(d.text) for d in arabic) > 15e6
    text = "".join(d.text for d in arabic[:2000])
    assert "حدثنا" in text and not {chr(c) for c in range(0x064B, 0x0653)} & set(text)


@pytest.mark.parametrize("group", parallel_groups(), ids="+".join)
def test_parallel_corpora_share_splits(group: list[str]) -> None:
    split_by_align: dict[str, set[str]] = defaultdict(set)
    held_out: dict[str, dict[str, set[str]]] = {}
    for name in group:
        held_out[name] = defaultdict(set)
        for document in documents_of(name):
            split = USUAL.split_of(document.align, document.held_out)
            split_by_align[document.align].add(split)
            if split != "train":
                held_out[name][split].add(document.align)
    assert all(len(splits) == 1 for splits in split_by_align.values())
    first = held_out[group[0]]
    assert first["test"] and first["validation"] and first["probe"] == PROBE
    # What is held out in one language is so in all: the sets are parallel.
    assert all(held_out[name] == first for name in group)


@pytest.mark.parametrize("group", parallel_groups(), ids="+".join)
def test_probe_verses_carry_the_same_keys(group: list[str]) -> None:
    keys = [[key for d in documents_of(name) if d.align in PROBE for key, _ in d.verses] for name in group]
    assert len(keys[0]) > 400 and all(k == keys[0] for k in keys)


def test_alignment_keys_join_the_same_texts(bibles: dict[str, list[Document]]) -> None:
    """Lengths of parallel texts are nearly proportional; a wrong psalm or a moved chapter would show."""
    lengths = []
    for documents in bibles.values():
        by_align: dict[str, int] = defaultdict(int)
        for d in documents:
            by_align[d.align] += len(d.text) * d.held_out
        lengths.append(by_align)
    # Outliers by right: Wycliffe abbreviates a refrain, and has the Greek additions to Esther and Daniel.
    known = {"Psalms 136", "Esther 10", "Daniel 3"}
    for book in ("Psalms", ""):
        aligns = [a for a in lengths[0] if a.startswith(book) and a not in known]
        pairs = np.log([[by[a] for a in aligns] for by in lengths])
        assert np.corrcoef(pairs)[0, 1] > 0.97
        ratio = pairs[1] - pairs[0]
        worst = aligns[int(np.argmax(np.abs(ratio - np.median(ratio))))]
        assert np.abs(ratio - np.median(ratio)).max() < 0.6, worst


def test_split_shares_and_stability() -> None:
    splits = [USUAL.split_of(f"key {i}") for i in range(100_000)]
    assert abs(splits.count("test") / 1e5 - 0.085) < 0.004
    assert abs(splits.count("validation") / 1e5 - 0.010) < 0.002
    assert "probe" not in splits and {USUAL.split_of(k) for k in PROBE} == {"probe"}
    assert {USUAL.split_of(f"key {i}", may_be_held_out=False) for i in range(1000)} == {"train"}
    # Pinned: a change would move text between training and test in everybody's stores.
    assert str(USUAL) == "sha256 v1 {'test': 850, 'validation': 100} probe 85b39c27"
    assert [USUAL.split_of(f"Genesis {i}") for i in range(1, 13)] == [
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "test",
        "train",
        "train",
        "train",
    ]


@given(st.text(max_size=20), st.integers(1, 4500), st.integers(1, 4500))
def test_a_larger_share_of_test_text_keeps_the_smaller_ones_documents(key: str, small: int, more: int) -> None:
    if SplitRule(test=small).split_of(key) == "test":
        assert SplitRule(test=small + more).split_of(key) == "test"


def test_a_corpus_can_hold_out_more_documents(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n\n".join(f"document {i}" for i in range(2000)))
    usual, more = open_corpus(f"text:{file}"), open_corpus(f"text:{file}?test=.35")
    changed = open_corpus(f"derived:text:{file}?test=.35&order=reverse")

    def held_out(corpus: Corpus) -> set[str]:
        return {d.key for d in corpus.documents() if corpus.split_of(d) == "test"}

    assert abs(len(held_out(more)) / 2000 - 0.35) < 0.04 and held_out(usual) < held_out(more) == held_out(changed)
    assert usual.name == "text:a.txt" and more.name == "text:a.txt?test=.35"
    assert changed.name == "derived:text:a.txt?test=.35&order=reverse"
    for share in ("none", "0", "-.1", ".95", "nan", "inf"):
        with pytest.raises(LabError, match="test needs the share of documents"):
            open_corpus(f"text:{file}?test={share}")


def test_a_growing_corpus_moves_no_document(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    texts = [f"document {i}" for i in range(300)]

    def splits() -> dict[str, str]:
        corpus = open_corpus(f"text:{file}")
        return {d.text: corpus.split_of(d) for d in corpus.documents()}

    file.write_text("\n\n".join(texts))
    before, release = splits(), open_corpus(f"text:{file}").release
    file.write_text("\n\n".join(["one more", *texts, "and more"]))
    after = splits()
    assert len(before) == 300 and {t: after[t] for t in before} == before
    assert {"train", "test", "validation"} <= set(before.values())
    assert open_corpus(f"text:{file}").release != release


def _write(path: Path, text: str) -> None:
    openers: dict[str, Callable] = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "wt", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
@pytest.mark.parametrize(
    ("name", "option", "text", "documents"),
    [
        ("a.txt", "", "a\nb\n\nc\n\n\n\n  d\n", ["a\nb", "c", "  d"]),
        ("a.txt", "?split=blank2", "\n\na\n\nb\n \n\n\nc\n", ["a\n\nb", "c"]),
        ("a.txt", "?split=line", "a\n\n b\tc\r\nd", ["a", " b\tc", "d"]),
        ("a.txt", "?split=file", "a\n\n\nb\n", ["a\n\n\nb\n"]),
        ("a.jsonl", "", '{"text": "a\\nb"}\n\n{"text": "c"}\n', ["a\nb", "c"]),
        ("a.txt", "?split=jsonl:body", '{"body": "é"}', ["é"]),
    ],
)
def test_text_files(tmp_path: Path, suffix: str, name: str, option: str, text: str, documents: list[str]) -> None:
    _write(tmp_path / (name + suffix), text)
    corpus = open_corpus(f"text:{tmp_path / (name + suffix)}{option}")
    assert [d.text for d in corpus.documents()] == documents
    assert corpus.name == f"text:{name}{suffix}{option}"


def test_text_folder_is_read_in_order_and_named_without_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "here" / "books"
    (folder / "b").mkdir(parents=True)
    _write(folder / "z.txt", "last\n\nparagraph")
    _write(folder / "b" / "a.txt.xz", "first")
    corpus = open_corpus(f"text:{folder}?language=fr&licence=CC0")
    assert [d.text for d in corpus.documents()] == ["first", "last\n\nparagraph"]
    assert (corpus.name, corpus.language, corpus.licence) == ("text:books", "fr", "CC0")
    moved = tmp_path / "there"
    folder.parent.rename(moved)
    assert open_corpus(f"text:{moved / 'books'}?language=fr&licence=CC0") == corpus


def test_jsonl_options_and_errors(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"body": 3}) + "\n")
    with pytest.raises(LabError, match=r"Line 2 of .*a\.jsonl is no JSON object with a field 'text'"):
        list(open_corpus(f"text:{file}").documents())
    file.write_text(json.dumps({"body": 3}))
    with pytest.raises(LabError, match="is not text"):
        list(open_corpus(f"text:{file}?split=jsonl:body").documents())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("embedded:xx", "Unknown corpus 'embedded:xx'"),
        ("books", "Unknown corpus 'books'"),
        ("text:", "Unknown corpus 'text:'"),
        ("text:/no/such/file.txt", "no text file or folder /no/such/file.txt"),
        ("text:{tmp}/empty", "holds no files"),
        ("text:{tmp}/a.txt?splt=line", "text:PATH has no option 'splt'"),
        ("text:{tmp}/a.txt?split=page", "Unknown way 'page'"),
        ("seqio:mine?module=no.such.module", "module 'no.such.module'"),
    ],
)
def test_bad_names_are_refused(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(LabError, match=message):
        open_corpus(spec.format(tmp=tmp_path))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(LabError, match=r"latin\.txt is not UTF-8"):
        list(open_corpus(f"text:{tmp_path / 'latin.txt'}").documents())
    (tmp_path / "cut.xz").write_bytes(lzma.compress(b"text " * 1000)[:50])
    with pytest.raises(LabError, match=r"cut\.xz cannot be read"):
        list(open_corpus(f"text:{tmp_path / 'cut.xz'}").documents())
