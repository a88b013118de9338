"""Verdicts on fine-tuning: no signal, transfer, none, undecided."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.tasks import MAJORITY, MODEL, TAUGHT, UNTRAINED, accuracy, task_verdicts

N = 1500


def readings(first, second, majority=0.6, untrained=0.61, noise=0.004, seeds=3):
    rng = np.random.default_rng(0)
    rows = []

    def add(condition, language, mean, count):
        for value in mean + noise * rng.standard_normal(count):
            rows.append({"probe": "finetune", "arm": "clone 10 %", "place": "SST-2", "pair": "l1 clone1", "n": N,
                         "condition": condition, "language": language, "value": value})  # fmt: skip

    add(MODEL, "l1", first, seeds)
    add(MODEL, "clone1", second, seeds)
    add(UNTRAINED, "clone1", untrained, seeds)
    add(TAUGHT, "clone1", first, seeds)
    for language in ("l1", "clone1"):
        rows.append({**rows[0], "condition": MAJORITY, "language": language, "value": majority})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        (0.61, 0.75, "no signal"),  # whatever the clone shows
        (0.80, 0.75, "transfer"),
        (0.80, 0.53, "no transfer"),
        (0.80, 0.62, "undecided"),
    ],
)
def test_a_task_gets_its_answer(first, second, answer):
    (verdict,) = task_verdicts(readings(first, second))
    assert (verdict.arm, verdict.task, verdict.answer, verdict.runs) == ("clone 10 %", "SST-2", answer, 3)
    assert verdict.first.low < verdict.first.mean < verdict.first.high and verdict.majority == 0.6


def test_one_fine_tuning_alone_decides_nothing():
    (verdict,) = task_verdicts(readings(0.9, 0.9, seeds=1))
    assert verdict.answer == "no signal"


def test_what_an_untrained_decoder_gets_is_no_transfer():
    """Above the majority, and no better than without pre-training."""
    (verdict,) = task_verdicts(readings(0.80, 0.70, untrained=0.70))
    assert verdict.answer == "undecided"


def test_intervals_hold_the_examples_and_the_seeds():
    same = accuracy([0.7, 0.7, 0.7], 1000)
    assert same.high - same.mean == pytest.approx(4.3027 * np.sqrt(0.7 * 0.3 / 1000), rel=1e-3)
    assert accuracy([0.6, 0.7, 0.8], 1000).high > same.high
    assert task_verdicts(readings(0.8, 0.8).iloc[:0]) == ()
