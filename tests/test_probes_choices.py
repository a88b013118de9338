"""Minimal pairs and cloze questions: what is right, what chance is, and what `lab probe` writes of runs of any kind."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from test_parents import child_of, joint, source_run
from test_train import Silent

from lab import model
from lab.cli import main
from lab.commands.probe import Probe
from lab.config import LayoutConfig, ModelConfig
from lab.data.evalset import EvalSet
from lab.data.suites import BLIMP_PARADIGMS, CLAMS_PARADIGMS, PAIRS, read_suites
from lab.errors import LabError
from lab.evaluate import choices
from lab.evaluate.distance import dial_setting
from lab.pack import marks_of, plan_pack
from lab.probe_choices import speaks
from lab.probe_table import COLUMNS, ProbeTable
from lab.train import STEPS_PER_DISPATCH, Execution, train
from sweeps.study import Arm

CFG = ModelConfig("gpt2", 16, 1, 1, 16, 32, 300, 16)
STUDY = "made-up"
SOURCE, CPT, OTHER = "source", "cpt", "scratch"


def words(language, n):
    """Pairs of words that follow each other in the made-up language, and the same two the wrong way round."""
    text = tiny.documents(language)[0].replace(".\n", "").split()
    known = set(itertools.pairwise(text))
    return [(f"{a} {b}", f"{b} {a}") for a, b in itertools.pairwise(text) if (b, a) not in known][:n]


def clams(folder, language="aa", n=8, change=lambda name, lines: lines):
    for k, name in enumerate(CLAMS_PARADIGMS):
        lines = [line for good, bad in words(language, n)[k // 3 :] for line in (f"True\t{good}", f"False\t{bad}")]
        path = folder / "clams" / language / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(change(name, lines)))
    return folder / "clams"


def blimp(folder, files=BLIMP_PARADIGMS, n=3):
    (folder / "blimp").mkdir(parents=True)
    for k in range(files):
        lines = [json.dumps({"sentence_good": g, "sentence_bad": b, "UID": f"p{k}"}) for g, b in words("aa", n)]
        (folder / "blimp" / f"p{k}.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "blimp"


def taught(rows, cfg=CFG, steps=150):
    """A model that has learned rows of ids [n, tokens] by heart, and how it began."""
    begun = model.init(cfg, jax.random.key(0))
    optimiser = optax.adam(2e-2)

    @jax.jit
    def update(state, _):
        params, opt = state
        grads = jax.grad(lambda p: model.mean_nats(cfg, p, rows[:, :-1], rows[:, 1:], compute_dtype=jnp.float32))(
            params
        )
        updates, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    (params, _), _ = jax.lax.scan(update, (begun, optimiser.init(begun)), length=steps)
    return params, begun


def silent(params):
    """The same model, to which all tokens are equally likely."""
    return {**params, "head": {"kernel": jnp.zeros_like(params["head"]["kernel"])}}


# What is read


def test_folders_and_archives_are_the_same(tmp_path) -> None:
    folders = [blimp(tmp_path), clams(tmp_path)]
    clams(tmp_path, "bb")
    (tmp_path / "clams" / "readme.txt").write_text("not a paradigm")
    archives = []
    for folder in folders:
        archives.append(tmp_path / f"{folder.name}.tar.xz")
        with tarfile.open(archives[-1], "w:xz") as archive:
            archive.add(folder, folder.name)
    suites = read_suites(folders)
    assert read_suites(archives) == suites == read_suites([tmp_path])
    assert [(s.name, s.language, len(s.phenomena)) for s in suites] == [
        ("BLiMP", "en", 67), ("CLAMS", "aa", 7), ("CLAMS", "bb", 7),
    ]  # fmt: skip
    assert suites[1].phenomena["long_vp_coord"] == tuple(words("aa", 8))
    assert len({s.hash for s in suites}) == 3


def test_of_many_pairs_always_the_same_are_drawn(tmp_path) -> None:
    many = lambda name, _: [f"{mark}\t{i} {mark}" for i in range(700) for mark in ("True", "False")]  # noqa: E731
    (suite,) = read_suites([clams(tmp_path, change=many)])
    (again,) = read_suites([tmp_path / "clams"])
    drawn = suite.phenomena["subj_rel"]
    assert suite == again and len(drawn) == PAIRS and drawn != tuple((f"{i} True", f"{i} False") for i in range(PAIRS))
    numbers = [int(good.split()[0]) for good, _ in drawn]
    assert numbers == sorted(set(numbers)) and all(bad == good.replace("True", "False") for good, bad in drawn)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "subj_rel.txt is empty"),
        (["True\ta b"], "ends with half a pair"),
        (["True\ta b", "True\tb a"], "Line 2 of .*subj_rel.txt is not False with a sentence"),
        (["True\ta b", "False\t"], "Line 2 of .*subj_rel.txt is not False"),
    ],
)
def test_damaged_files_are_refused(tmp_path, lines, said) -> None:
    folder = clams(tmp_path, change=lambda name, good: lines if name == "subj_rel" else good)
    with pytest.raises(LabError, match=said):
        read_suites([folder])


def test_what_is_not_whole_is_refused(tmp_path) -> None:
    with pytest.raises(LabError, match="BLiMP has 67 paradigms; 66 are here"):
        read_suites([blimp(tmp_path / "a", 66)])
    folder = clams(tmp_path / "b")
    with pytest.raises(LabError, match="CLAMS aa has long_vp_coord twice"):
        read_suites([folder, folder])
    (folder / "aa" / "prep_anim.txt").unlink()
    with pytest.raises(LabError, match="CLAMS in 'aa' lacks prep_anim"):
        read_suites([folder])
    (tmp_path / "a" / "blimp" / "p3.jsonl").write_text('{"sentence_good": "a"}\n')
    with pytest.raises(LabError, match=r"Line 1 of .*p3\.jsonl has no `sentence_good` and `sentence_bad`"):
        read_suites([tmp_path / "a"])
    (tmp_path / "c").mkdir()
    with pytest.raises(LabError, match="c holds no minimal pairs"):
        read_suites([tmp_path / "c"])
    with pytest.raises(LabError, match="There is no file or folder"):
        read_suites([tmp_path / "d.tar.xz"])
    (tmp_path / "e.tar.xz").write_bytes(b"half an archive")
    with pytest.raises(LabError, match=r"e\.tar\.xz cannot be read as an archive"):
        read_suites([tmp_path / "e.tar.xz"])


def test_tags() -> None:
    assert speaks("en", "en") and speaks("en-GB", "en")
    assert not any(speaks(tag, "en") for tag in ("enm", "en-x-derived", "und", "fr"))


# What is right


def test_nats_are_those_of_the_whole_distribution() -> None:
    """Whatever the batch and the length of its rows, and of the continuation alone."""
    rng = np.random.default_rng(0)
    cfg = dataclasses.replace(CFG, context=40)
    params = model.init(cfg, jax.random.key(1))
    params = jax.tree.map(lambda x: x * 8 if x.ndim == 2 else x, params)
    lengths = [(1, 3), (5, 11), (1, 16), (9, 9), (1, 40), (39, 1)]
    texts = [(rng.integers(1, 300, a), rng.integers(1, 300, b)) for a, b in lengths]
    got = choices.summed_nats(cfg, params, texts)
    logits_of = jax.jit(functools.partial(model.apply, cfg, compute_dtype=jnp.float32))
    for (context, text), nats in zip(texts, got, strict=True):
        whole = np.zeros(cfg.context + 1, np.int32)
        whole[: len(context) + len(text)] = [*context, *text]
        logits = np.asarray(logits_of(params, whole[None, :-1])[0], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        scored = np.arange(len(context) - 1, len(context) + len(text) - 1)
        assert nats == pytest.approx(-log_p[scored, whole[scored + 1]].sum(), rel=1e-4)
    assert not np.allclose(got[:-1], got[1:])


def test_a_model_that_knows_the_good_sentences_is_right(data, tmp_path) -> None:
    layout = data.layout(LayoutConfig.disjoint(("aa",), (data.tokenizer("tiny:aa").hash,)))
    (suite,) = read_suites([clams(tmp_path, n=12)])
    questions = choices.encoded_pairs(suite, layout, "aa", CFG.context)
    every = [one for some in questions.values() for one in some]
    assert all(one.context.tolist() == [2] for one in every)  # an end of document
    rows = np.zeros((len(every), CFG.context + 1), np.int32)
    for row, one in zip(rows, every, strict=True):
        row[: 1 + len(one.options[0])] = [2, *one.options[0]]
    params, begun = taught(rows, steps=300)
    known, unknown = (choices.minimal_pairs(CFG, p, questions) for p in (params, begun))
    assert set(known) == set(CLAMS_PARADIGMS) and known["simple_agrmt"].n == len(questions["simple_agrmt"])
    assert all(one.value > 0.9 for one in known.values())
    assert np.mean([one.value for one in unknown.values()]) == pytest.approx(0.5, abs=0.25)
    turned = {name: [one._replace(options=one.options[::-1]) for one in some] for name, some in questions.items()}
    other = choices.minimal_pairs(CFG, params, turned)
    assert all(other[name].value == pytest.approx(1 - one.value) for name, one in known.items())
    twins = {"twins": [one._replace(options=[one.options[0]] * 2) for one in every]}
    assert choices.minimal_pairs(CFG, params, twins)["twins"].value == 0.5
    # To whom all tokens are alike, the shorter sentence is likelier, and two of one length are.
    even = {n: [q for q in qs if len(q.options[0]) == len(q.options[1])] for n, qs in questions.items()}
    assert all(one.value == 0.5 for one in choices.minimal_pairs(CFG, silent(begun), even).values())


def made_up_evalset(documents=8, length=400, types=30):
    """Documents that each have types of their own."""
    rng = np.random.default_rng(0)
    texts = [np.append(rng.integers(3 + types * d, 3 + types * (d + 1), length - 1), 2) for d in range(documents)]
    offsets = np.arange(documents + 1) * length
    return EvalSet("made-up", np.concatenate(texts), offsets, np.ones(documents * length, np.int32), (), "hash")


def test_cloze_items_are_of_one_and_of_other_documents() -> None:
    evalset = made_up_evalset()
    items = choices.cloze_items(evalset, 40)
    assert items.contexts_NxC.shape == (500, 20) and items.options_Nx4xK.shape == (500, 4, 16)
    document = lambda ids: (ids - 3) // 30  # noqa: E731
    own = document(items.contexts_NxC[:, :1])
    assert (document(items.contexts_NxC) == own).all() and (document(items.options_Nx4xK[:, 0]) == own).all()
    others = document(items.options_Nx4xK[:, 1:])
    assert (others == others[:, :, :1]).all() and (others[:, :, 0] != own).all()
    assert (items.options_Nx4xK > 2).all()  # no end of document gives one away
    text = evalset.ids.tolist()
    for context, options in zip(items.contexts_NxC[:5], items.options_Nx4xK[:5], strict=True):
        whole = [*context, *options[0]]
        assert any(text[i : i + 36] == whole for i in range(len(text)))
    # Every document is as likely to give a wrong continuation as to give a question.
    counts = np.bincount(others[:, :, 0].ravel(), minlength=8)
    assert counts.min() > 120 and counts.max() < 260
    again = choices.cloze_items(evalset, 40)
    np.testing.assert_array_equal(items.options_Nx4xK, again.options_Nx4xK)
    short = choices.cloze_items(evalset, 16)
    assert short.contexts_NxC.shape[1] == short.options_Nx4xK.shape[2] == 8
    with pytest.raises(LabError, match="has no two documents of 37 tokens or more"):
        choices.cloze_items(made_up_evalset(documents=1), 40)


def test_a_model_that_knows_the_documents_is_right() -> None:
    evalset = made_up_evalset()
    rows = evalset.ids.reshape(-1, 16)[:, :16]
    params, begun = taught(rows)
    items, table = choices.cloze_items(evalset, CFG.context), np.arange(300)
    score = functools.partial(choices.cloze, CFG, items=items, table=table)
    assert score(params=params).value > 0.8
    assert score(params=begun).value == pytest.approx(0.25, abs=0.1)
    assert score(params=silent(begun)) == (0.25, 500)


def test_dials() -> None:
    half = "derived:text:en.txt?split=blank2&half=a"
    other = "derived:text:en.txt?split=blank2&half=b"
    assert dial_setting(half, other, None) == 0
    assert dial_setting(half, other, 0.25) == 0.25
    assert dial_setting(half, f"{other}&spelling=0.5", None) == 0.5
    assert dial_setting(half, f"{other}&order=swap:0.3", None) == 0.3
    assert dial_setting(half, f"{other}&order=reverse", None) == 1
    assert dial_setting("embedded:en", "derived:embedded:en?order=swap", None) == 1
    assert dial_setting("text:en.txt", "text:fr.txt", None) is None
    assert dial_setting(half, "text:fr.txt", None) is None
    assert dial_setting("embedded:en", "embedded:en", None) is None  # a clone


# What is written


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A source, a run that goes on from it in a derived language, and one of another language alone."""
    root = tmp_path_factory.mktemp("chosen")
    data = tiny.prepared(root)
    parent = source_run(data, 8)
    child = child_of(data, parent, joint(data, renamed=0.5), (0.0, 1.0), steps=4)
    other = tiny.run(data, ("bb",), steps=4)
    for run in (parent, child, other):
        train([run], Execution(root, 1, 1e9), Silent(), plan_pack([run], 1, STEPS_PER_DISPATCH, marks_of([run, child])))
    return root, (Arm(SOURCE, parent), Arm(CPT, child), Arm(OTHER, other))


