"""What training reads is what the seqio Tasks and Mixtures yield; preparing is done once and without surprises."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.commands.data import COMMANDS
from lab.config import Component, LayoutConfig, MixtureConfig, Source, Stage
from lab.data.corpora import Corpus, open_corpus
from lab.data.prepare import Prepared, open_prepared, prepare, stores_under
from lab.data.store import SPLITS, TokenStore
from lab.data.stream import ExampleStream
from lab.data.tasks import register_corpus, register_language, register_mixture
from lab.data.vocabulary import build_layout
from lab.errors import LabError

CONTEXT = 16


@pytest.fixture(scope="module")
def seqio() -> Any:
    return pytest.importorskip("seqio")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two small corpora: numbers in English letters, and in another alphabet."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for name, letters in (("a.txt", "abcdefgh"), ("b.txt", "абвгдежз")):
        words = ["".join(letters[int(d)] for d in str(n) if d < "8") or "x" for n in rng.integers(10, 9999, 6000)]
        documents = [" ".join(words[i : i + 20]) + "\nend\t." for i in range(0, 6000, 20)]
        (folder / name).write_text("\n\n".join(documents))
    return [f"text:{folder / 'a.txt'}", f"text:{folder / 'b.txt'}"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def prepared(seqio: Any, texts: list[str], root: Path) -> Prepared:
    return prepare(texts, 350, root=root)


@pytest.fixture(scope="module")
def corpora(texts: list[str]) -> dict[str, Corpus]:
    return {c.name: c for c in map(open_corpus, texts)}


def task_tokens(seqio: Any, name: str, split: str = "train") -> list[np.ndarray]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(sequence_length=None, split=split, shuffle=False)
    return [example["targets"] for example in dataset.as_numpy_iterator()]


def mixture_of(prepared: Prepared, kind: str, shares: tuple[float, ...]) -> MixtureConfig:
    a, b = (prepared.stores[name] for name in ("text:a.txt", "text:b.txt"))
    hashes = tuple(s.manifest.tokenizer for s in (a, b))
    sources: tuple[Source, ...]
    if kind == "clones":
        layout, sources = LayoutConfig.clones(("a", "a#1"), hashes[0]), (a.source, a.source)
    else:
        layout, sources = LayoutConfig.merged(("a", "b"), hashes), (a.source, b.source)
    components = tuple(Component(*pair) for pair in zip(layout.names, sources, strict=True))
    return MixtureConfig(components, layout, (Stage(1.0, shares),))


def unshuffled(prepared: Prepared, mixture: MixtureConfig, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, components and windows of the first n sequences in stored order."""
    layout = build_layout(mixture.layout, prepared.by_hash)
    batch = ExampleStream(mixture, prepared.stores, layout, CONTEXT, n, n, seed_data=None).batch(0)
    return batch.tokens_BxT1, batch.component_B, batch.example_ids_B


def test_store_holds_what_the_base_task_yields(seqio: Any, prepared: Prepared, corpora: dict[str, Corpus]) -> None:
    for name, corpus in corpora.items():
        store, tokenizer = prepared.stores[name], prepared.tokenizers[name]
        task = register_corpus(corpus, tokenizer)
        for split in SPLITS:
            documents = task_tokens(seqio, task, split)
            np.testing.assert_array_equal(store.ids(split), np.concatenate([*documents, np.zeros(0, np.int32)]))
            np.testing.assert_array_equal(store.offsets(split), np.cumsum([0, *map(len, documents)]))
        texts = {d.text for d in corpus.documents()}
        offsets = store.offsets("train")
        decoded = [tokenizer.decode(store.ids()[a:b]) for a, b in itertools.pairwise(offsets)]
        assert set(decoded) < texts and len(decoded) > 200
        lengths = [store.manifest.splits[s].bytes for s in SPLITS]
        assert sum(lengths) == sum(len(t.encode()) for t in (d.text for d in corpus.documents()))


@pytest.mark.parametrize("kind", ["clones", "merged"])
def test_unshuffled_stream_equals_each_language_task(
    seqio: Any, prepared: Prepared, corpora: dict[str, Corpus], kind: str
) -> None:
    mixture = mixture_of(prepared, kind, (0.5, 0.5))
    layout = build_layout(mixture.layout, prepared.by_hash)
    for c, component in enumerate(mixture.components):
        task = register_language(component.language, corpora[component.source.corpus], layout)
        expected = np.concatenate(task_tokens(seqio, task))
        alone = MixtureConfig(mixture.components, mixture.layout, (Stage(1.0, tuple(np.eye(2)[c].tolist())),))
        n = (len(expected) - 1) // CONTEXT
        tokens, _, _ = unshuffled(prepared, alone, n)
        stream = np.append(tokens[:, :-1].ravel(), tokens[-1, -1])
        np.testing.assert_array_equal(stream, expected[: n * CONTEXT + 1])


