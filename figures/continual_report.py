"""The report of the continual study: each figure and table of the paper, published beside measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from analysis.claims.ledger import Entry
from analysis.continual import frontiers
from analysis.laws import get
from figures.continual_measured import Own, Sides
from figures.continual_replay import parents_in_words
from figures.continual_tables import forgetting_words
from figures.continual_words import REPLAY, VOCABULARY, sentences
from figures.drawing import Provenance, count
from figures.numbers import Number
from figures.published import MEANINGS
from figures.report import Answer, Block, Picture, Rows, Section, StatusLine, Text, write
from figures.studies import Found
from figures.tables import Table
from figures.verdicts import counts, ledger_section

TITLE = "What is a model of one language worth as the start of another?"
PARTS = (
    ("Continued beside from scratch", ("Figure 1", "Figure 2", "Table 1")),
    ("The joint law", ("Table 2", "Table 3", "Forms", "Figure 4", "Accounting")),
    ("Forgetting and replay", ("Figure 5", "Forgetting", "Replay by size")),
    ("The parent's length", ("Parents", "Lengths")),
    ("Distance", ("Distances", "Figure 3")),
    ("Accuracies by replay", ("Figure 6",)),
    ("Vocabulary", ("Vocabulary",)),
    ("Shapes", ("Table 4",)),
)
CAPTIONS = {
    "Figure 1": "Target loss over compute, every size, with the power laws of both frontiers; at the right one size.",
    "Figure 2": "What continuing saves at equal loss: FLOPs (above) and tokens (below), by size.",
    "Figure 3": "Accuracy in each target: the source's model before any target, from scratch, continued.",
    "Figure 4": "Contours of equal loss over compute and size by both laws, and the best size of each.",
    "Figure 5": "Loss in source and target by what was spent on each, by share of replay.",
    "Figure 6": "Accuracy in source and target by share of replay; the languages alone at the left.",
    "Accounting": "Least loss for a compute with the parent free, and with its cost divided among targets.",
    "Distances": "What pre-training gains a target, over five measures of its distance from the source.",
    "Replay by size": "What is forgotten and what the target pays, by share of replay, size and target tokens.",
    "Parents": "One size continued from parents of two lengths: target loss, and tokens saved at equal loss.",
    "Lengths": "The same as numbers.",
    "Table 1": "The three sets of models.",
    "Table 2": "Coefficients of L = E + A/N^alpha + B/(D^beta N^gamma), with two-stage intervals, and the best sizes.",
    "Table 3": "Fit errors: sums of Huber's function, corner 1e-3, of residuals of log loss.",
    "Table 4": "The paper's shapes, with the sizes that its rule gives, and the measured ones.",
    "Forms": "gamma by every way of fitting it, the bounded form, and how each form misses larger continued runs.",
    "Forgetting": "Loss in the source before, at its highest, and after a continued run.",
    "Vocabulary": "Continued runs in every vocabulary: bits a byte, at equal bytes and at equal exact FLOPs.",
}


def summary(sides: Sides, found: Found, entries: Sequence[Entry]) -> list[str]:
    """The headline numbers, for the terminal."""
    lines = []
    if found.table is None:
        lines.append("There is no table of this study yet: the published side is drawn alone.")
    if entries:
        lines.append(f"Claims: {counts(entries)} (lab claims shows each).")
    lines += [a.sentence for a in answers(sides)]
    if len(sides.own.by_parent):
        lines.append(parents_in_words(sides))
    return [*lines, *sentences(entries, REPLAY), *sentences(entries, VOCABULARY)]


def answers(sides: Sides) -> list[Answer]:
    """What a reader came for: saving, gamma, forgetting; measured beside published."""
    own, paper = sides.own, sides.paper
    low, high = (100 * paper.fact(name) for name in ("saved, least", "saved, most"))
    found = []
    exact = own.saved[own.saved.kind == "exact"] if len(own.saved) else own.saved
    published = f"published {low:.0f} to {high:.0f} %"
    if len(exact):
        ends = 100 * exact.saved.min(), 100 * exact.saved.max()
        value = f"{ends[0]:.0f} to {ends[1]:.0f} % saved"
        text = f"of tokens and FLOPs at equal loss, over {len(exact)} sizes and budgets."
        found.append(Answer(value, published, text,
                            f"Saved at equal loss: {value} measured, {published}."))  # fmt: skip
    else:
        found.append(Answer(f"{low:.0f} to {high:.0f} %", "published; not measured yet",
                            "of tokens and FLOPs saved at equal loss.",
                            f"Saved at equal loss: not measured yet, {published}."))  # fmt: skip
    fits, printed = own.joint, paper.law("cpt")["gamma"]
    if fits is not None:
        bounds = fits.bounds("gamma")
        value = f"gamma {fits.cpt.params['gamma']:+.3f}"
        interval = f"[{bounds[0]:+.3f}, {bounds[1]:+.3f}]" if bounds else "(no interval: too few sizes)"
        found.append(Answer(value, f"{interval}; published {printed:+.3f}",
                            "of continued runs: above 0, larger models transfer more.",
                            f"{value} {interval} of continued runs, {printed:+.3f} published."))  # fmt: skip
    if len(own.forgotten):
        main = own.forgotten[(own.main_n == own.forgotten.N) & (own.forgotten.setting == "")]
        without = main[main.replay == 0]
        if len(without):
            rise = float(without.rise.mean())
            before, after = (paper.fact(f"source loss {w}, 1.4B") for w in ("before", "after without replay"))
            sentence = f"The source loses {rise:+.2f} nats without replay, {after - before:+.2f} published."
            found.append(Answer(f"{rise:+.2f} nats", f"published {after - before:+.2f} at 1.4B",
                                "of the source lost without replay, at the main size.", sentence))  # fmt: skip
    return found


def numbers(own: Own) -> Iterator[Number]:
    """Every measured number of the figures, with the runs that it comes from."""
    for row in own.saved.to_dict("records") if len(own.saved) else []:
        where = f"at {count(row['N'])} parameters and {count(row['D'])} tokens of the target ({row['kind']})"
        yield Number(f"share saved at equal loss {where}", row["saved"], "monotone interpolation", row["runs"])
        yield Number(f"tokens transferred {where}", row["transferred"], "monotone interpolation", row["runs"])
    for row in own.gains.to_dict("records") if len(own.gains) else []:
        where = f"of {row['setting'] or 'the main target'} at {count(row['N'])} parameters, {count(row['D'])} tokens"
        yield Number(f"ln of scratch over continued loss {where}", row["gain"], "mean of seeds", row["runs"])
    if own.joint is not None:
        ids = tuple(own.ladder.run_id)
        for role, one in (("scratch", own.joint.scratch), ("cpt", own.joint.cpt)):
            for name, value in one.params.items():
                ends = own.joint.bounds(f"{name}'" if role == "cpt" else name)
                yield Number(f"{name} of the law, {role}", value, f"two-stage fit, {one.status}", ids,
                             {} if ends is None else {"cluster": ends})  # fmt: skip
    for row in own.forgotten.to_dict("records") if len(own.forgotten) else []:
        name = f"rise of the source's loss in {row['arm']}, seed {row['seed']}"
        yield Number(name, row["rise"], "after less before", (row["run_id"],))


def write_report(
    sides: Sides, found: Found, pictures: Mapping[str, Path], tables: Mapping[str, Table], entries: Sequence[Entry],
    folder: Path,
) -> Path:  # fmt: skip
    """Writes the page."""
    sections = [ledger_section(entries)] if entries else []
    paper = sides.paper
    for heading, names in PARTS:
        blocks: list[Block] = []
        for name in names:
            if name in tables:
                rows = tables[name].rows
                blocks.append(Text(f"{name}. {CAPTIONS[name]}"))
                blocks.append(rows if rows.rows else Text("Nothing of it is in the table.", note=True))
            else:
                blocks.append(Picture(pictures[name], name, f"{name}. {CAPTIONS[name]}"))
            if name in paper.notes and name in tables:
                blocks.append(Text(paper.notes[name], note=True))
            if name == "Forgetting":
                blocks.append(Text(forgetting_words(sides)))
            if name == "Parents":
                blocks.append(Text(parents_in_words(sides)))
            of_claims = {"Replay by size": REPLAY, "Vocabulary": VOCABULARY}.get(name, {})
            blocks += [Text(sentence) for sentence in sentences(entries, of_claims)]
            if name == "Table 2":
                blocks += _status(sides)
        sections.append(Section(heading, blocks))
    sections += [_run(sides), _sources(sides)]
    lead = (
        f"Every figure and table of {paper.paper['authors']}, arXiv:{paper.paper['arxiv']}, with what was measured "
        "here beside it. N counts parameters without the token embedding, C is 6ND, losses are nats a token."
    )
    if found.table is None:
        lead += " There is no table of this study here yet: the published side stands alone."
    return write(folder / "report.html", TITLE, lead, answers(sides), sections)


def _status(sides: Sides) -> list[Block]:
    """Whether the fits may be read, and where the order of the best sizes turns."""
    law, paper = get("cpt"), sides.paper
    turn = frontiers.breakeven(law, paper.law("scratch"), paper.law("cpt"))
    blocks: list[Block] = [
        Text(f"As printed, a continued run's best size is the larger one below {turn:.2g} FLOPs and the smaller above.",
             note=True)
    ]  # fmt: skip
    fits = sides.own.joint
    if fits is None:
        return [*blocks, StatusLine("not fitted", sides.own.why("laws"), True)]
    for name, one in (("from scratch", fits.scratch), ("continued", fits.cpt)):
        text = "; ".join(flag.text for flag in one.flags) or f"{one.n} runs"
        blocks.append(StatusLine(one.status, f"{name}: {text}", one.status != "converged"))
    if fits.draws is not None:
        blocks += [StatusLine(flag.kind, flag.text, True) for flag in fits.draws[1].flags]
    return blocks


def _run(sides: Sides) -> Section:
    """What was trained, at what cost, and what was left out."""
    rows = sides.own.rows
    if rows.empty:
        return Section("What was run, and what was not", [Text("Nothing yet: there is no table.", note=True)])
    runs = rows.drop_duplicates("run_id")
    done = runs[runs.status == "done"]
    blocks: list[Block] = [
        Text(
            f"{len(runs)} runs of {runs.arm.nunique()} arms, {done.flops_spent.sum():.3g} FLOPs in "
            f"{done.wall_s.sum() / 3600:.2f} hours on {', '.join(sorted(set(runs.device.dropna())))}. The most that "
            f"any text was read: {rows.epochs.max():.2f} epochs."
        )
    ]
    by = [
        [
            str(role),
            str(len(part)),
            str(part.arm.nunique()),
            f"{part.flops_spent.sum():.3g}",
            f"{part.wall_s.sum() / 60:.1f}",
        ]
        for role, part in done.groupby("role")
    ]
    blocks.append(Rows(("role", "runs", "arms", "FLOPs", "minutes"), by))
    lost = runs[runs.exclusion.notna() | (runs.status != "done")]
    if len(lost):
        reasons = lost.exclusion.fillna(lost.status).value_counts()
        text = f"Runs that no figure shows: {', '.join(f'{n} {why}' for why, n in reasons.items())}."
        blocks.append(Text(text, note=True))
    blocks += [Text(f"Not to be had, {part}: {why}", note=True) for part, why in sides.own.refused.items()]
    return Section("What was run, and what was not", blocks)


def _sources(sides: Sides) -> Section:
    paper = sides.paper
    rows = [[str(letter), MEANINGS[str(letter)], str(n)] for letter, n in paper.evidence.value_counts().items()]
    where = Provenance.of(sides.table, "figures.continual", ())
    return Section(
        "Where every number comes from",
        [
            Text(
                f"Published: the paper, arXiv:{paper.paper['arxiv']}, each number with its place in "
                f"figures/published/{paper.path.name}. Of its figures it prints no digit beyond the text."
            ),
            Rows(("", "evidence", "numbers"), rows),
            Text(
                f"This page was drawn from {where.table} (SHA-256 {where.table_sha256[:16]}…) at revision "
                f"{where.revision}; every figure says which of its runs it shows: `lab trace FIGURE`."
            ),
        ],
    )
