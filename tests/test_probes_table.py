"""`lab probe` on trained runs of two languages: what it writes, what it leaves, and what it refuses."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pandas as pd
import pytest
import tiny
from test_train import Silent

from lab import lineage, model, step
from lab.cli import main
from lab.commands.probe import Probe
from lab.data.prepare import open_prepared
from lab.data.store import StoreHeader, write_store
from lab.data.vocabulary import EOD, train_tokenizer
from lab.errors import LabError
from lab.evaluate import finetune
from lab.lineage import kept_params
from lab.pack import marks_of, plan_pack
from lab.probe_table import COLUMNS, ProbeTable, Subject
from lab.probes import Prober, Settings
from lab.records import RunDir
from lab.rundata import open_run
from lab.sharding import make_mesh
from lab.train import STEPS_PER_DISPATCH, Execution, train
from sweeps.study import Arm

STUDY = "made-up"
EARLY = 0.25
CLONES, NOVELS, BIBLES = "clone", "l2 without parallel text", "l2 with parallel text"


def parallel_stores(root):
    """Two corpora whose probe verses share keys."""
    for language in ("aa", "bb"):
        texts = tiny.documents(language)
        tokenizer = train_tokenizer(texts, tiny.VOCAB)
        header = StoreHeader(
            corpus=f"bible:{language}",
            language=language,
            licence="none",
            release="1",
            parallel="bible",
            split_rule="made up",
            tokenizer=tokenizer.hash,
            piece_bytes=tuple(tokenizer.byte_lengths.tolist()),
        )
        words = texts[0].split()
        parts = [("probe", f"verse {i}", " ".join(words[3 * i : 3 * i + 3])) for i in range(25)]
        parts += [("test" if i % 6 == 0 else "train", f"chapter {i}", text) for i, text in enumerate(texts)]
        records = ((split, key, np.array([*tokenizer.encode(text), EOD])) for split, key, text in parts)
        folder = root / "data" / "stores" / f"bible-{language}"
        source = write_store(folder, header, records, tokenizer.files()).source
        yield language, source


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root with a finished run of each kind, and their arms."""
    root = tmp_path_factory.mktemp("probed")
    data = tiny.prepared(root)
    clone = tiny.run(data, ("aa", "aa#1"), steps=8)
    pair = tiny.run(data, ("aa", "bb"), steps=8)
    bibles = dict(parallel_stores(root))
    components = tuple(dataclasses.replace(c, source=bibles[c.language]) for c in pair.mixture.components)
    bible = dataclasses.replace(pair, mixture=dataclasses.replace(pair.mixture, components=components))
    runs = [clone, pair, bible]
    plan = plan_pack(runs, 1, STEPS_PER_DISPATCH, marks_of(runs, probed={clone.run_id: [clone.at(EARLY)]}))
    train(runs, Execution(root, 1, 1e9), Silent(), plan)
    waiting = dataclasses.replace(clone, seed_init=1)
    alone = tiny.run(data, ("aa",), steps=8)
    names = (CLONES, NOVELS, BIBLES, CLONES, "l1")
    runs = [clone, pair, bible, waiting, alone]
    return root, tuple(Arm(n, r, probed=(EARLY,) if n == CLONES else ()) for n, r in zip(names, runs, strict=True))