@pytest.mark.parametrize(("kind", "shares"), [("clones", (0.75, 0.25)), ("merged", (0.9, 0.1))])
def test_mixture_has_our_rates_and_our_components_read_its_tasks(
    seqio: Any, prepared: Prepared, corpora: dict[str, Corpus], kind: str, shares: tuple[float, ...]
) -> None:
    mixture = mixture_of(prepared, kind, shares)
    layout = build_layout(mixture.layout, prepared.by_hash)
    registered = seqio.MixtureRegistry.get(register_mixture(mixture, layout, corpora))
    names = [register_language(c.language, corpora[c.source.corpus], layout) for c in mixture.components]
    rates = {task.name: registered.get_rate(task) for task in registered.tasks}
    assert rates == dict(zip(names, shares, strict=True))

    tokens, component, windows = unshuffled(prepared, mixture, 200)
    counted = np.bincount(component, minlength=2) / 200
    np.testing.assert_allclose(counted, shares, atol=1 / 200)
    for c, name in enumerate(names):
        flat = np.concatenate(task_tokens(seqio, name))
        mine = np.flatnonzero(component == c)
        # A component of its own source reads its Task from the start; components of one source share it out.
        if kind == "merged":
            np.testing.assert_array_equal(windows[mine], np.arange(len(mine)))
        for row, window in zip(tokens[mine], windows[mine], strict=True):
            np.testing.assert_array_equal(row, flat[window * CONTEXT : (window + 1) * CONTEXT + 1])
    if kind == "clones":
        assert sorted(windows.tolist()) == list(range(200))


def test_the_mixture_runs_and_its_parts_are_the_tasks(
    seqio: Any, prepared: Prepared, corpora: dict[str, Corpus]
) -> None:
    mixture = mixture_of(prepared, "clones", (0.5, 0.5))
    layout = build_layout(mixture.layout, prepared.by_hash)
    name = register_mixture(mixture, layout, corpora)
    dataset = seqio.get_mixture_or_task(name).get_dataset(
        sequence_length=None, split="train", shuffle=False, num_epochs=1, seed=0
    )
    documents = [example["targets"] for example in dataset.as_numpy_iterator()]
    v = layout.tokenizers["a"].vocab_size
    for c, component in enumerate(mixture.components):
        task = register_language(component.language, corpora[component.source.corpus], layout)
        mine = [d for d in documents if (d.max() >= v) == bool(c)]
        assert len(mine) > 50
        for got, expected in zip(mine, task_tokens(seqio, task), strict=False):
            np.testing.assert_array_equal(got, expected)


def test_vocabularies_are_equal_by_content(seqio: Any, prepared: Prepared, corpora: dict[str, Corpus]) -> None:
    import tensorflow as tf

    mixture = mixture_of(prepared, "merged", (0.5, 0.5))
    layout, again = (build_layout(mixture.layout, prepared.by_hash) for _ in range(2))
    clones = build_layout(mixture_of(prepared, "clones", (0.5, 0.5)).layout, prepared.by_hash)

    def vocabulary(language: str, corpus: str, layout: Any) -> Any:
        task = seqio.TaskRegistry.get(register_language(language, corpora[corpus], layout))
        return task.output_features["targets"].vocabulary

    first, second = vocabulary("a", "text:a.txt", layout), vocabulary("b", "text:b.txt", again)
    assert first == second and first != vocabulary("a", "text:a.txt", clones)
    assert first.vocab_size == layout.v_total
    assert first.decode(first.encode("abc  hg\n")) == "abc  hg\n"
    ids = first.encode_tf(tf.constant("abc"))
    assert ids.numpy().tolist() == first.encode("abc") and first.decode_tf(ids).numpy() == b"abc"


