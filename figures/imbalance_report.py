"""The imbalance study's report: each figure and table of the paper, published beside measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims.ledger import Entry
from figures.drawing import Provenance, count
from figures.imbalance_measured import Own
from figures.imbalance_regenerated import recomputed, refitted, verdict
from figures.imbalance_sides import Side, Sides, missing
from figures.published import MEANINGS, Published
from figures.report import Answer, Picture, Rows, Section, StatusLine, Text, write
from figures.studies import Found
from figures.tables import Table, number
from figures.verdicts import counts, ledger_section

TITLE = "Does a dominant language make the tokens of a rarer one worth more?"
# Headings, and the figures and tables below each.
PARTS = (
    ("A clone by its share of the tokens", ("Figure 1 left", "Figure 1 right", "Table 1", "Figure 8")),
    ("More tokens, other sizes", ("Figure 2", "Figure 9")),
    ("A real second language", ("Figure 3", "Table 3", "Figure 4", "Figure 10")),
    ("Inside the model", ("Figure 6", "Figure 7", "Table 2", "Table 4", "Figure 11", "Figure 12", "Figure 13")),
    ("One language alone: what TEff is read from", ("Figure 5",)),
)
CAPTIONS = {
    "Figure 1 left": "Perplexity of a clone and its original; dashed, the same language alone on as many own tokens.",
    "Figure 1 right": "Accuracy after fine-tuning in the original only: in the original, and zero-shot in the clone.",
    "Figure 2": "Clones over tokens at the main size, and over size at T tokens.",
    "Figure 3": "Two real languages by the share of the second, in disjoint and in merged vocabularies.",
    "Figure 4": "Two real languages, merged, over tokens at the main size, and over size at T tokens.",
    "Figure 5": "One language alone, with the law 1/PPL = c - a x^-b; x in units of T.",
    "Figure 6": "Mean cosine of a piece's embedding and its clone's; all pairs are the control.",
    "Figure 7": "Cosine of input embeddings by how often the piece occurs, both versions together.",
    "Figure 8": "Perplexity of the original beside a clone at 50 % that shares a part of its ids.",
    "Figure 9": "Clones at every size and budget: perplexity, MLTE, TEff.",
    "Figure 10": "Two real languages, merged, at every size and budget: perplexity, MLTE, TEff.",
    "Figure 11": "Clones: cosine of the two languages' gradients by parameter tensor and layer.",
    "Figure 12": "Two real languages, merged: cosine of gradients by parameter tensor and layer.",
    "Figure 13": "Two real languages, disjoint: cosine of gradients by parameter tensor and layer.",
    "Table 1": "Clones. TEff of a language alone is 1 by definition; ± is half the range of the seeds.",
    "Table 2": "Clones: cosine of hidden states after each block.",
    "Table 3": "Two real languages. TEff of a language alone is 1 by definition; ± is half the range of the seeds.",
    "Table 4": "Two real languages: cosine of hidden states after each block (a table of the authors' notebook).",
}
# What a reader came for: an arm after T tokens at the main size, a language, and what it is.
HEADLINES = (
    ("clone 10 %", "clone1", "a clone at 10 % of the tokens"),
    ("clone 50 %", "clone1", "a clone at 50 % of the tokens"),
    ("l2 10 %, merged", "l2", "a second language at 10 % of the tokens, in a merged vocabulary"),
)
Block = Text | StatusLine | Rows | Picture


def summary(paper: Published, sides: Sides, found: Found, entries: Sequence[Entry]) -> list[str]:
    """The headline numbers, for the terminal."""
    lines = [verdict(paper)]
    if found.table is None:
        lines.append("There is no table of this study yet: the published side is drawn alone.")
    if entries:
        lines.append(f"Claims: {counts(entries)} (lab claims shows each).")
    return [*lines, *(a.sentence for a in answers(sides))]


def answers(sides: Sides) -> list[Answer]:
    """TEff of the headline arms, measured beside published."""
    found = []
    for arm, language, what in HEADLINES:
        published, own = (_teff(side, arm, language) for side in sides.both)
        here = f"{own} measured" if own else "not measured yet"
        found.append(
            Answer(
                f"TEff {(own or published).partition(' [')[0]}",
                f"measured {own}; published {published}" if own else "published; not measured yet",
                f"of {what}.",
                f"TEff of {what}: {here}, {published} published.",
            )
        )
    return found


def _teff(side: Side, arm: str, language: str) -> str:
    rows = side.results
    rows = rows[(rows.arm == arm) & (rows.times == 1) & (rows["size"] == "main") & (rows.language == language)]
    if rows.empty or not np.isfinite(rows.teff.iloc[0]):
        return ""
    row = rows.iloc[0]
    bound = "" if row.teff_kind == "exact" else f"{row.teff_kind} "
    spread = f" [{number(row.teff_low)}, {number(row.teff_high)}]" if len(row.runs) > 1 else ""
    return f"{bound}{number(row.teff)}{spread}"


def write_report(
    paper: Published,
    sides: Sides,
    own: Own,
    found: Found,
    pictures: Mapping[str, Path],
    tables: Mapping[str, Table],
    entries: Sequence[Entry],
    beyond: Section | None,
    folder: Path,
) -> Path:
    """Writes the page."""
    sections = [ledger_section(entries)] if entries else []
    for heading, names in PARTS:
        blocks: list[Block] = []
        for name in names:
            if name in tables:
                blocks += [Text(f"{name}. {CAPTIONS[name]}"), tables[name].rows]
                blocks += [Text(paper.notes[name], note=True)] if name in paper.notes else []
            else:
                blocks.append(Picture(pictures[name], name, f"{name}. {CAPTIONS[name]}"))
        sections.append(Section(heading, blocks))
    sections += [beyond] if beyond else []
    sections.append(_regenerated(paper))
    if "rates" in pictures:
        sections.append(_learning_rates(pictures["rates"]))
    sections.append(_run(sides, own))
    sections.append(_sources(paper, sides))
    lead = (
        f"Every figure and table of {paper.paper['authors']}, arXiv:{paper.paper['arxiv']}, with what was measured "
        "here beside it. Tokens are in units of T, the standard budget of each side; perplexities have axes of their "
        "own, since the texts differ."
    )
    if found.table is None:
        lead += " There is no table of this study here yet: the published side stands alone."
    return write(folder / "report.html", TITLE, lead, answers(sides), sections)


def _learning_rates(picture: Path) -> Section:
    return Section(
        "Learning rates",
        [
            Picture(
                picture,
                "Learning rates",
                "Loss by peak learning rate, at each size and budget of the sweep that goes before the study. A star "
                "is the bottom of a parabola, a triangle a best rate on the edge of its grid; dotted, the rule.",
            )
        ],
    )


def _regenerated(paper: Published) -> Section:
    laws = refitted(paper)
    rows = [
        [
            f"{row['language']}, {paper.sizes[row['size']]}",
            str(row["points"]),
            *(f"{row[name]:.4g}" for name in "abc"),
            row["evidence"],
            f"{row['apart']:.2%}",
        ]
        for row in laws.to_dict("records")
    ]
    head = ("ladder", "points", "a", "b", "c", "paper's law is", "apart from it, at most")
    worst = recomputed(paper)
    worst = worst.reindex(worst.error.abs().sort_values(ascending=False).index).head(3)
    names = "; ".join(
        f"{row['language']} of {row['arm']}, {row['times']:g} T: {row['teff']:.6f}, printed {row['printed']:g}"
        for row in worst.to_dict("records")
    )
    return Section(
        "The paper's own numbers, made again",
        [Text(verdict(paper)), Rows(head, rows), Text(f"The least alike of the recomputed TEff: {names}.", note=True)],
    )


def _run(sides: Sides, own: Own) -> Section:
    """What was trained, at what cost, and what was left out."""
    lacking = missing(sides.published.results, sides.measured.results)
    blocks: list[Block] = []
    runs = own.table.drop_duplicates("run_id")
    if len(runs):
        seconds, flops = runs.wall_s.sum(), runs.flops_exact.sum()
        sizes = ", ".join(f"{name} ({role})" for role, name in sides.measured.sizes.items())
        blocks.append(
            Text(
                f"{len(runs)} runs of {runs.arm.nunique()} arms, {flops:.3g} FLOPs in {seconds / 3600:.2f} hours on "
                f"{', '.join(sorted(set(runs.device.dropna())))}; T = {count(sides.measured.tokens)} tokens; "
                f"parameters without embeddings {sizes}. The most that any text was "
                f"read: {own.table.epochs.max():.2f} epochs."
            )
        )
        blocks.append(Rows(("arms", "runs", "tokens", "peak rate", "minutes"), _arms(runs)))
        blocks += [Text(remark) for remark in sides.measured.remarks]
        blocks += _excluded(own.excluded)
        if len(own.fixed.results):
            blocks += [Text("At the paper's rate, the same at every size and budget:"), _rates(own)]
    if lacking:
        what = "Not measured" if len(runs) else "There is no table: nothing is measured yet. The paper has"
        blocks.append(Text(f"{what} ({len(lacking)} arms): {'; '.join(lacking)}.", note=True))
    return Section("What was run, and what was not", blocks)


def _arms(runs: pd.DataFrame) -> list[list[str]]:
    return [
        [
            str(arm),
            str(len(rows)),
            " to ".join(dict.fromkeys([count(float(rows.tokens_seen.min())), count(float(rows.tokens_seen.max()))])),
            " to ".join(dict.fromkeys([f"{rows.peak_lr.min():.3g}", f"{rows.peak_lr.max():.3g}"])),
            f"{rows.wall_s.sum() / 60:.1f}",
        ]
        for arm, rows in runs.groupby(runs.arm.str.replace(r", [\d.]+ T,", ",", regex=True), sort=False)
    ]


def _excluded(rows: pd.DataFrame) -> list[Block]:
    runs = rows.drop_duplicates("run_id")
    if runs.empty:
        return [Text("No run is excluded.", note=True)]
    reasons = runs.exclusion.fillna(runs.status).value_counts()
    return [Text(f"Runs that no figure shows: {', '.join(f'{n} {why}' for why, n in reasons.items())}.", note=True)]


def _rates(own: Own) -> Rows:
    """The arms that ran at the paper's rate too, beside the tuned one."""
    keys = ["arm", "times", "size", "language"]
    both = own.fixed.results.merge(own.tuned.results, on=keys, suffixes=("_fixed", "_tuned"))
    rows = [
        [
            f"{row['arm']}, {row['times']:g} T",
            row["language"],
            *(number(row[f"{what}_{rate}"]) for what in ("ppl", "teff") for rate in ("tuned", "fixed")),
        ]
        for row in both.to_dict("records")
    ]
    return Rows(("arm", "language", "PPL, tuned", "PPL, paper's rate", "TEff, tuned", "TEff, paper's rate"), rows)


def _sources(paper: Published, sides: Sides) -> Section:
    kinds = pd.concat([paper.results.ppl_evidence, paper.ladders.evidence, paper.probes.evidence, paper.laws.evidence])
    rows = [[letter, MEANINGS[letter], str(n)] for letter, n in kinds.value_counts().items()]
    where = Provenance.of(sides.table, "figures.imbalance", ())
    return Section(
        "Where every number comes from",
        [
            Text(
                f"Published: the paper, arXiv:{paper.paper['arxiv']}, and the authors' notebook and plots in "
                f"{paper.paper['code']} at {paper.paper['commit']}, each number with its place in "
                f"figures/published/{paper.path.name}. Marked (D) in tables and hollow in figures: read off a plot."
            ),
            Rows(("", "evidence", "numbers"), rows),
            Text(
                f"This page was drawn from {where.table} (SHA-256 {where.table_sha256[:16]}…) at revision "
                f"{where.revision}; every figure says which of its runs it shows: `lab trace FIGURE`."
            ),
        ],
    )
