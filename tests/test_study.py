"""A study at its scales."""

from __future__ import annotations

import dataclasses

import pytest
import tiny

from lab.errors import LabError
from sweeps.study import SCALES, Arm, DataSpec, Scale, Study

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