def test_preparing_again_changes_nothing_and_needs_no_tensorflow(
    prepared: Prepared, texts: list[str], root: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*")}
    code = (
        "import sys; from pathlib import Path; from lab.data.prepare import prepare, stores_under\n"
        "import lab.data.stream, lab.data.evalset, lab.commands.data\n"
        f"p = prepare({texts!r}, 350, root=Path({str(root)!r}))\n"
        "print([s.fingerprint for s in p.stores.values()])\n"
        "print([m for m in ('tensorflow', 'seqio', 'tensorflow_datasets', 'jax') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fingerprints, heavy = run.stdout.splitlines()
    assert fingerprints == str([s.fingerprint for s in prepared.stores.values()])
    assert heavy == "[]"
    assert {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*")} == before


def test_joint_vocabulary_is_one_whatever_the_order(texts: list[str], root: Path, prepared: Prepared) -> None:
    joint = prepare(texts, 360, joint=True, root=root)
    assert len(joint.by_hash) == 1
    assert prepare(texts[::-1], 360, joint=True, root=root).by_hash.keys() == joint.by_hash.keys()
    only = joint.tokenizer(texts[0])
    assert {"a", "а"} <= set("".join(only.pieces))  # both alphabets
    assert len(prepared.by_hash) == 2


def test_damaged_store_is_written_anew(texts: list[str], tmp_path: Path) -> None:
    store = prepare(texts[:1], 350, root=tmp_path).store(texts[0])
    assert store.folder is not None
    (store.folder / "train.ids").write_bytes(b"x")
    assert stores_under(tmp_path) == []
    again = prepare(texts[:1], 350, root=tmp_path).store(texts[0])
    assert again.fingerprint == store.fingerprint
    again.verify()


def test_stores_are_found_by_fingerprint(prepared: Prepared, root: Path) -> None:
    sources = [s.source for s in prepared.stores.values()]
    found = open_prepared(sources, root)
    assert found.by_hash == prepared.by_hash
    with pytest.raises(LabError, match=r"token store nothing of text:a\.txt is not under"):
        open_prepared([Source("text:a.txt", "nothing")], root)


def test_empty_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(LabError, match=r"text:empty\.txt is empty"):
        prepare([f"text:{tmp_path / 'empty.txt'}"], 350, root=tmp_path)
    with pytest.raises(LabError, match="no corpus to prepare"):
        prepare([], 350, root=tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"text {folder}")
    with pytest.raises(LabError, match="same name"):
        prepare([f"text:{tmp_path / f / 'a.txt'}" for f in ("x", "y")], 350, root=tmp_path)


def test_a_real_tfds_set(seqio: Any, tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    class TinyTales(tfds.core.GeneratorBasedBuilder):
        """Forty tales."""

        VERSION = tfds.core.Version("1.2.0")

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "n": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for n in range(40):
                yield n, {"text": f"Tale {n}: once there were {n} bears and {n * n} bees. ünï", "n": n}

    TinyTales(data_dir=str(tmp_path)).download_and_prepare()
    spec = f"tfds:tiny_tales?data_dir={tmp_path}"
    corpus = open_corpus(spec)
    assert corpus.name == "tfds:tiny_tales" and corpus.release.startswith("tiny_tales/1.2.0 sha256:")
    tales = {d.text for d in corpus.documents()}
    assert len(tales) == 40 and "Tale 7: once there were 7 bears and 49 bees. ünï" in tales
    result = prepare([spec], 300, root=tmp_path / "out")
    store: TokenStore = result.store(spec)
    counts = store.manifest.splits
    assert sum(c.documents for c in counts.values()) == 40
    assert sum(c.bytes for c in counts.values()) == sum(len(t.encode()) for t in tales)
    for option, message in (("field=story", "no field 'story'"), ("split=dev", "no split 'dev'")):
        with pytest.raises(LabError, match=message):
            list(open_corpus(f"{spec}&{option}").documents())
    with pytest.raises(LabError, match="no_such_set_anywhere"):
        open_corpus(f"tfds:no_such_set_anywhere?data_dir={tmp_path}")


TASK_MODULE = """
import functools
import seqio
import tensorflow as tf

def lines(split, shuffle_files, seed=None):
    texts = [f"my own text number {n} of {split}" for n in range(50)]
    return tf.data.Dataset.from_tensor_slices({"targets": texts})

seqio.TaskRegistry.add(
    "my_texts",
    source=seqio.FunctionDataSource(lines, splits=["train", "dev"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos] if TOKENIZE else [],
    output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
)
"""


def test_a_users_own_seqio_task(seqio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_test_own_tasks.py").write_text(TASK_MODULE.replace("TOKENIZE", "True"))
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = "seqio:my_texts?module=lab_test_own_tasks"
    try:
        texts = {d.text for d in open_corpus(spec).documents()}
        assert texts == {f"my own text number {n} of train" for n in range(50)}
        result = prepare([spec], 290, root=tmp_path / "out")
        assert sum(c.documents for c in result.store(spec).manifest.splits.values()) == 50
        with pytest.raises(LabError, match="no split 'test'"):
            list(open_corpus(f"{spec}&split=test").documents())
        with pytest.raises(LabError, match="No seqio Task 'yours'"):
            list(open_corpus("seqio:yours?module=lab_test_own_tasks").documents())
    finally:
        seqio.TaskRegistry.remove("my_texts")


def test_commands_print_tables(
    prepared: Prepared, texts: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(COMMANDS) == {"list", "prepare", "show", "distance"} and all(c.__doc__ for c in COMMANDS.values())
    assert COMMANDS["list"]().run() == 0
    assert "embedded:enm" in capsys.readouterr().out
    assert COMMANDS["prepare"](tuple(texts), vocab=350, root=root).run() == 0
    assert COMMANDS["show"](root=root, sample=8).run() == 0
    shown = capsys.readouterr().out
    store = prepared.store(texts[1])
    for fact in (
        store.fingerprint,
        store.manifest.tokenizer,
        f"{store.manifest.splits['train'].tokens:,}",
        "text:b.txt",
    ):
        assert fact in shown
    with pytest.raises(LabError, match="embedded:en is not prepared"):
        COMMANDS["show"](("embedded:en",), root=root).run()
    with pytest.raises(LabError, match="No token store"):
        COMMANDS["show"](root=root / "nowhere").run()
