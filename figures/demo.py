"""The demo's figures: the law of English, and what English is worth for Middle English."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from figures.demo_findings import LANGUAGES, Demo, Findings, analyse, read
from figures.demo_numbers import numbers
from figures.demo_report import summary, write_report
from figures.drawing import COLOURS, axes, count, save, token_axis
from figures.numbers import write_numbers


def draw(table: Path, folder: Path) -> str:
    """Writes the figures, `numbers.json` and `report.html` into `folder`; returns a summary for the terminal."""
    demo = read(table)
    found = analyse(demo)
    pictures = {
        name: function(demo, found, folder / "figures" / name)
        for name, function in (("curves", curves), ("law", law), ("reading", reading), ("teff", teff))
    }
    write_numbers(folder / "numbers.json", table, numbers(demo, found))
    report = write_report(demo, found, pictures, folder / "report.html")
    return "\n".join([*summary(found), f"Report: {report}"])


def curves(demo: Demo, found: Findings, stem: Path) -> Path:
    """Training loss against tokens, for each size (left) and for every arm at the size that has them all (right)."""
    figure, (left, right) = axes(1, 2, (10.5, 4.0), sharey=True)
    longest = demo.table.tokens_seen.max()
    shown = []
    for colour, (_, rows) in zip(COLOURS, demo.english.groupby("n_nonembedding"), strict=False):
        for _, row in rows[rows.seed_init == 0].iterrows():
            main = row.tokens_seen == longest
            label = f"{count(row.n_nonembedding)} parameters" if main else None
            left.plot(row.curve_tokens, row.curve_loss, color=colour, alpha=1 if main else 0.3, label=label)
            shown.append(row.run_id)
    runs = demo.table[(demo.table.tokens_seen == longest) & (demo.table.d_model == demo.mixed_width)]
    styles = _arm_lines(runs.arm.unique())
    for _, row in runs[runs.seed_init == 0].drop_duplicates("run_id").iterrows():
        right.plot(row.curve_tokens, row.curve_loss, label=row.arm.partition(", ")[0], **styles[row.arm])
        shown.append(row.run_id)
    for ax, title in ((left, "English alone, by size"), (right, "All arms at one size")):
        token_axis(ax)
        ax.set(title=title, xlabel="training tokens")
        ax.legend(fontsize=8)
    left.set_ylabel("training loss, nats per token")
    return save(figure, stem, demo.provenance("curves", demo.table[demo.table.run_id.isin(shown)]))


def _arm_lines(arms: Sequence[str]) -> dict[str, dict[str, str]]:
    """A line of its own for each arm: colours first, then dashes."""
    lines = [{"color": colour, "linestyle": dash} for dash in ("-", "--") for colour in COLOURS]
    return dict(zip(arms, lines, strict=False))


def law(demo: Demo, found: Findings, stem: Path) -> Path:
    """English test loss against tokens with the tied law through it, and what the law leaves over."""
    figure, (top, bottom) = axes(2, 1, (6.6, 5.6), sharex=True, height_ratios=(3, 1))
    tokens = np.geomspace(demo.english.tokens_language.min() * 0.8, demo.english.tokens_language.max() * 1.25, 80)
    for colour, n in zip(COLOURS, sorted(demo.english.n_nonembedding.unique()), strict=False):
        rows = demo.english[demo.english.n_nonembedding == n]
        size = {"N": np.full(len(tokens), float(n)), "D": tokens}
        top.plot(tokens, found.tied.fit.predict(size), color=colour)
        top.plot(tokens, found.chinchilla.fit.predict(size), color=colour, linestyle=":", linewidth=1)
        top.plot(rows.tokens_language, rows.loss, "o", color=colour, ms=5, label=f"{count(float(n))} parameters")
        predicted = found.tied.fit.predict({"N": rows.n_nonembedding, "D": rows.tokens_language})
        bottom.plot(rows.tokens_language, 100 * (rows.loss / predicted - 1), "o", color=colour, ms=4)
    top.plot([], [], color="#555", label="tied law")
    top.plot([], [], color="#555", linestyle=":", label="Chinchilla")
    top.set(ylabel="test loss, nats per token", title="English: loss against training tokens")
    top.legend(fontsize=8)
    bottom.axhline(0, color="#555", linewidth=0.8)
    bottom.axhspan(-1, 1, color="#EEE", zorder=0)
    bottom.set(ylabel="residual, %", xlabel="training tokens")
    token_axis(bottom)
    return save(figure, stem, demo.provenance("law", demo.english))


def reading(demo: Demo, found: Findings, stem: Path) -> Path:
    """How TEff is read: a mixed run's perplexity, carried sideways to the monolingual law."""
    figure, panels = axes(1, 2, (10.5, 4.2))
    for ax, language in zip(panels, ("enm", "en2"), strict=True):
        base = found.ladders[language]
        tokens = np.geomspace(base.rows.tokens_language.min() * 0.9, base.rows.tokens_language.max() * 1.4, 100)
        ax.plot(tokens, base.ppl(tokens), color=COLOURS[0], label=f"law of {LANGUAGES[base.language]} alone")
        ax.plot(base.rows.tokens_language, base.rows.ppl, "o", color=COLOURS[0], ms=4, label="runs on it alone")
        for worth_ in [w for w in found.worths if w.language == language]:
            mlte = worth_.mlte.value
            ax.plot(worth_.tokens, worth_.ppl, "D", color=COLOURS[1], ms=5)
            ax.annotate(
                "",
                xy=(mlte.value, worth_.ppl),
                xytext=(worth_.tokens, worth_.ppl),
                arrowprops={"arrowstyle": "->", "color": COLOURS[1], "lw": 1.2},
            )
            ax.annotate(
                f"{worth_.share:.0%}", (worth_.tokens, worth_.ppl), (0, 7), textcoords="offset points", ha="center",
                fontsize=8, color=COLOURS[1],
            )  # fmt: skip
        ax.plot([], [], "D", color=COLOURS[1], ms=5, label="runs mixed with English, share of tokens")
        token_axis(ax)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        title = LANGUAGES[language]
        ax.set(title=title[0].upper() + title[1:], xlabel="own training tokens", ylabel="perplexity")
        ax.legend(fontsize=8)
    return save(figure, stem, demo.provenance("reading", demo.table))


def teff(demo: Demo, found: Findings, stem: Path) -> Path:
    """TEff by the language's share of the tokens."""
    figure, ax = axes(size=(6.4, 4.2))
    for colour, language in zip(COLOURS, LANGUAGES, strict=False):
        points = [w for w in found.worths if w.language == language]
        if not points:
            continue
        x = np.array([w.share for w in points])
        y = np.array([w.teff.value.value for w in points])
        spans = [w.teff.interval for w in points]
        low = y - np.array([s.low.value if s else v for s, v in zip(spans, y, strict=True)])
        high = np.array([s.high.value if s else v for s, v in zip(spans, y, strict=True)]) - y
        error = np.maximum([low, high], 0)
        ax.errorbar(x, y, error, fmt="o", ms=5, capsize=3, color=colour, label=LANGUAGES[language])
    ax.axhline(1, color="#555", linewidth=0.8)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    ax.set(
        xlabel="share of the training tokens",
        ylabel="TEff: monolingual tokens that one own token is worth",
        title="What the other language adds",
    )
    ax.legend()
    return save(figure, stem, demo.provenance("teff", demo.table))
