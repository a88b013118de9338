"""The demo's report: the same numbers on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.allocate import allocate
from analysis.design import check
from analysis.equivalence import Bounded, Estimate
from analysis.intervals import Interval
from figures.demo_findings import DESIGN_NOISE, LANGUAGES, Demo, Findings, FittedLaw
from figures.drawing import Provenance, count
from figures.report import Answer, Picture, Rows, Section, StatusLine, Text, write
from figures.transfer import Worth

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
TITLE = "What is English worth for a language with little data?"
LAW_CAPTION = (
    "English test loss and the laws. Lines: tied (solid) and Chinchilla (dotted). Each point is a run of its own, "
    "annealed to 1 % of its peak rate."
)
READING_CAPTION = (
    "How TEff is read. A mixed run (diamond, with the language's share) is carried sideways to the law of the language "
    "alone; the arrow ends at its MLTE."
)
TEFF_CAPTION = "TEff by share. Bars: 95 % over residual resamples of the ladder and resamples of the seeds."
CURVES_CAPTION = "Training loss. Faint lines are the shorter budgets, each a run of its own."


def summary(found: Findings) -> list[str]:
    """The laws and the answer, for the terminal."""
    lines = ["", f"Law of English ({found.tied.fit.law.name}, {found.tied.fit.status}), L = E + A/N^alpha + B/D^alpha:"]
    lines += [f"  {name:6} {value:>10}  {interval}" for name, value, interval, _ in _parameters(found.tied)]
    return [*lines, *(a.sentence for a in answers(found)), ""]


def answers(found: Findings) -> list[Answer]:
    """The three numbers a reader came for."""
    alpha = found.tied.intervals["alpha"]
    alpha_interval = f"95 % interval {alpha.low:.2f} to {alpha.high:.2f}"
    rarest = rarest_mixture(found, "enm")
    clone = rarest_mixture(found, "en2")
    return [
        Answer(
            f"α = {alpha.estimate:.2f}",
            alpha_interval,
            "the exponent with which the reducible English loss falls as size or tokens grow.",
            f"English loss falls with exponent {alpha.estimate:.3f} ({alpha_interval}) in size and tokens.",
        ),
        Answer(
            f"{bounded(rarest.of_other.value)} tokens",
            interval_text(rarest.of_other),
            f"of Middle English are what one token of English is worth here, where Middle English is "
            f"{rarest.share:.0%} of the training tokens: {verdict(rarest.of_other)}.",
            f"One token of English is worth {bounded(rarest.of_other.value)} tokens of Middle English here "
            f"({interval_text(rarest.of_other)}), where {rarest.share:.0%} of the tokens are Middle English: "
            f"{verdict(rarest.of_other)}.",
        ),
        Answer(
            f"TEff {bounded(clone.teff.value)}",
            interval_text(clone.teff),
            f"of a clone of English at {clone.share:.0%} of the tokens: own tokens that it would have needed alone, "
            "for each that it saw.",
            f"A clone of English at {clone.share:.0%} of the tokens has TEff {bounded(clone.teff.value)} "
            f"({interval_text(clone.teff)}).",
        ),
    ]


def verdict(worth: Estimate) -> str:
    """What the sign of the whole interval says."""
    low, high = (worth.interval.low.value, worth.interval.high.value) if worth.interval else (-math.inf, math.inf)
    if high < 0:
        return "English takes capacity and gives nothing back at this size"
    return "English helps" if low > 0 else "neither help nor harm is shown"


def bounded(value: Bounded) -> str:
    """A number to three digits, said to be a bound where it is one."""
    digits = f"{value.value:.3g}" if abs(value.value) < 1000 else count(value.value)
    return digits if value.kind == "exact" else f"{value.kind} {digits}"


def rarest_mixture(found: Findings, language: str) -> Worth:
    """The mixture in which the language has its smallest share."""
    return min((w for w in found.worths if w.language == language), key=lambda w: w.share)


def interval_text(estimate: Estimate) -> str:
    """`95 % interval 1.2 to 1.5`; an end that is a bound says so."""
    tail = "; beyond the ladder, extrapolated" if estimate.extrapolated else ""
    span = estimate.interval
    if span is None:
        return f"no interval{tail}"
    return f"{100 * span.level:.0f} % interval {bounded(span.low)} to {bounded(span.high)}{tail}"


def cell(estimate: Estimate) -> str:
    """`1.35 [1.2, 1.5]`, with a star where it is extrapolated."""
    span = estimate.interval
    interval = f" [{bounded(span.low)}, {bounded(span.high)}]" if span else ""
    return f"{bounded(estimate.value)}{interval}{'*' if estimate.extrapolated else ''}"


def _parameters(law: FittedLaw) -> list[list[str]]:
    """Rows of parameter, value, default interval, bootstrap interval."""
    rows = []
    for label, value in law.fit.params.items():
        intervals = ["not identified"] * 2
        if law.draws is not None:
            intervals = [span(law.intervals[label]), span(law.draws.interval(label))]
        rows.append([label, f"{value:.4g}", *intervals])
    return rows


def span(interval: Interval) -> str:
    """`[1.2, 1.5]`; an end that the data leave open says so."""
    low = "(open" if interval.open_low else f"[{interval.low:.4g}"
    high = "open)" if interval.open_high else f"{interval.high:.4g}]"
    return f"{low}, {high}"


def _fit_section(found: Findings, picture: Picture) -> Section:
    blocks: list[Text | StatusLine | Rows | Picture] = []
    for name, title in (
        ("tied", "Tied law, L = E + A/N^α + B/D^α"),
        ("chinchilla", "Chinchilla, L = E + A/N^α + B/D^β"),
    ):
        law: FittedLaw = getattr(found, name)
        fitted = law.fit
        flags = " ".join(f.text for f in fitted.flags)
        worst = abs(fitted.fitted / fitted.table.loss - 1).max()
        text = f"{title}: {fitted.n} points, Huber on log loss, sum {fitted.value:.4g}; "
        text += f"largest residual {worst:.1%}. {flags}"
        blocks.append(StatusLine(fitted.status, text, fitted.status != "converged"))
        head = ("parameter", "value", "95 %, profile likelihood", "95 %, bootstrap")
        blocks.append(Rows(head, _parameters(law)))
    blocks.append(picture)
    report = check(found.tied.fit.law, found.tied.fit.table.columns, found.tied.fit.params_of(), noise=DESIGN_NOISE)
    errors = ", ".join(f"{e.label} ±{e.se:.2g}" for e in report.errors)
    blocks.append(
        Text(
            f"Before any run: at {DESIGN_NOISE:.0%} noise of the loss this grid is {report.verdict} for the tied law "
            f"(Fisher rank {report.rank} of {report.parameters}; standard errors {errors}).",
            note=True,
        )
    )
    return Section("The law of English", blocks)


def _allocation(found: Findings) -> Section:
    rows = []
    draws = found.tied.draws.params_of() if found.tied.draws else None
    for budget in (1e12, 1e13, 1e14):
        best = allocate(found.tied.fit.law, found.tied.fit.params_of(), budget, draws=draws)
        n, d = (f"{count(best.intervals[k].low)} to {count(best.intervals[k].high)}" if draws else "none" for k in "nd")
        rows.append(
            [
                f"10{str(round(math.log10(budget))).translate(SUPERSCRIPTS)}",
                f"{count(best.n)} ({n})",
                f"{count(best.d)} ({d})",
                f"{best.loss:.3f}",
            ]
        )
    return Section(
        "So what size and how many tokens?",
        [
            Text("The tied law's cheapest way to the lowest English loss, with 6ND = C and N without embeddings."),
            Rows(("FLOPs", "parameters (95 %)", "tokens (95 %)", "loss, nats"), rows),
            Text(f"The grid spans {_span(found)}; beyond that is extrapolation.", True),
        ],
    )


def _span(found: Findings) -> str:
    n, d = (found.tied.fit.table.columns[name] for name in ("N", "D"))
    return f"{count(n.min())} to {count(n.max())} parameters and {count(d.min())} to {count(d.max())} tokens"


def _transfer_section(found: Findings, reading: Picture, teff: Picture) -> Section:
    rows = [
        [
            LANGUAGES[w.language],
            " and ".join(LANGUAGES[name] for name in w.partners),
            f"{w.share:.0%}",
            f"{w.ppl:.1f}",
            count(w.tokens),
            cell(w.mlte),
            cell(w.teff),
            cell(w.of_other),
        ]
        for w in found.worths
    ]
    head = ("language", "beside", "share", "PPL", "own tokens", "MLTE", "TEff", "one other token")
    residuals = ", ".join(
        f"{LANGUAGES[language]} {law.worst_residual:.1%}"
        for language, law in found.ladders.items()
        if language != "en2"
    )
    return Section(
        "What the other language adds",
        [
            Text(
                "A mixed run's perplexity in a language is carried to the law of that language alone: the tokens it "
                "would have needed alone are its MLTE; MLTE by its own tokens is TEff; (MLTE - own tokens) by the "
                "other language's tokens is what one of those was worth (arXiv:2404.07982)."
            ),
            reading,
            teff,
            Rows(head, rows),
            Text(
                f"Intervals are 95 %; a star marks what lies beyond the ladder. Largest residual of the token law on "
                f"its ladder: {residuals}. Perplexity by a sliding window, mean of {found.worths[0].seeds} seeds.",
                True,
            ),
        ],
    )


def write_report(demo: Demo, found: Findings, pictures: Mapping[str, Path], path: Path) -> Path:
    """Writes the page."""

    def picture(name: str, caption: str) -> Picture:
        return Picture(pictures[name], caption.split(".")[0], caption)

    runs = demo.table.drop_duplicates("run_id")
    arms: Sequence[Sequence[str]] = [
        [
            str(arm),
            str(len(rows)),
            ", ".join(sorted({count(float(n)) for n in rows.n_nonembedding})),
            " to ".join(dict.fromkeys([count(float(rows.tokens_seen.min())), count(float(rows.tokens_seen.max()))])),
            f"{rows.peak_lr.min():g}",
            f"{rows.wall_s.sum():.0f}",
        ]
        for arm, rows in runs.groupby("arm", sort=False)
    ]
    first = runs.iloc[0]
    minutes = runs.wall_s.sum() / 60
    where = Provenance.of(demo.path, "figures.demo", runs.run_id)
    excluded = demo.excluded.drop_duplicates("run_id")
    sections = [
        _fit_section(found, picture("law", LAW_CAPTION)),
        _allocation(found),
        _transfer_section(found, picture("reading", READING_CAPTION), picture("teff", TEFF_CAPTION)),
        Section(
            "What was run",
            [
                Text(
                    f"{len(runs)} runs of a GPT-2-style decoder at context {first.context}, {first.batch_tokens} "
                    f"tokens a step, on {first.device}: {runs.flops_exact.sum():.2g} FLOPs in "
                    f"{minutes:.0f} minutes. The most that any text was read: {demo.table.epochs.max():.2f} epochs."
                ),
                Rows(("arm", "runs", "parameters", "tokens", "peak rate", "seconds"), arms),
                Text(f"Runs excluded from every fit: {', '.join(excluded.exclusion) or 'none'}.", note=True),
                picture("curves", CURVES_CAPTION),
            ],
        ),
        Section(
            "Where every number comes from",
            [
                Text(
                    f"All of it is computed from {where.table} (SHA-256 {where.table_sha256[:16]}…), which holds one "
                    "row for each run and evaluation language. `lab sweep run demo` makes the table, and `lab figures "
                    "demo` makes this page from it."
                ),
                Text(
                    f"Evaluation: {', '.join(_evaluation(demo))}. Source revision {first.commit}; {first.versions}.",
                    note=True,
                ),
            ],
        ),
    ]
    lead = (
        "A ladder of small models on the World English Bible and on Wycliffe's Bible of about 1390, alone and mixed: "
        "the law by which loss falls, and what a token of the big language is worth for the small one."
    )
    return write(path, TITLE, lead, answers(found), sections)


def _evaluation(demo: Demo) -> list[str]:
    sets = demo.table.drop_duplicates(["eval_hash", "language"])
    return [
        f"{LANGUAGES[row.language]} {row.eval_tokens:,} held-out tokens (set {row.eval_hash})"
        for _, row in sets.iterrows()
    ]
