"""The probe `choices`: accuracy on minimal pairs and cloze questions, language by language."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lab.config import Source
from lab.data.prepare import open_prepared
from lab.data.suites import Suite, read_suites
from lab.errors import LabError
from lab.evaluate import choices
from lab.probe_table import Reading, Subject, Unit

CLOZE = "cloze"


class Choices:
    """Makes the units; keeps what several runs share.

    Args:
      paths: folders and archives of minimal pairs; none for cloze questions alone.
      spoken: BCP 47 tag of a run's language, or of a corpus, where the corpus itself does not say it or says another.
    """

    def __init__(self, paths: tuple[Path, ...], spoken: Mapping[str, str]):
        self._paths, self._spoken = paths, spoken
        self._encoded: dict[tuple[str, str, str, int], dict[str, list[choices.Question]]] = {}
        self._items: dict[tuple[Source, int], choices.ClozeItems] = {}

    @functools.cached_property
    def suites(self) -> tuple[Suite, ...]:
        """Raises LabError when they cannot be read, or none is in a language that was asked for."""
        suites = read_suites(self._paths)
        languages = sorted({suite.language for suite in suites})
        for name, tag in self._spoken.items():
            if not any(speaks(tag, language) for language in languages):
                raise LabError(f"No suite is in {tag!r}, the language of {name}.", f"They are in {languages}.")
        return suites

    def units(self, subject: Subject) -> Iterator[Unit]:
        """A unit for every language and suite, and one of cloze questions for every language whose text the run names.

        The languages are the subject's two; of a run that reads one, the first two of its vocabulary.

        Raises:
          LabError: last, for suites that cannot be read, held-out text that is too short, and a corpus that does not
            say its language.
        """
        sources = {c.language: c.source for c in subject.run.mixture.components}
        names = subject.languages if len(subject.languages) > 1 else subject.data.layout.languages[:2]
        refused = None
        for name in names:
            if name in sources:
                try:
                    yield self._cloze(subject, name, sources[name])
                except LabError as error:
                    refused = error
        if self._paths:
            for name in names:
                tag = self._tag(subject, name, sources.get(name))
                if tag == "und":
                    refused = LabError(
                        f"Nobody says which language {name} ({sources[name].corpus}) is.",
                        f"Say it: --suite-language {name}=en.",
                    )
                for suite in self.suites:
                    if tag is not None and speaks(tag, suite.language):
                        yield self._pairs(subject, name, suite)
        if refused is not None:
            raise refused

    def _tag(self, subject: Subject, name: str, source: Source | None) -> str | None:
        """The tag of a language: as is said of its corpus, of itself or of another that reads the same text, or as its
        store says; None where there is no store."""
        if source is None:
            return self._spoken.get(name)
        clones = [c.language for c in subject.run.mixture.components if c.source == source]
        for said in (source.corpus, name, *clones):
            if said in self._spoken:
                return self._spoken[said]
        return open_prepared((source,), subject.root).store(source.corpus).manifest.language

    def _cloze(self, subject: Subject, name: str, source: Source) -> Unit:
        context = subject.run.model.context
        if (source, context) not in self._items:
            self._items[source, context] = choices.cloze_items(subject.data.evaluation[source], context)
        items = self._items[source, context]

        def measure(tick: Callable[[], None]) -> list[Reading]:
            table = subject.data.layout.table(name)
            got = choices.cloze(subject.run.model, subject.params, items, table, tick)
            return [
                Reading(CLOZE, CLOZE, name, "model", got.value, got.n),
                Reading(CLOZE, CLOZE, name, "chance", choices.CLOZE_CHANCE, got.n),
            ]

        return Unit(subject, "choices", items.text, measure, (name,), CLOZE)

    def _pairs(self, subject: Subject, name: str, suite: Suite) -> Unit:
        def measure(tick: Callable[[], None]) -> list[Reading]:
            model, layout = subject.run.model, subject.data.layout
            key = layout.hash, name, suite.hash, model.context
            if key not in self._encoded:
                self._encoded[key] = choices.encoded_pairs(suite, layout, name, model.context)
            got = choices.minimal_pairs(model, subject.params, self._encoded[key], tick)
            n = sum(one.n for one in got.values())
            mean = float(np.mean([one.value for one in got.values()]))
            return [
                Reading("minimal pairs", suite.name, name, "model", mean, n),
                Reading("minimal pairs", suite.name, name, "chance", choices.PAIR_CHANCE, n),
                *(
                    Reading(
                        "minimal pairs by phenomenon", f"{suite.name}/{phenomenon}", name, "model", one.value, one.n
                    )
                    for phenomenon, one in got.items()
                ),
            ]

        return Unit(subject, "choices", f"{suite.name} {suite.language} {suite.hash}", measure, (name,), suite.name)


def speaks(tag: str, language: str) -> bool:
    """Whether text with a BCP 47 tag is in a suite's language: `en-GB` is in `en`; `enm` and `en-x-derived` are not."""
    return (tag == language or tag.startswith(f"{language}-")) and "-x-" not in tag