@pytest.fixture
def probe(trained, tmp_path, monkeypatch):
    root, arms = trained
    for name in ("data", "runs"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.setattr("lab.devices.prepare_process", lambda: None)  # jax is here already
    monkeypatch.setattr(Probe, "labelled_arms", lambda self: (STUDY, arms))

    def run(*arguments):
        code = main(["probe", "made_up", "--root", str(tmp_path), "--probes", *arguments])
        return code, ProbeTable(STUDY, tmp_path).read()

    return run


def test_runs_of_one_language_have_choices(probe, tmp_path, capsys) -> None:
    suites = ("--suites", str(clams(tmp_path)))
    code, table = probe("choices", *suites)
    assert code == 0 and list(table.columns) == list(COLUMNS)
    assert "7 measured in 3 runs, 0 were there" in capsys.readouterr().out
    assert (table.pair == table.language).all() and set(table.study) == {STUDY}
    pairs = table[table.probe == "minimal pairs"]
    # `aa` is what its corpus says it is; no suite is in `bb`, and `target` reads the corpus of `aa`.
    assert set(zip(pairs.arm, pairs.language, strict=True)) == {(SOURCE, "aa"), (CPT, "aa"), (CPT, "target")}
    assert set(zip(pairs.place, pairs.condition, strict=True)) == {("CLAMS", "model"), ("CLAMS", "chance")}
    assert set(pairs.value[pairs.condition == "chance"]) == {0.5}
    each = table[table.probe == "minimal pairs by phenomenon"]
    assert set(each.place) == {f"CLAMS/{name}" for name in CLAMS_PARADIGMS}
    mean = each.groupby(["arm", "language"]).value.mean()
    models = pairs[pairs.condition == "model"].set_index(["arm", "language"])
    assert models.value.sort_index().tolist() == pytest.approx(mean.sort_index().tolist())
    assert models.n.tolist() == each.groupby(["arm", "language"]).n.sum().tolist()
    cloze = table[table.probe == "cloze"]
    assert set(zip(cloze.arm, cloze.language, strict=True)) == {
        (SOURCE, "aa"), (CPT, "aa"), (CPT, "target"), (OTHER, "bb"),
    }  # fmt: skip
    assert set(cloze.value[cloze.condition == "chance"]) == {0.25} and set(cloze.place) == {"cloze"}
    assert probe("choices", *suites)[0] == 0
    assert "0 measured in 3 runs, 7 were there" in capsys.readouterr().out
    # Another suite takes the place of the one before; cloze questions stay.
    _, after = probe("choices", "--suites", str(clams(tmp_path / "other", n=9)))
    assert len(after) == len(table) and (after.text != table.text).sum() == 3 * 9


def test_what_a_run_began_with_is_its_parent(probe) -> None:
    _, end = probe("choices", "--arms", SOURCE)
    code, table = probe("choices", "--arms", CPT, SOURCE, "--at", "0")
    model_only = table[table.condition == "model"].set_index(["arm", "at", "language"]).value
    assert code == 0 and model_only[CPT, 0.0, "aa"] == model_only[SOURCE, 1.0, "aa"] != model_only[SOURCE, 0.0, "aa"]
    assert end[end.condition == "model"].value.tolist() == [model_only[SOURCE, 1.0, "aa"]]


def test_distances_are_measured_at_the_beginning(probe, capsys) -> None:
    code, table = probe("distance")
    assert code == 0 and "1 measured in 1 runs" in capsys.readouterr().out
    assert set(table.arm) == {CPT} and set(table["at"]) == {0.0} and set(table.pair) == {"aa target"}
    values = table.set_index(["place", "condition"]).value
    assert set(values.index) == {
        *((name, "pairs") for name in ("vocabulary overlap", "token-mass overlap", "unigram JSD", "dial setting")),
        ("gradient cosine", "pairs"), ("gradient cosine", "split halves"),
    }  # fmt: skip
    assert values["vocabulary overlap", "pairs"] == 1 and values["dial setting", "pairs"] == 0.5
    assert 0 < values["unigram JSD", "pairs"] < 1 and 0 < values["token-mass overlap", "pairs"] < 1
    assert -1 <= values["gradient cosine", "pairs"] < values["gradient cosine", "split halves"] <= 1


def test_languages_that_nobody_knows_are_refused(probe, tmp_path, capsys) -> None:
    suites = ("choices", "--suites", str(clams(tmp_path)))
    assert probe(*suites, "--suite-language", "aa=xx")[0] == 1
    assert "No suite is in 'xx', the language of aa. They are in ['aa']." in capsys.readouterr().err
    assert probe(*suites, "--suite-language", "l7=aa")[0] == 1
    assert "No model has a language or corpus 'l7'" in capsys.readouterr().err
    assert probe(*suites, "--suite-language", "aa")[0] == 1
    assert "'aa' does not say which language is which" in capsys.readouterr().err
    # A corpus that has another tag can be said to be in a suite's language.
    _, table = probe(*suites, "--arms", OTHER, "--suite-language", "tiny:bb=aa")
    assert set(table.language[table.probe == "minimal pairs"]) == {"bb"}


def test_cloze_is_measured_where_suites_cannot_be_read(probe, tmp_path, capsys) -> None:
    code, table = probe("choices", "--suites", str(tmp_path / "nowhere"))
    assert code == 1 and "There is no file or folder" in capsys.readouterr().err
    assert set(table.probe) == {"cloze"} and len(table) == 8


def test_one_language_is_no_pair(probe, capsys) -> None:
    assert probe("hidden", "--arms", SOURCE)[0] == 1
    assert "reads two languages" in capsys.readouterr().err
