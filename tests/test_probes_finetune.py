"""Reading labelled text, scores against closed forms, and a head that learns what can be learned."""

from __future__ import annotations

import math
import sys
import types

import jax
import numpy as np
import pytest
from tiny import documents

from lab import model
from lab.config import LayoutConfig, ModelConfig
from lab.data import corpora
from lab.data.labelled import Labelled, Task, checked, read_task
from lab.data.vocabulary import EOD, build_layout, train_tokenizer
from lab.errors import LabError
from lab.evaluate.finetune import Encoded, Setting, encode, finetune, majority, predict, score

CFG = ModelConfig("gpt2", 16, 2, 2, 8, 32, 40, 12)
SETTING = Setting(examples=256, epochs=3, batch=16)


def toy(n: int, seed: int, constant: bool = False) -> Encoded:
    """Texts of random tokens and padding; the class is whether the first token is 5 or 6."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(10, 20, (n, 8)).astype(np.int32)
    labels = rng.integers(0, 2, n).astype(np.int32)
    tokens[:, 0] = 5 + labels
    tokens[:, 6:] = 0
    return Encoded(tokens, np.ones(n, np.int32) if constant else labels)


def test_the_head_learns_a_separable_task_and_leaves_its_parent_alone():
    params = model.init(CFG, jax.random.key(0))
    before = jax.tree.map(np.array, params)
    train, test = toy(256, 0), toy(101, 1)
    ticks: list[int] = []
    tuned = finetune(CFG, params, train, 2, 1e-2, 0, SETTING, lambda: ticks.append(1))
    guesses = predict(CFG, tuned, test.tokens, batch=32)
    assert score(guesses, test.labels, 2) == (1.0, 1.0, 1.0)
    assert len(ticks) == SETTING.epochs
    jax.tree.map(np.testing.assert_array_equal, before, params)
    # The same seed gives the same parameters, another one others.
    again = finetune(CFG, params, train, 2, 1e-2, 0, SETTING)
    jax.tree.map(np.testing.assert_array_equal, tuned, again)
    other = finetune(CFG, params, train, 2, 1e-2, 1, SETTING)
    assert not np.array_equal(tuned["classifier"]["kernel"], other["classifier"]["kernel"])


def test_a_constant_label_gives_the_majority_and_no_more():
    params = model.init(CFG, jax.random.key(0))
    train, test = toy(256, 0, constant=True), toy(100, 1)
    tuned = finetune(CFG, params, train, 2, 1e-2, 0, SETTING)
    guesses = predict(CFG, tuned, test.tokens)
    np.testing.assert_array_equal(guesses, majority(train.labels, 100))
    got = score(guesses, test.labels, 2)
    assert got.accuracy == test.labels.mean() and got.matthews == 0


def test_a_rate_that_diverges_is_named():
    with pytest.raises(LabError, match="diverged in epoch 1 at rate 1e\\+30"):
        finetune(CFG, model.init(CFG, jax.random.key(0)), toy(256, 0), 2, 1e30, 0, SETTING)


def test_scores_are_the_textbook_ones():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    guesses = np.array([1, 1, 0, 1, 0, 0, 0, 0])
    got = score(guesses, labels, 2)
    tp, fp, fn, tn = 2, 1, 1, 4
    assert got.accuracy == 6 / 8
    assert got.f1 == pytest.approx(2 / 3)
    assert got.matthews == pytest.approx(np.corrcoef(labels, guesses)[0, 1])
    assert got.matthews == pytest.approx((tp * tn - fp * fn) / math.sqrt(3 * 3 * 5 * 5))
    assert score(np.zeros(8, int), labels, 2) == (5 / 8, 0, 0)
    several = score(np.array([2, 1]), np.array([2, 0]), 3)
    assert several.accuracy == 0.5 and math.isnan(several.f1) and math.isnan(several.matthews)


@pytest.fixture(scope="module")
def layout():
    tokenizer = train_tokenizer(documents("aa"), 300)
    return build_layout(LayoutConfig.clones(("aa", "aa#1"), tokenizer.hash), {tokenizer.hash: tokenizer})


TASK = Task(
    "made up",
    train=tuple(Labelled(("pagi do", "la" * (1 + i)), i % 2) for i in range(10)),
    evaluation=(Labelled(("do", "pa"), 0), Labelled(("do", "pa " * 40), 1)),
    classes=2,
)


def test_segments_end_with_an_end_of_document_and_padding_follows(layout):
    got = encode(TASK, layout, "aa", Setting(length=30), context=64)
    tokens = got.evaluation.tokens[0]
    text = [*layout.encode("aa", "do"), EOD, *layout.encode("aa", "pa"), EOD]
    assert tokens.tolist() == text + [0] * (30 - len(text))
    assert got.evaluation.tokens.shape[1] == got.train.tokens.shape[1] == 30  # the long text is cut there
    assert got.cut == 1 / 12
    assert got.train.labels.tolist() == [0, 1] * 5
    # A clone reads the same pieces in its own ids, padding excepted.
    clone = encode(TASK, layout, "aa#1", Setting(length=30), context=64)
    np.testing.assert_array_equal(clone.train.tokens, np.where(got.train.tokens > 0, got.train.tokens + 300, 0))


def test_sequences_are_no_longer_than_their_longest_text_or_the_context(layout):
    short = Task("short", TASK.train, TASK.evaluation[:1], 2)
    lengths = [sum(len(layout.encode("aa", s)) + 1 for s in one.segments) for one in short.train]
    got = encode(short, layout, "aa", Setting(length=128), context=128)
    assert got.train.tokens.shape[1] == max(lengths) and got.cut == 0
    narrow = encode(short, layout, "aa", Setting(length=128), context=12)
    assert narrow.train.tokens.shape[1] == 12
    assert narrow.cut == pytest.approx(np.mean([*(n > 12 for n in lengths), False]))


def test_at_most_so_many_examples_are_drawn_always_the_same(layout):
    got = [encode(TASK, layout, name, Setting(examples=4), 64).train.labels for name in ("aa", "aa#1", "aa")]
    assert len(got[0]) == 4
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[0], got[2])


def write(folder, name, *lines):
    (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def glue(tmp_path):
    write(tmp_path, "CoLA_in_domain_train.tsv", 'gj04\t1\t\tIt "works.', "gj04\t0\t*\tWorks it.")
    write(tmp_path, "CoLA_in_domain_dev.tsv", "gj04\t1\t\tIn.")
    write(tmp_path, "CoLA_out_of_domain_dev.tsv", "clc95\t0\t*\tOut.")
    write(tmp_path, "SST-2_train.tsv", "sentence\tlabel", "good \t1", "bad \t0")
    write(tmp_path, "SST-2_test.tsv", "sentence\tlabel", "fine \t1")
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    write(tmp_path, "MRPC_msr_paraphrase_train.txt", header, "1\t7\t8\tOne.\tUno.", "0\t7\t9\tOne.\tTwo.")
    write(tmp_path, "MRPC_msr_paraphrase_test.txt", header, "1\t1\t2\tA.\tB.")
    return tmp_path


def test_published_files_are_read(glue):
    cola = read_task("CoLA", glue)
    assert cola.train[0] == Labelled(('It "works.',), 1)
    assert cola.evaluation == (Labelled(("In.",), 1), Labelled(("Out.",), 0))
    assert read_task("MRPC", glue).train == (Labelled(("One.", "Uno."), 1), Labelled(("One.", "Two."), 0))
    assert read_task("SST-2", glue).evaluation == (Labelled(("fine ",), 1),)
    assert cola.hash == read_task("CoLA", glue).hash
    write(glue, "CoLA_in_domain_dev.tsv", "gj04\t1\t\tIn!")
    assert cola.hash != read_task("CoLA", glue).hash


def test_bad_files_are_named(glue):
    write(glue, "CoLA_in_domain_train.tsv", "gj04\t1\t\tIt.", "gj04\tmaybe\t\tWorks it.")
    with pytest.raises(LabError, match=r"Line 2 of .*CoLA_in_domain_train\.tsv has the unknown label 'maybe'"):
        read_task("CoLA", glue)
    write(glue, "SST-2_test.tsv", "sentence\tlabel", "fine")
    with pytest.raises(LabError, match=r"Line 2 of .*SST-2_test\.tsv has 1 columns, not 2"):
        read_task("SST-2", glue)
    (glue / "MRPC_msr_paraphrase_test.txt").unlink()
    with pytest.raises(LabError, match=r"MRPC_msr_paraphrase_test\.txt cannot be read"):
        read_task("MRPC", glue)
    with pytest.raises(LabError, match=r"Unknown task 'WNLI'.*tfds:glue"):
        read_task("WNLI", glue)
    with pytest.raises(LabError, match="--glue FOLDER"):
        read_task("CoLA")


def test_labels_that_nothing_teaches_are_refused():
    known = [Labelled(("a",), 0), Labelled(("b",), 1)]
    with pytest.raises(LabError, match=r"evaluation examples of x have the unknown label 2; known are \[0, 1\]"):
        checked("x", known, [Labelled(("c",), 2)])
    with pytest.raises(LabError, match=r"training labels of x are \[1\]"):
        checked("x", known[1:], known)
    with pytest.raises(LabError, match="no evaluation example"):
        checked("x", known, [])


def test_tfds_sets_are_read_by_name(monkeypatch):
    splits = {
        "train": [{"hypothesis": b"h", "premise": b"p", "idx": 0, "label": i} for i in (0, 1, 2)],
        "validation_matched": [{"hypothesis": b"x", "premise": b"y", "idx": 0, "label": 1}],
    }
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(splits=splits), as_dataset=lambda split, shuffle_files: splits[split]
    )
    fake = types.SimpleNamespace(builder_from_directory=lambda folder: builder, as_numpy=lambda data: data)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    monkeypatch.setattr(corpora, "_tfds_folder", lambda name, data_dir: data_dir)
    task = read_task("tfds:glue/mnli")
    assert task.classes == 3 and task.train[2] == Labelled(("p", "h"), 2)
    assert task.evaluation == (Labelled(("y", "x"), 1),)
    splits["validation_matched"][0]["label"] = -1
    with pytest.raises(LabError, match="unknown label -1 in its validation split"):
        read_task("tfds:glue/mnli")
    del splits["validation_matched"]
    with pytest.raises(LabError, match="no split 'validation'"):
        read_task("tfds:glue/mnli")
