"""Tokenizers are lossless, deterministic and know their bytes; layouts are tables with the papers' arithmetic."""

from __future__ import annotations

import itertools
import pickle
import random

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import LanguageIds, LayoutConfig, fingerprint, from_json, to_json
from lab.data.vocabulary import EOD, PAD, LanguageLayout, Tokenizer, build_layout, train_tokenizer
from lab.errors import LabError

ENGLISH = ["In the beginning God created the heavens and the earth. " * 20, "And the earth was void.\n\tAnd dark.  Yes"]
FRENCH = ["Au commencement, Dieu créa les cieux et la terre. " * 20, "La terre était informe et vide: l'été, où?"]


@pytest.fixture(scope="module")
def english() -> Tokenizer:
    return train_tokenizer(ENGLISH, 320)


@pytest.fixture(scope="module")
def french() -> Tokenizer:
    return train_tokenizer(FRENCH, 330)


TRICKY = ["", " ", "  a  b ", "\n\n\tx\r\n", "▁ ▁▁x", "<0x41> <eod> <pad> <unk>", "\0a\ufeffb\u2585", "漢字 👩‍👩‍👧 é é"]


@pytest.mark.parametrize("text", TRICKY)
def test_round_trip_of_tricky_text(english: Tokenizer, text: str) -> None:
    ids = english.encode(text)
    assert english.decode(ids) == text
    assert not {PAD, 1, EOD} & set(ids)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=300)
def test_round_trip_and_byte_lengths_of_any_text(text: str) -> None:
    tokenizer = _module_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


_CACHED: list[Tokenizer] = []


def _module_tokenizer() -> Tokenizer:
    if not _CACHED:
        _CACHED.append(train_tokenizer(ENGLISH + FRENCH, 340))
    return _CACHED[0]


def test_pieces_are_those_of_sentencepiece_itself(english: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=english.files()["sentencepiece.model"])
    for text in ["\n".join(ENGLISH), "\n a\n\nb\tc  d\n", "the \n earth"]:
        assert english.encode(text) == processor.encode(text)


def test_size_specials_and_counts(english: Tokenizer) -> None:
    assert english.vocab_size == 320
    assert english.byte_lengths[[PAD, 1, EOD]].tolist() == [0, 0, 0]
    assert english.counts[EOD] == len(ENGLISH)
    expected = np.bincount(np.concatenate([english.encode(t) for t in ENGLISH]), minlength=320)
    expected[EOD] = len(ENGLISH)
    np.testing.assert_array_equal(english.counts, expected)


def test_training_is_deterministic_and_hashed(english: Tokenizer, french: Tokenizer) -> None:
    assert train_tokenizer(ENGLISH, 320).hash == english.hash
    assert len({english.hash, french.hash, train_tokenizer(ENGLISH, 319).hash}) == 3


def test_saves_loads_and_pickles(english: Tokenizer, tmp_path) -> None:
    english.save(tmp_path / "t")
    for other in (Tokenizer.load(tmp_path / "t"), pickle.loads(pickle.dumps(english))):
        assert other == english and other.encode("the earth") == english.encode("the earth")


def test_refusals(tmp_path) -> None:
    with pytest.raises(LabError, match="too small"):
        train_tokenizer(ENGLISH, 200)
    with pytest.raises(LabError, match="cannot make 5000 pieces"):
        train_tokenizer(ENGLISH, 5000)
    with pytest.raises(LabError, match="no text"):
        train_tokenizer(["", "\n "], 400)
    with pytest.raises(LabError, match="holds no complete tokenizer"):
        Tokenizer.load(tmp_path)


def test_many_characters_leave_room_for_merges() -> None:
    rng = random.Random(0)
    characters = "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(20_000))
    words = " ".join(str(i) for i in range(3000))
    tokenizer = train_tokenizer([characters, words], 400)
    assert tokenizer.decode(tokenizer.encode(characters)) == characters
    merges = [p for p in tokenizer.pieces if len(p) > 1 and not p.startswith("<")]
    assert len(merges) >= (400 - 261) // 2


def test_clones_shift_every_id_but_padding(english: Tokenizer) -> None:
    layout = build_layout(LayoutConfig.clones(("en", "en#1", "en#2"), english.hash), {english.hash: english})
    v = english.vocab_size
    assert layout.v_total == 3 * v
    for k, language in enumerate(layout.languages):
        expected = np.arange(v) + k * v
        expected[PAD] = PAD
        np.testing.assert_array_equal(layout.table(language), expected)


