"""Runs that go on from other runs on other text: what they carry, vocabularies that grow, and what does not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
from test_train import Silent

from lab import lineage, step
from lab.config import Component, LayoutConfig, MixtureConfig, OptimConfig, Parent, Stage
from lab.data.vocabulary import PAD
from lab.errors import LabError
from lab.extension import extended
from lab.pack import marks_of, plan_pack
from lab.parents import check_child
from lab.records import RunDir
from lab.rundata import open_run
from lab.sharding import make_mesh
from lab.train import STEPS_PER_DISPATCH, Execution, train

CONSTANT = OptimConfig(1e-2, "constant", warmup=0.0)


def source_run(data, steps=24, **changes):
    """The parent: one language, by itself."""
    return tiny.run(data, ("aa",), steps, optim=CONSTANT, **changes)


def child_of(data, parent, layout, shares, carry="weights", extension=None, steps=8, start=None):
    """A run on `aa` and a second language of the layout, from the parent's end."""
    languages = layout.names
    corpora = ["tiny:aa", "tiny:bb" if languages[1] == "bb" else "tiny:aa"]
    components = tuple(Component(n, data.source(c)) for n, c in zip(languages, corpora, strict=True))
    components = (dataclasses.replace(components[0], counter="replay", start=start), components[1])
    model = dataclasses.replace(parent.model, vocab=data.layout(layout).v_total)
    return dataclasses.replace(
        parent, model=model, steps=steps, mixture=MixtureConfig(components, layout, (Stage(1.0, shares),)),
        parent=Parent(parent.run_id, parent.steps, carry, extension),
    )  # fmt: skip


def merged(data):
    return LayoutConfig.merged(("aa", "bb"), (data.tokenizer("tiny:aa").hash, data.tokenizer("tiny:bb").hash))


def joint(data, **changes):
    layout = LayoutConfig.joint(("aa", "target"), data.tokenizer("tiny:aa").hash)
    first, second = layout.languages
    return LayoutConfig((first, dataclasses.replace(second, **changes)))


def go(runs, root):
    for run in runs:  # a pack each: shapes differ
        train([run], Execution(root, 1, 1e9), Silent(), plan_pack([run], 1, STEPS_PER_DISPATCH, marks_of(runs)))
    return [RunDir(root, run.run_id).result() for run in runs]


def test_moments_and_position_carried_on_are_the_run_going_on(root, data):
    """Bit for bit: Adam's moments with their count, the rate, and the examples that come next."""
    whole, parent = source_run(data, 24), source_run(data, 16)
    (component,) = parent.mixture.components
    mixture = dataclasses.replace(parent.mixture, components=(dataclasses.replace(component, start=16 * tiny.BATCH),))
    child = dataclasses.replace(parent, steps=8, mixture=mixture, parent=Parent(parent.run_id, 16, "moments"))
    afresh = dataclasses.replace(child, parent=Parent(parent.run_id, 16, "weights"))
    first, _, second, third = go([whole, parent, child, afresh], root)
    losses = [r["evaluations"][0]["loss"] for r in (first, second, third)]
    assert losses[0] == losses[1] and losses[0] != losses[2]
    assert second["run"]["group"] == child.run_id and second["run"]["parent_tokens"] == parent.tokens_seen


def test_another_reading_of_the_parents_ids_needs_no_extension(root, data):
    """A derived language follows the parent's own in the layout, in the same vocabulary."""
    parent = source_run(data)
    child = child_of(data, parent, joint(data, renamed=0.5), (0.25, 0.75))
    _, result = go([parent, child], root)
    assert {e["language"] for e in result["evaluations"]} == {"aa", "target"}
    assert result["run"]["v_total"] == parent.model.vocab


@pytest.mark.parametrize("how", ["mean", "composition", "random"])
def test_a_vocabulary_grows(root, data, how):
    parent = source_run(data)
    child = child_of(data, parent, merged(data), (0.0, 1.0), extension=how)
    assert child.model.vocab > parent.model.vocab
    _, result = go([parent, child], root)
    assert result["run"]["v_total"] == child.model.vocab and result["run"]["status"] == "done"
    # The text of the source, which is not read any more, is measured all the same.
    assert {e["language"] for e in result["evaluations"]} == {"aa", "bb"}


def test_new_rows_begin_as_named(root, data):
    parent = source_run(data)
    child = child_of(data, parent, merged(data), (0.0, 1.0), extension="composition")
    go([parent], root)
    layout = open_run(child, root).layout
    start = lineage.start(step.Program(child.model, make_mesh()), child, root, layout)
    got = start.state.params["embed"]["tokens"][0], start.state.params["head"]["kernel"][0].T
    old = lineage.kept_params(parent, root, open_run(parent, root).layout.hash)
    old = old["embed"]["tokens"], old["head"]["kernel"].T
    known = parent.model.vocab
    tokenizer = data.tokenizer("tiny:aa")
    spelled = [tokenizer.encode(piece.decode()) for piece in layout.piece_bytes[known:]]
    assert len(spelled) > 5 and any(len(ids) > 1 for ids in spelled)
    for new, before in zip(got, old, strict=True):
        np.testing.assert_array_equal(new[:known], before)
        for row, ids in zip(new[known:], spelled, strict=True):
            np.testing.assert_allclose(row, before[ids].mean(0), rtol=1e-5, atol=1e-7)
    fresh = step.init_state(step.Program(child.model, make_mesh()), [child.seed_init]).params
    parent_params = {**fresh, "embed": {**fresh["embed"], "tokens": old[0][None]}, "head": {"kernel": old[1].T[None]}}
    mean = extended(parent_params, fresh, layout, "mean")
    np.testing.assert_allclose(mean["embed"]["tokens"][0, -1], np.delete(old[0], PAD, 0).mean(0), rtol=1e-4, atol=1e-7)


def test_what_does_not_fit_is_said_from_the_configs_alone(data):
    parent = source_run(data)
    child = child_of(data, parent, merged(data), (0.0, 1.0), extension="random")
    check_child(child, parent)

    def refused(match, run):
        with pytest.raises(LabError, match=match):
            check_child(run, parent)

    wide = dataclasses.replace(child, model=dataclasses.replace(child.model, d_ff=64))
    refused("of another shape: d_ff 64 for 32", wide)
    refused(
        "Say how the rows of new pieces begin",
        dataclasses.replace(child, parent=dataclasses.replace(child.parent, extension=None)),
    )
    refused("and has no piece more", child_of(data, parent, joint(data), (0.5, 0.5), extension="mean"))
    disjoint = LayoutConfig.disjoint(("bb", "aa"), (data.tokenizer("tiny:bb").hash, data.tokenizer("tiny:aa").hash))
    other = dataclasses.replace(child.mixture, layout=disjoint)
    refused("layout of bb, aa does not begin with that of aa", dataclasses.replace(child, mixture=other))
    late = dataclasses.replace(child, parent=dataclasses.replace(child.parent, step=25))
    refused("starts from step 25 of run .*, which has 24", late)
    with pytest.raises(LabError, match="New pieces have no moments to carry on"):
        Parent("x", 1, "moments", "mean")
    with pytest.raises(LabError, match="Unknown extension 'zeros'"):
        Parent("x", 1, "weights", "zeros")
