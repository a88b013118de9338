"""The probe `distance`: how far a run's second language lies from its first, before it has read a word of it.

The unigram distances of `lab.evaluate.distance` are of all training text, under the run's vocabulary. The gradient
cosine is the parent's: of a run that began with another one's parameters, the gradients of the two languages' held-out
text there, by `lab.evaluate.gradients`. Their texts have nothing to do with each other, as real languages seldom have
parallel ones and a changed text has none: so gradients are pooled, half of the windows of one language with the other
half of the other language's, and `split halves` is what one language reaches with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from lab.data.prepare import open_prepared
from lab.evaluate import distance, gradients
from lab.evaluate.embeddings import Mean
from lab.evaluate.paired import unrelated_text
from lab.lineage import origin
from lab.probe_table import Reading, Subject, Unit


class Distances:
    """Makes the units; runs that share their texts and vocabulary, or their parents, share readings."""

    def __init__(self) -> None:
        self._known: dict[Hashable, list[Reading]] = {}

    def units(self, subject: Subject) -> list[Unit]:
        """One unit, of a subject at its beginning."""
        assert subject.at == 0
        sources = {c.language: c.source for c in subject.run.mixture.components}
        first, second = (sources[name] for name in subject.languages)
        text = f"training and test text of {first.corpus} {first.store} and {second.corpus} {second.store}"

        def measure(tick: Callable[[], None]) -> list[Reading]:
            places = subject.data.layout.hash, first, second, subject.languages
            readings = list(self._shared(places, lambda: _unigrams(subject)))
            begun = origin(subject.run, subject.root)
            if begun.parent is not None:
                start: Any = *places, begun.parent, begun.seed_init if begun.parent.extension else None
                readings += self._shared(start, lambda: _gradient(subject, tick))
            return readings

        return [Unit(subject, "distance", text, measure, subject.languages)]

    def _shared(self, key: Hashable, measure: Callable[[], list[Reading]]) -> list[Reading]:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]


def _unigrams(subject: Subject) -> list[Reading]:
    layout, sources = subject.data.layout, {c.language: c.source for c in subject.run.mixture.components}
    prepared = open_prepared(tuple(sources[name] for name in subject.languages), subject.root)
    counts = [distance.token_counts(prepared.store(sources[name].corpus), layout, name) for name in subject.languages]
    got = distance.measure(*counts)
    values = {
        "vocabulary overlap": got.vocabulary_overlap,
        "token-mass overlap": got.mass_overlap,
        "unigram JSD": got.unigram_jsd,
    }
    renamed = {entry.language: entry.renamed for entry in subject.run.mixture.layout.languages}
    source, target = (sources[name].corpus for name in subject.languages)
    if (dial := distance.dial_setting(source, target, renamed[subject.second])) is not None:
        values["dial setting"] = dial
    n = int(min(c.sum() for c in counts))
    return [Reading("distance", place, subject.second, "pairs", value, n) for place, value in values.items()]


def _gradient(subject: Subject, tick: Callable[[], None]) -> list[Reading]:
    sources = {c.language: c.source for c in subject.run.mixture.components}
    first, second = (subject.data.evaluation[sources[name]] for name in subject.languages)
    cfg = subject.run.model
    paired = unrelated_text(first, second, subject.data.layout, subject.first, subject.second, cfg.context)
    got = gradients.tensor_cosines(cfg, subject.params, paired, tick)
    means = {"pairs": Mean.of(got.pooled_KxL.ravel()), "split halves": Mean.of(got.halves_KxL.ravel())}
    return [
        Reading("distance", "gradient cosine", subject.second, condition, mean.value, got.n)
        for condition, mean in means.items()
        if np.isfinite(mean.value)
    ]