@pytest.mark.parametrize("anchored", [0.05, 0.1, 0.5, 0.9])
def test_random_anchors_are_those_of_the_paper(english: Tokenizer, anchored: float) -> None:
    config = LayoutConfig.clones(("en", "en#1"), english.hash, anchored)
    layout = build_layout(config, {english.hash: english})
    v = english.vocab_size
    # arXiv:2404.07982's code: shuffle all ids with seed 0; the first int(frac_clone * V) are cloned, but for padding.
    order = list(range(v))
    random.Random(0).shuffle(order)
    cloned = set(order[: int(round((1 - anchored) * v, 6))]) - {PAD}
    assert {i for i in range(v) if layout.tables["en#1"][i] != i} == cloned
    assert all(layout.tables["en#1"][i] == i + v for i in cloned)


def test_frequent_anchors_are_the_most_frequent(english: Tokenizer) -> None:
    config = LayoutConfig.clones(("en", "en#1"), english.hash, 0.25, "frequent")
    table = build_layout(config, {english.hash: english}).tables["en#1"]
    kept = table == np.arange(len(table))
    kept[PAD] = False
    assert english.counts[kept].min() >= english.counts[~kept][1:].max()
    # Padding itself may be one of the anchored quarter.
    assert abs(int(kept.sum()) - 80) <= 1


def test_disjoint_merged_and_joint(english: Tokenizer, french: Tokenizer) -> None:
    both = {t.hash: t for t in (english, french)}
    hashes = (english.hash, french.hash)
    disjoint = build_layout(LayoutConfig.disjoint(("en", "fr"), hashes), both)
    assert disjoint.v_total == 320 + 330
    assert set(disjoint.tables["en"]) & set(disjoint.tables["fr"]) == {PAD}

    merged = build_layout(LayoutConfig.merged(("en", "fr"), hashes), both)
    shared = set(english.pieces) & set(french.pieces)
    assert merged.v_total == 320 + 330 - len(shared)
    assert set(merged.tables["en"]) & set(merged.tables["fr"]) == {english.pieces.index(p) for p in shared}
    assert {"<pad>", "<unk>", "<eod>", "<0x41>"} <= shared
    assert sorted({*merged.tables["en"].tolist(), *merged.tables["fr"].tolist()}) == list(range(merged.v_total))

    joint = build_layout(LayoutConfig.joint(("en", "fr"), english.hash), both)
    assert joint.v_total == 320
    np.testing.assert_array_equal(joint.tables["fr"], np.arange(320))


def test_one_layout_holds_clones_beside_another_language(english: Tokenizer, french: Tokenizer) -> None:
    config = LayoutConfig(
        (
            LanguageIds("en", english.hash),
            LanguageIds("en#1", english.hash),
            LanguageIds("fr", french.hash, "pieces"),
        )
    )
    layout = build_layout(config, {t.hash: t for t in (english, french)})
    assert layout.v_total == 640 + 330 - len(set(english.pieces) & set(french.pieces))
    assert layout.tables["fr"][french.pieces.index("e")] == english.pieces.index("e")


@given(st.text(max_size=40), st.sampled_from(["clones", "anchored", "disjoint", "merged", "joint"]))
@settings(max_examples=60)
def test_round_trip_and_bytes_in_every_layout(text: str, kind: str) -> None:
    first, second = _pair()
    hashes = (first.hash, second.hash)
    config = {
        "clones": LayoutConfig.clones(("a", "b"), first.hash),
        "anchored": LayoutConfig.clones(("a", "b"), first.hash, 0.5),
        "disjoint": LayoutConfig.disjoint(("a", "b"), hashes),
        "merged": LayoutConfig.merged(("a", "b"), hashes),
        "joint": LayoutConfig.joint(("a", "b"), first.hash),
    }[kind]
    layout = build_layout(config, {t.hash: t for t in (first, second)})
    for language in layout.languages:
        ids = layout.encode(language, text)
        assert ids.dtype == np.int32
        assert layout.decode(ids) == text
        assert layout.byte_lengths[ids].sum() == len(text.encode())


def _pair() -> tuple[Tokenizer, Tokenizer]:
    while len(_CACHED) < 3:
        _CACHED.append(train_tokenizer(FRENCH if len(_CACHED) == 2 else ENGLISH, 330))
    return _CACHED[1], _CACHED[2]


def renamed_layout(tokenizer: Tokenizer, share: float | None) -> LanguageLayout:
    languages = (LanguageIds("en", tokenizer.hash), LanguageIds("ne", tokenizer.hash, "same", renamed=share))
    return build_layout(LayoutConfig(languages), {tokenizer.hash: tokenizer})


