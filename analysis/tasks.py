"""What fine-tuning says of transfer: first whether there is anything to transfer, then whether it comes across.

    for verdict in task_verdicts(probes): ...        # rows of lab.probes

A task shows a *signal* where the model, fine-tuned in the first language, beats the majority label in it by more
than its interval. Only there can its clone be judged, zero-shot: *transfer* where the model beats in the clone both
the majority label and what an untrained decoder gets after the same fine-tuning; *no transfer* where the whole
interval lies below one of the two; *undecided* otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

Answer = Literal["no signal", "transfer", "no transfer", "undecided"]
PROBE = "finetune"
MODEL, MAJORITY, UNTRAINED, TAUGHT = "model", "majority", "random init", "fine-tuned in the clone"
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A share of right answers: mean over runs and fine-tuning seeds, with the interval of both and of the examples."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class TaskVerdict:
    """One task on the models of one arm.

    Attributes:
      first, second: of the fine-tuned model in the first language and in its clone.
      majority, untrained: of the most frequent label, and of an untrained decoder in the clone.
      taught: of the model fine-tuned in the clone itself: the most that could come across.
      runs: fine-tuned models.
    """

    arm: str
    task: str
    answer: Answer
    first: Accuracy
    second: Accuracy
    majority: float
    untrained: Accuracy
    taught: Accuracy
    runs: int


def accuracy(values: Sequence[float], n: int, level: float = LEVEL) -> Accuracy:
    """Mean of equal fine-tunings, each scored on the same `n` examples.

    The variance is that between fine-tunings plus the binomial one of the examples, which they share; Student's t at
    the freedom of the former. One fine-tuning alone has an open interval.
    """
    y = np.asarray(values, float)
    mean = float(y.mean())
    if len(y) < 2:
        return Accuracy(mean, -math.inf, math.inf)
    error = math.sqrt(y.var(ddof=1) / len(y) + mean * (1 - mean) / n)
    reach = float(stats.t.ppf((1 + level) / 2, len(y) - 1)) * error
    return Accuracy(mean, mean - reach, mean + reach)


def task_verdicts(probes: pd.DataFrame) -> tuple[TaskVerdict, ...]:
    """A verdict for each arm and task of a table of probes, in their order; none for arms that were not fine-tuned."""
    rows = probes[probes.probe == PROBE]
    if rows.empty:
        return ()
    found = []
    for (arm, task), part in rows.groupby(["arm", "place"], sort=False):
        first, _, second = str(part.pair.iloc[0]).partition(" ")

        def of(condition: str, language: str, part: pd.DataFrame = part) -> Accuracy:
            same = part[(part.condition == condition) & (part.language == language)]
            return accuracy(same.value.tolist(), int(same.n.iloc[0])) if len(same) else Accuracy(*(math.nan,) * 3)

        own, clone, untrained = of(MODEL, first), of(MODEL, second), of(UNTRAINED, second)
        majority = float(part.value[part.condition == MAJORITY].mean())
        answer = _answer(own, clone, majority, untrained.mean)
        runs = int(((part.condition == MODEL) & (part.language == first)).sum())
        taught = of(TAUGHT, second)
        found.append(TaskVerdict(str(arm), str(task), answer, own, clone, majority, untrained, taught, runs))
    return tuple(found)


def _answer(first: Accuracy, second: Accuracy, majority: float, untrained: float) -> Answer:
    if not first.low > majority:
        return "no signal"
    bar = np.nanmax([majority, untrained])
    if second.low > bar:
        return "transfer"
    return "no transfer" if second.high < bar else "undecided"
