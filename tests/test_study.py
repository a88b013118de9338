"""A study at its scales."""

from __future__ import annotations

import dataclasses

import pytest
import tiny

from lab.config import Parent
from lab.errors import LabError
from sweeps.study import SCALES, Arm, DataSpec, Scale, Study
from sweeps.texts import prepare_text, stores

TEXT = DataSpec(("tiny:aa",), tiny.VOCAB)


@dataclasses.dataclass(frozen=True)
class Lengths(Scale):
    steps: tuple[int, ...]


def arms(data, scale):
    return tuple(Arm(f"{steps} steps", tiny.run(data, steps=steps)) for steps in scale.steps)


STUDY = Study(
    "lengths", "?", "?", (Lengths("nano", TEXT, "seconds", (8, 16)), Lengths("gpu", TEXT, "an hour", (800,))), arms
)


def test_arms_follow_the_scale(tmp_path):
    data = tiny.prepared(tmp_path, ("aa",))
    assert [a.run.steps for a in STUDY.checked_arms(data, STUDY.scale("nano"))] == [8, 16]
    assert [a.run.steps for a in STUDY.checked_arms(data, STUDY.scale("gpu"))] == [800]


def test_the_smallest_scale_is_meant_when_none_is_named():
    assert STUDY.scale() == STUDY.scale("nano")


def test_an_unknown_scale_names_those_there_are():
    with pytest.raises(LabError, match=r"lengths has no scale 'paper'\. It has: nano, gpu\."):
        STUDY.scale("paper")


def test_tables_of_scales_have_names_of_their_own_unless_there_is_one_scale():
    assert [STUDY.label(s) for s in STUDY.scales] == ["lengths-nano", "lengths-gpu"]
    alone = dataclasses.replace(STUDY, scales=STUDY.scales[:1])
    assert alone.label(alone.scale()) == "lengths"


@pytest.mark.parametrize("scales", [(), (STUDY.scales[0], STUDY.scales[0])])
def test_a_study_needs_scales_of_different_names(scales):
    with pytest.raises(LabError, match="lengths needs scales of different names"):
        dataclasses.replace(STUDY, scales=scales)


def test_a_scale_is_one_of_those_whose_size_is_known():
    with pytest.raises(LabError, match=f"scale 'huge'. Known: {', '.join(SCALES)}"):
        Scale("huge", TEXT, "?")


def test_arms_that_fail_or_repeat_are_named(tmp_path):
    data = tiny.prepared(tmp_path, ("aa",))
    scale = STUDY.scale()
    with pytest.raises(LabError, match="'8 steps' and '8 steps' are the same run"):
        STUDY.checked_arms(data, dataclasses.replace(scale, steps=(8, 8)))
    with pytest.raises(LabError, match=r"failed while making its arms: TypeError.*test_study\.py"):
        STUDY.checked_arms(data, dataclasses.replace(scale, steps=None))
    with pytest.raises(LabError, match="no arms"):
        STUDY.checked_arms(data, dataclasses.replace(scale, steps=()))


def seeded(data, seeds_of):
    def arms(_, scale):
        return tuple(Arm("aa", tiny.run(data, steps=8, seed_init=s, seed_data=s)) for s in seeds_of(scale))

    scales = (Scale("nano", TEXT, "seconds", seeds=(0, 1)), Scale("gpu", TEXT, "seconds"))
    return Study("tiny", "?", "a loss", scales, arms)


def test_other_seeds_make_other_runs_and_another_table(data):
    study = seeded(data, lambda scale: scale.seeds)
    own, other = study.scale("nano"), study.scale("nano", seeds=(3, 4, 5))
    assert (study.label(own), study.label(other)) == ("tiny-nano", "tiny-nano-seeds-3-4-5")
    assert [arm.run.seed_init for arm in study.checked_arms(data, other)] == [3, 4, 5]
    assert study.label(study.scale("nano", seeds=(0, 1))) == "tiny-nano"


def test_a_study_that_does_not_read_its_seeds_says_so(data):
    study = seeded(data, lambda scale: (0, 1))
    assert len(study.checked_arms(data, study.scale("nano"))) == 2
    with pytest.raises(LabError, match=r"cannot be run with other seeds: its arms have \[0, 1\] whatever is asked"):
        study.checked_arms(data, study.scale("nano", seeds=(3,)))


def test_text_in_several_groups_is_prepared_by_name(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("lab.data.prepare.prepare", lambda *spec: asked.append(spec) or data)
    groups = {"joint": DataSpec(("a", "b"), 300, joint=True), "own": DataSpec(("b",), 300, tokenizer_from=("a",))}
    text = prepare_text(groups, tmp_path)
    assert set(text) == {"joint", "own"}
    assert asked == [(("a", "b"), 300, True, tmp_path, ()), (("b",), 300, False, tmp_path, ("a",))]
    assert stores(text) == stores(data) == {s.fingerprint: s for s in data.stores.values()}


def test_a_child_that_does_not_fit_is_named_before_anything_trains(data):
    parent = tiny.run(data, steps=8)
    child = dataclasses.replace(parent, steps=4, parent=Parent(parent.run_id, 9, "weights"))
    study = Study("tiny", "?", "?", (Scale("nano", TEXT, "seconds"),), lambda *_: (Arm("a", parent), Arm("b", child)))
    with pytest.raises(LabError, match=r"starts from step 9 of run .*, which has 8"):
        study.checked_arms(data, study.scale())
