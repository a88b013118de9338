"""Distances have their closed forms on small counts, and count ids as the model sees them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from lab.commands.data import COMMANDS
from lab.config import LanguageIds, LayoutConfig
from lab.data.vocabulary import PAD, build_layout
from lab.errors import LabError
from lab.evaluate.distance import Distance, entropy, mass_overlap, measure, token_counts, unigram_jsd

if TYPE_CHECKING:
    from lab.data.prepare import Prepared

counts = st.lists(st.integers(0, 50), min_size=6, max_size=6).map(np.array).filter(lambda c: c.sum() > 0)


def test_closed_forms() -> None:
    p, q = np.array([2, 1, 1, 0]), np.array([0, 3, 3, 2])
    # Shares 1/2 1/4 1/4 0 and 0 3/8 3/8 1/4; their mean 1/4 5/16 5/16 1/8.
    mean = 0.25 * 2 + 2 * 5 / 16 * math.log2(16 / 5) + 0.125 * 3
    own = (1.5 + 2 * 3 / 8 * math.log2(8 / 3) + 0.5) / 2
    assert measure(p, q) == Distance(0.5, 0.5, 0.75, pytest.approx(mean - own, abs=1e-15))
    assert measure(q, p).known_tokens == 0.5
    assert measure(p, 7 * p) == Distance(1.0, 1.0, 1.0, 0.0)
    assert measure(np.array([1, 0]), np.array([0, 9])) == Distance(0.0, 0.0, 0.0, 1.0)


@given(counts, counts)
def test_bounds_symmetry_and_another_implementation(p: np.ndarray, q: np.ndarray) -> None:
    found, swapped = measure(p, q), measure(q, p)
    for name in ("vocabulary_overlap", "mass_overlap", "unigram_jsd"):
        assert -1e-12 <= getattr(found, name) <= 1 + 1e-12
        assert getattr(found, name) == pytest.approx(getattr(swapped, name), abs=1e-12)
    assert found.mass_overlap <= found.known_tokens + 1e-12
    assert found.mass_overlap == pytest.approx(1 - np.abs(p / p.sum() - q / q.sum()).sum() / 2, abs=1e-12)
    # scipy rounds within its square root.
    assert found.unigram_jsd == pytest.approx(np.nan_to_num(jensenshannon(p, q, base=2)) ** 2, abs=1e-9)


def test_refusals() -> None:
    with pytest.raises(LabError, match="of 2 and of 3 types"):
        mass_overlap(np.ones(2), np.ones(3))
    with pytest.raises(LabError, match="without tokens"):
        unigram_jsd(np.ones(2), np.zeros(2))


def test_counts_follow_the_layout(data: Prepared) -> None:
    aa, bb = (data.tokenizer(f"tiny:{name}").hash for name in ("aa", "bb"))
    store = data.store("tiny:aa")
    assert store.ids().size > 1000

    def distance(config: LayoutConfig, other: str = "tiny:aa") -> Distance:
        layout = data.layout(config)
        first, second = config.names
        source = token_counts(store, layout, first)
        assert source.sum() == store.ids().size and len(source) == layout.v_total
        return measure(source, token_counts(data.store(other), layout, second))

    assert distance(LayoutConfig.joint(("a", "b"), aa)) == Distance(1.0, pytest.approx(1), 1.0, 0.0)
    assert distance(LayoutConfig.clones(("a", "b"), aa)) == Distance(0.0, 0.0, 0.0, 1.0)
    anchored = [distance(LayoutConfig.clones(("a", "b"), aa, share)).unigram_jsd for share in (0.1, 0.5, 0.9)]
    assert 1 > anchored[0] > anchored[1] > anchored[2] > 0
    disjoint = distance(LayoutConfig.disjoint(("a", "b"), (aa, bb)), "tiny:bb")
    merged = distance(LayoutConfig.merged(("a", "b"), (aa, bb)), "tiny:bb")
    assert disjoint.known_tokens == 0 < merged.known_tokens and merged.unigram_jsd < disjoint.unigram_jsd
    with pytest.raises(LabError, match="was written with tokenizer"):
        distance(LayoutConfig.clones(("a", "b"), aa), "tiny:bb")


def test_renaming_keeps_types_and_entropy_and_grows_apart(data: Prepared) -> None:
    tokenizer, store = data.tokenizer("tiny:aa"), data.store("tiny:aa")
    found = []
    for share in (None, 0.25, 0.5, 1.0):
        config = LayoutConfig(
            (
                LanguageIds("a", tokenizer.hash),
                LanguageIds("b", tokenizer.hash, "same", renamed=share),
            )
        )
        layout = build_layout(config, {tokenizer.hash: tokenizer})
        source, target = (token_counts(store, layout, name) for name in "ab")
        assert abs(entropy(source.astype(float)) - entropy(target.astype(float))) < 1e-12
        assert target[PAD] == 0
        found.append(measure(source, target))
    assert [d.vocabulary_overlap > 0.97 for d in found] == [True] * 4
    assert np.all(np.diff([d.unigram_jsd for d in found]) > 0) and np.all(np.diff([d.mass_overlap for d in found]) < 0)


def test_the_command_prints_json_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("seqio")
    file = tmp_path / "a.txt"
    rng = np.random.default_rng(0)
    words = ["light", "dark", "earth", "water", "said", "good", "they", "it"]
    file.write_text("\n\n".join(" ".join(rng.choice(words, 40)) for _ in range(150)))
    command = COMMANDS["distance"]
    a, b = f"derived:text:{file}?half=a", f"derived:text:{file}?half=b&spelling=1"
    common = {"vocab": 290, "tokenizer": "source", "root": tmp_path / "out"}
    assert command(a, (a, b), **common, json=True).run() == 0
    same, other = json.loads(capsys.readouterr().out)
    assert (same["target"], same["unigram_jsd"], same["vocabulary_overlap"]) == ("derived:text:a.txt?half=a", 0, 1)
    assert other["target"] == "derived:text:a.txt?spelling=1&half=b"
    assert 0 < other["mass_overlap"] <= other["known_tokens"] < 1 and other["tokens_per_byte"] > same["tokens_per_byte"]
    assert command(a, (a,), **common, renamed=0.5).run() == 0
    shown = capsys.readouterr().out
    assert "0.5" in shown and "JSD" in shown
    with pytest.raises(LabError, match="no corpus to measure to"):
        command(a, (), **common).run()
