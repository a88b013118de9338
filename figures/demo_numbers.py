"""Every number of the demo's report with the fit and the runs that it comes from."""

from __future__ import annotations

from collections.abc import Iterator

from figures.demo_findings import LANGUAGES, Demo, Findings
from figures.numbers import Number


def numbers(demo: Demo, found: Findings) -> Iterator[Number]:
    """Parameters of both laws, and what each language of each mixture was worth."""
    grid = tuple(demo.english.run_id)
    for law in (found.tied, found.chinchilla):
        source = f"fit of {law.fit.law.name} to {law.fit.n} runs on English alone"
        for name, value in law.fit.params.items():
            intervals = {}
            if law.draws is not None:
                bootstrap = law.draws.interval(name)
                intervals["profile likelihood"] = (law.intervals[name].low, law.intervals[name].high)
                intervals["bootstrap"] = (bootstrap.low, bootstrap.high)
            yield Number(f"{name} of {law.fit.law.name}", value, source, grid, intervals)
        yield Number(f"objective of {law.fit.law.name}", law.fit.value, source, grid)
    for w in found.worths:
        ladder = found.ladders[w.language]
        rows = demo.mixed[(demo.mixed.mixture == w.mixture) & (demo.mixed.language == w.language)]
        runs = tuple(rows.run_id)
        what = f"{LANGUAGES[w.language]} in {w.mixture}"
        yield Number(f"perplexity of {what}", w.ppl, f"geometric mean of {w.seeds} seeds", runs)
        source = f"token law of {LANGUAGES[ladder.language]} alone, read at the perplexity of {w.seeds} seeds"
        for name, estimate in (("MLTE", w.mlte), ("TEff", w.teff), ("worth of one other token", w.of_other)):
            span = estimate.interval
            ends = {"bootstrap": (span.low.value, span.high.value)} if span else {}
            yield Number(f"{name} of {what}", estimate.value.value, source, (*runs, *ladder.rows.run_id), ends)