@pytest.fixture
def probe(trained, tmp_path, monkeypatch):
    """Runs `lab probe` on the arms below a root of its own; returns the exit code and the table."""
    root, arms = trained
    for name in ("data", "runs"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.setattr("lab.devices.prepare_process", lambda: None)  # jax is here already
    monkeypatch.setattr(Probe, "labelled_arms", lambda self: (STUDY, arms))

    def run(*arguments):
        code = main(["probe", "made_up", "--root", str(tmp_path), *arguments])
        return code, ProbeTable(STUDY, tmp_path).read()

    return run


def test_the_table_has_every_probe_of_a_clone(probe, trained, capsys):
    code, table = probe("--arms", CLONES)
    assert code == 0
    assert "3 measured in 1 runs, 0 were there" in capsys.readouterr().out
    assert list(table.columns) == list(COLUMNS)
    root, (arm, *_) = trained
    assert set(table.run_id) == {arm.run.run_id} and set(table.arm) == {CLONES} and set(table.study) == {STUDY}
    assert set(table.language) == {"aa#1"} and set(table.pair) == {"aa aa#1"}
    assert table.value.between(-1, 1).all() and (table.n > 0).all()

    data = open_run(arm.run, root)
    params = kept_params(arm.run, root, data.layout.hash)
    embeddings = {"input": params["embed"]["tokens"], "output": params["head"]["kernel"].T}
    v = tiny.VOCAB
    for name, rows in embeddings.items():
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        own = table[(table.probe == f"{name} embedding") & (table.place == "all")].set_index("condition")
        assert own.value["pairs"] == pytest.approx((unit[1:v] * unit[v + 1 :]).sum(1).mean(), abs=1e-6)
        both = np.delete(unit, v, axis=0)  # the clone has no padding of its own
        assert own.value["all pairs"] == pytest.approx((both @ both.T).mean(), abs=1e-6)
        assert dict(own.n) == {"pairs": v - 1, "all pairs": 2 * v - 1}
        bins = table[(table.probe == f"{name} embedding") & (table.place != "all")]
        seen = np.concatenate([data.stream.batch(i).tokens_BxT1[:, 1:].ravel() for i in range(arm.run.steps)])
        assert bins.n.sum() == len({i % v for i in seen.tolist()} - {0})
        assert set(bins.place) <= {f"{0.25 * k:g}" for k in range(20)}

    assert set(table[table.probe == "hidden state"].place) == {"1"}
    gradient = table[table.probe == "gradient"]
    assert set(gradient.condition) == {"pairs", "random pairs", "split halves", "pooled pairs"}
    cells = gradient[gradient.condition == "pairs"].set_index("place").value
    assert len(cells) == 17 and cells["all"] == pytest.approx(cells.drop("all").mean())
    assert cells["mlp.in.kernel/1"] < 0.9  # eight steps make no twins


def test_what_is_there_is_not_measured_again(probe, capsys, monkeypatch):
    _, first = probe("--arms", CLONES, "--probes", "hidden")
    monkeypatch.setattr("lab.evaluate.hidden.layer_cosines", None)
    monkeypatch.setattr(lineage, "kept_params", None)
    code, again = probe("--arms", CLONES, "--probes", "hidden")
    assert code == 0 and "0 measured in 1 runs, 1 were there" in capsys.readouterr().out
    pd.testing.assert_frame_equal(first, again)


def test_a_run_is_probed_where_its_arm_kept_it(probe, capsys):
    _, end = probe("--arms", CLONES, "--probes", "embedding")
    code, both = probe("--arms", CLONES, "--probes", "embedding", "--at", str(EARLY))
    assert code == 0 and set(both["at"]) == {EARLY, 1.0}
    pd.testing.assert_frame_equal(both[both["at"] == 1].reset_index(drop=True), end)
    # Two of eight steps: a quarter of the text has been counted.
    counted = both[(both.probe == "input embedding") & (both.place != "all")].groupby("at").n.sum()
    assert counted[EARLY] < counted[1]
    assert probe("--arms", CLONES, "--at", ".5")[0] == 1
    assert "is kept after a share of 0.5 of its run. They are after 0, 0.25, 1." in capsys.readouterr().err


def test_another_text_replaces_what_was_measured(probe, tmp_path):
    _, before = probe("--arms", CLONES, "--probes", "embedding", "hidden")
    for name, language in (("a.txt", "aa"), ("b.txt", "bb")):
        (tmp_path / name).write_text("".join(text[:12] + "\n" for text in tiny.documents(language)))
    files = ("--parallel", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    _, after = probe("--arms", CLONES, "--probes", "hidden", *files)
    kept = [t[t.probe != "hidden state"].reset_index(drop=True) for t in (before, after)]
    pd.testing.assert_frame_equal(*kept)
    states = after[after.probe == "hidden state"]
    assert len(states) == 2 and states.text.str.startswith("a.txt and b.txt ").all()


def test_hidden_states_of_corpora_that_are_not_parallel_are_refused(probe, capsys):
    code, table = probe("--arms", NOVELS, BIBLES, "--probes", "hidden")
    assert code == 1
    said = capsys.readouterr().err
    assert "error: tiny:aa and tiny:bb are not parallel texts." in said and "--parallel A B" in said
    # The other arm is measured all the same, and its text is named.
    assert set(table.arm) == {BIBLES} and table.text.str.startswith("verses of bible:aa").all()
    assert len(table) == 2 and table.n.between(2, 25).all()


def test_files_of_parallel_lines_stand_in(probe, tmp_path):
    for name, language in (("a.txt", "aa"), ("b.txt", "bb")):
        (tmp_path / name).write_text("".join(text[:12] + "\n" for text in tiny.documents(language)))
    arguments = ("--probes", "hidden", "gradient", "--parallel", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    code, table = probe("--arms", NOVELS, *arguments)
    assert code == 0 and set(table.probe) == {"hidden state", "gradient"} and set(table.language) == {"bb"}


def test_rows_of_a_real_second_language_are_no_pairs(probe):
    code, table = probe("--arms", BIBLES, "--probes", "embedding", "word2vec")
    assert code == 0 and table.empty


def test_word2vec_is_trained_on_what_the_run_read(probe):
    pytest.importorskip("gensim", reason="gensim comes with the extra `probes`")
    code, table = probe("--arms", CLONES, "--probes", "word2vec")
    assert code == 0
    assert set(zip(table.probe, table.condition, strict=True)) == {
        (f"{kind} {end}", c)
        for kind in ("word2vec", "word2vec shared")
        for end in ("input", "output")
        for c in ("pairs", "all pairs")
    }
    # Pieces that were read in both languages have a pair, and no others.
    assert 0 < table[table.condition == "pairs"].n.min() < tiny.VOCAB - 1


def test_a_clone_that_no_model_has_is_refused(probe, trained, capsys):
    assert probe("--pair", "aa", "aa#7")[0] == 1
    assert f"No model of {STUDY} reads both aa and aa#7. Its arms read aa, aa#1, bb." in capsys.readouterr().err
    assert probe("--arms", "clone 99 %")[0] == 1
    assert "has no arm 'clone 99 %'" in capsys.readouterr().err
    assert probe("--arms", "l1")[0] == 1
    assert "reads two languages" in capsys.readouterr().err
    root, (arm, *_) = trained
    subject = Subject(STUDY, arm.name, arm.run, root, ("aa", "aa#7"))
    with pytest.raises(LabError, match="The model has no language 'aa#7': it has read aa, aa#1"):
        Prober(Settings()).units(subject, "embedding")


def test_fine_tuning_needs_its_files(probe, capsys):
    assert probe("--arms", CLONES, "--probes", "finetune")[0] == 1
    assert "--glue FOLDER" in capsys.readouterr().err


def test_fine_tuning_writes_every_baseline(trained, tmp_path):
    root, (arm, *_) = trained
    for name, n in (("train", 40), ("test", 30)):
        texts = [(text[:6], i % 3 == 0) for i, text in enumerate(tiny.documents("aa", n))]
        lines = "".join(f"{text}\t{int(label)}\n" for text, label in texts)
        (tmp_path / f"SST-2_{name}.tsv").write_text("sentence\tlabel\n" + lines)
    settings = Settings(tasks=("SST-2",), glue=tmp_path, tuning=finetune.Setting(epochs=1, batch=20))
    subject = Subject(STUDY, arm.name, arm.run, root, ("aa", "aa#1"))
    prober = Prober(settings)
    (unit,) = prober.units(subject, "finetune")
    readings = pd.DataFrame(unit.measure(lambda: None))
    accuracy = readings[readings.probe == "finetune"]
    counts = accuracy.groupby(["condition", "language"]).replicate.agg(list).to_dict()
    seeds = [0, 1, 2]
    assert counts == {
        ("majority", "aa"): [0],
        ("majority", "aa#1"): [0],
        ("model", "aa"): seeds,
        ("model", "aa#1"): seeds,
        ("random init", "aa"): seeds,
        ("random init", "aa#1"): seeds,
        ("fine-tuned in the clone", "aa#1"): seeds,
    }
    assert accuracy[accuracy.condition == "majority"].value.tolist() == [20 / 30, 20 / 30]
    assert set(accuracy.place) == {"SST-2"} and set(accuracy.n) == {30}
    assert set(readings.probe) == {"finetune", "finetune f1", "finetune matthews", "finetune cut"}
    # What another run shares with this one is not trained again.
    assert len(prober._untrained) == 1


def test_parameters_are_those_that_training_ended_with(trained, tmp_path):
    root, (arm, *_) = trained
    data = open_run(arm.run, root)
    params = kept_params(arm.run, root, data.layout.hash)
    evalset = next(iter(data.evaluation.values()))
    ids = evalset.mapped(data.layout.table("aa"))
    n = (len(ids) - 1) // tiny.CONTEXT
    tokens, targets = (ids[k : k + n * tiny.CONTEXT].reshape(n, -1) for k in (0, 1))
    nats = np.asarray(jax.jit(model.token_nats, static_argnums=0)(arm.run.model, params, tokens, targets))
    result = RunDir(root, arm.run.run_id).result()
    assert result is not None
    assert nats.mean() == pytest.approx(result["evaluations"][0]["loss"], rel=1e-3)
    with pytest.raises(LabError, match="has kept no parameters of step 8 of 8"):
        kept_params(arm.run, tmp_path, data.layout.hash)


def test_parameters_are_found_in_a_whole_state_too(trained, tmp_path):
    run = trained[1][0].run
    state = step.init_state(step.Program(run.model, make_mesh()), [7])
    with lineage.kept(RunDir(tmp_path, run.run_id), run.model, "layout") as checkpoints:
        lineage.keep(checkpoints, run.steps, state, "state", "examples")
    got = kept_params(run, tmp_path, "layout")
    jax.tree.map(np.testing.assert_array_equal, got, jax.tree.map(lambda x: x[0], state.params))
    with pytest.raises(LabError, match="is of another model: layout 'layout' instead of 'other'"):
        kept_params(run, tmp_path, "other")


def test_a_study_that_was_not_trained_is_refused(probe, tmp_path, capsys):
    (tmp_path / "runs").unlink()
    assert probe()[0] == 1
    assert "Run `lab sweep run made_up` first" in capsys.readouterr().err


def test_a_table_of_another_version_is_refused(trained, tmp_path):
    table = ProbeTable(STUDY, tmp_path)
    table.path.parent.mkdir()
    pd.DataFrame({"run_id": ["x"]}).to_parquet(table.path)
    with pytest.raises(LabError, match="another version: its columns are run_id"):
        table.read()
    table.path.write_bytes(b"half a table")
    with pytest.raises(LabError, match="no parquet table"):
        table.read()


def test_verses_come_from_the_stores(trained):
    root, (_, _, arm, *_) = trained
    prepared = open_prepared([c.source for c in arm.run.mixture.components], root)
    assert all(len(s.keys("probe")) == 25 for s in prepared.stores.values())
    subject = Subject(STUDY, arm.name, arm.run, root, ("aa", "bb"))
    (unit,) = Prober(Settings()).units(subject, "hidden")
    values = {r.condition: r.value for r in unit.measure(lambda: None)}
    assert set(values) == {"pairs", "random pairs"} and all(math.isfinite(v) for v in values.values())