def test_renamed_pieces_change_places_among_themselves(english: Tokenizer) -> None:
    used = np.flatnonzero(english.counts > 0)
    used = used[used > EOD]
    moved: list[set[int]] = []
    for share in (None, 0.25, 0.5, 0.75, 1.0):
        layout = renamed_layout(english, share)
        table = layout.table("ne")
        assert layout.v_total == english.vocab_size and table[[PAD, 1, EOD]].tolist() == [PAD, 1, EOD]
        assert sorted(table.tolist()) == list(range(english.vocab_size))
        moved.append({i for i in range(len(table)) if table[i] != i})
        assert moved[-1] <= set(used.tolist()) and {int(table[i]) for i in moved[-1]} == moved[-1]
        np.testing.assert_array_equal(english.byte_lengths[table], english.byte_lengths)
        # A piece that is the only one of its length among those taken keeps its id.
        alone = len(set(english.byte_lengths[used].tolist()))
        assert 0 <= round((share or 0) * len(used)) - len(moved[-1]) <= alone
    assert not moved[0] and all(a < b for a, b in itertools.pairwise(moved))


@given(st.text(max_size=40), st.sampled_from([0.25, 1.0]))
@settings(max_examples=60)
def test_renamed_text_is_restored_through_its_language(text: str, share: float) -> None:
    tokenizer = _module_tokenizer()
    layout = renamed_layout(tokenizer, share)
    ids = layout.encode("ne", text)
    assert layout.decode(ids, "ne") == text and layout.byte_lengths[ids].sum() == len(text.encode())
    np.testing.assert_array_equal(layout.base_ids("ne", ids), tokenizer.encode(text))
    # What a model of the first language reads there is what the ids mean to it.
    assert layout.decode(ids) == layout.decode(ids, "en") == tokenizer.decode(ids)


def test_ids_of_another_language_are_refused(english: Tokenizer, french: Tokenizer) -> None:
    both = {t.hash: t for t in (english, french)}
    layout = build_layout(LayoutConfig.disjoint(("en", "fr"), (english.hash, french.hash)), both)
    assert layout.decode(layout.encode("fr", "la terre"), "fr") == "la terre"
    for foreign in (english.vocab_size + 5, layout.v_total, -1):
        with pytest.raises(LabError, match=f"The id {foreign} is none of 'en'"):
            layout.decode([PAD, 7, foreign], "en")
    with pytest.raises(LabError, match="Unknown language 'de'"):
        layout.base_ids("de", [1])


def test_renaming_is_identity_only_where_it_is_used(english: Tokenizer) -> None:
    plain = LanguageIds("en", "0123456789abcdef", "same")
    # As it was before languages could be renamed.
    assert fingerprint(plain) == "0468321d65025436"
    renamed = LanguageIds("en", "0123456789abcdef", "same", renamed=0.5)
    assert fingerprint(renamed) != fingerprint(plain) and from_json(to_json(renamed)) == renamed
    for share in (0.0, 1.5, -0.5):
        with pytest.raises(LabError, match=r"renamed share of 'en' must lie in \(0, 1\]"):
            LanguageIds("en", "a", "same", renamed=share)
    with pytest.raises(LabError, match="shares all ids"):
        LanguageIds("en", "a", "own", renamed=0.5)


def test_layout_identity(english: Tokenizer, french: Tokenizer) -> None:
    config = LayoutConfig.merged(("en", "fr"), (english.hash, french.hash))
    assert from_json(to_json(config)) == config
    swapped = LayoutConfig.merged(("fr", "en"), (french.hash, english.hash))
    assert fingerprint(config) != fingerprint(swapped)
    both = {t.hash: t for t in (english, french)}
    assert build_layout(config, both).hash == build_layout(config, both).hash != build_layout(swapped, both).hash


def test_layout_refusals(english: Tokenizer) -> None:
    config = LayoutConfig.clones(("en", "en#1"), english.hash)
    with pytest.raises(LabError, match="not among those prepared"):
        build_layout(config, {})
    with pytest.raises(LabError, match="Unknown language 'fr'"):
        build_layout(config, {english.hash: english}).table("fr")
    with pytest.raises(LabError, match="twice"):
        LayoutConfig.clones(("en", "en"), english.hash)
    with pytest.raises(LabError, match="reuse ids"):
        LayoutConfig((LanguageIds("en", "a"), LanguageIds("fr", "b", "same")))
    with pytest.raises(LabError, match=r"\[0, 1\]"):
        LanguageIds("en", "a", anchored=1.5)
