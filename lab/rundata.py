"""The text of one run, opened from the stores that its config names."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from lab.config import RunConfig, Source
from lab.data.evalset import EvalSet, evaluation_set
from lab.data.prepare import Prepared, open_prepared
from lab.data.stream import ExampleStream
from lab.data.vocabulary import LanguageLayout
from lab.errors import LabError


@dataclasses.dataclass(frozen=True)
class RunData:
    """What a run reads: its examples by step, its vocabulary, and the evaluation set of each source."""

    stream: ExampleStream
    layout: LanguageLayout
    evaluation: dict[Source, EvalSet]


def open_run(run: RunConfig, root: Path) -> RunData:
    """Opens the stores, layout and evaluation sets of a run.

    Raises:
      LabError: when a store is missing or is not the one the run names, or the model's vocabulary is not the layout's.
    """
    mixture = run.mixture
    sources = tuple(dict.fromkeys(c.source for c in mixture.components))
    prepared = _prepared(sources, root)
    layout = prepared.layout(mixture.layout)
    if layout.v_total != run.model.vocab:
        raise LabError(
            f"The model has a vocabulary of {run.model.vocab}, the layout of {mixture.layout.names} one of "
            f"{layout.v_total}.",
            "Give the model the layout's v_total.",
        )
    stream = ExampleStream(
        mixture, prepared.stores, layout, run.model.context, run.batch, run.steps * run.batch, run.seed_data
    )
    evaluation = {source: evaluation_set(prepared.store(source.corpus)) for source in sources}
    return RunData(stream, layout, evaluation)


@functools.lru_cache(maxsize=8)
def _prepared(sources: tuple[Source, ...], root: Path) -> Prepared:
    return open_prepared(sources, root)
