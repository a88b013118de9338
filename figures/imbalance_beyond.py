"""Beyond the imbalance paper: up to which share a clone gains, a law of TEff, and what foretells it early."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims import LnShareAtOne, LnTEff
from analysis.claims.evidence import PPL, Estimate, Evidence, Reading
from analysis.claims.gather import gather
from analysis.tasks import Accuracy, task_verdicts
from analysis.teff import readable, variants
from analysis.teff_law import teff_law
from figures.drawing import Provenance, axes, count, save
from figures.imbalance_drawing import worth_axis
from figures.report import Block, Picture, Rows, Section, Text
from lab.errors import LabError
from lab.table import read_table

CLONE = "clone1"
# Arms of two clones that read different texts, in one stage: share, and anchors.
PAIR = re.compile(r"clone (?P<share>[\d.]+) %(, (?P<anchored>[\d.]+) % anchored)?, [\d.]+ T, .+")
LEAST_SHARES = 3
EARLY, LIKENESS = 0.1, "hidden state"


def section(table: Path, probes: Path | None, again: str, folder: Path) -> Section | None:
    """The part of the report, and its picture below `folder`; nothing where no clone can be read against a ladder.

    Raises:
      LabError: for a damaged table.
    """
    plain, _ = variants(read_table(table), again) if again else (read_table(table), None)
    rows = readable(plain)
    pairs = clones(rows)
    if pairs.empty:
        return None
    evidence = gather(rows)
    readings = None if probes is None else pd.read_parquet(probes)
    blocks: list[Block] = [*_shares(evidence, pairs), *_law(evidence, pairs), *_tasks(readings)]
    png = None if readings is None else foretelling(evidence, pairs, readings, table, folder / "foretelling")
    if png is not None:
        caption = (
            "TEff of a clone at the end of training over the likeness of its hidden states to the original's after a "
            "tenth of it (mean over layers). A mark is a run; each is read against the ladder of all seeds."
        )
        blocks.append(Picture(png, "Likeness and TEff", caption))
    return Section("Beyond the paper", blocks) if blocks else None


def clones(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an arm of two clones in one stage: arm, share, anchored, size, tokens."""
    found = []
    for arm, part in rows[rows.language == CLONE].groupby("arm", sort=False):
        match = PAIR.fullmatch(str(arm))
        if match:
            first = part.iloc[0]
            found.append(
                {
                    "arm": str(arm), "share": float(part.tokens_language.mean() / first.tokens_seen),
                    "anchored": float(match["anchored"] or 0) / 100, "N": int(first.n_nonembedding),
                    "tokens": int(first.tokens_seen),
                }
            )  # fmt: skip
    return pd.DataFrame(found, columns=["arm", "share", "anchored", "N", "tokens"])


def _reading(evidence: Evidence, arms: Sequence[str]) -> Reading:
    return "local" if evidence.misfits([evidence.cell(arm, PPL, CLONE) for arm in arms]) else "law"


def _points(arms: Sequence[str]) -> tuple[LnTEff, ...]:
    return tuple(LnTEff(arm, CLONE, ()) for arm in arms)


def _shares(evidence: Evidence, pairs: pd.DataFrame) -> list[Block]:
    lines = []
    for _, part in pairs[pairs.anchored == 0].groupby(["N", "tokens"]):
        if len(part) >= LEAST_SHARES:
            size, tokens = (float(part[name].iloc[0]) for name in ("N", "tokens"))
            arms = part.sort_values("share").arm.tolist()
            found = evidence.estimate(LnShareAtOne(_points(arms)), _reading(evidence, arms))
            lines.append([count(size), count(tokens), str(len(arms)), *_percents(found)])
    if not lines:
        return []
    head = ("parameters", "tokens", "shares", "TEff is 1 at a share of", "95 % interval")
    text = "Up to which share of the tokens does a clone gain? Where its TEff falls through 1, joined between shares."
    return [Text(text), Rows(head, lines)]


def _percents(found: Estimate) -> tuple[str, str]:
    def percent(value: float) -> str:
        return f"{100 * np.exp(value):.3g} %"

    if found.low != found.high:
        return ("below all" if np.isfinite(found.high) else "above all"), "open"
    low, high = found.interval()
    return percent(found.low), f"{'0' if low == -np.inf else percent(low)} to {percent(min(high, 0.0))}"


def _law(evidence: Evidence, pairs: pd.DataFrame) -> list[Block]:
    """ln TEff over share, size, tokens and anchors, as far as the arms differ in them."""
    reading = _reading(evidence, pairs.arm.tolist())
    known = [p for p in _points(pairs.arm.tolist()) if (e := evidence.estimate(p, reading)).low == e.high]
    pairs = pairs.set_index("arm").loc[[p.arm for p in known]]
    every = {
        "ln share": np.log(pairs.share), "ln parameters": np.log(pairs.N), "ln tokens": np.log(pairs.tokens),
        "anchored share": pairs.anchored,
    }  # fmt: skip
    used = {name: values.tolist() for name, values in every.items() if values.nunique() > 1}
    try:
        law = teff_law(evidence, known, used, reading)
    except LabError as error:
        return [Text(f"No law of TEff: {error.problem}", note=True)]
    rows = [
        [name, f"{found.low:+.3f}", "{:+.3f} to {:+.3f}".format(*found.interval())]
        for name, found in law.coefficients.items()
        if name != "1"
    ]
    text = (
        f"ln TEff of a clone as a sum of powers, fitted to {len(known)} arms; it leaves {law.spread:.2f} in ln TEff "
        "(root mean square), so read a coefficient as a direction."
    )
    return [Text(text), Rows(("", "coefficient", "95 % interval"), rows)]


def _tasks(probes: pd.DataFrame | None) -> list[Block]:
    """Whether anything that was learned in the original comes across, task by task."""
    verdicts = () if probes is None else task_verdicts(probes)
    if not verdicts:
        return []
    rows = [
        [v.arm, v.task, v.answer, *(_accuracy(a) for a in (v.first, v.second, v.untrained, v.taught)),
         f"{v.majority:.3f}", str(v.runs)]
        for v in verdicts
    ]  # fmt: skip
    head = ("arm", "task", "", "l1", "clone, zero-shot", "untrained", "taught in the clone", "majority", "models")
    text = (
        "Fine-tuned in the original, scored in the clone. A task on which the model does not beat the majority label "
        "in the original shows no signal, whatever the clone gets."
    )
    return [Text(text), Rows(head, rows)]


def _accuracy(found: Accuracy) -> str:
    if not np.isfinite(found.low):
        return f"{found.mean:.3f}" if np.isfinite(found.mean) else "–"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def foretelling(evidence: Evidence, pairs: pd.DataFrame, probes: pd.DataFrame, table: Path, stem: Path) -> Path | None:
    """Draws TEff at the end over likeness early, a mark a run at the size and budget with most shares; nothing where no
    run was probed early."""
    plain = pairs[pairs.anchored == 0]
    most = plain.groupby(["N", "tokens"]).arm.transform("size")
    first = plain[most == most.max()].iloc[0]
    arms = plain[(plain.N == first.N) & (plain.tokens == first.tokens)].sort_values("share")
    asked = (probes.probe == LIKENESS) & (probes["at"] == EARLY) & (probes.condition == "pairs")
    means = probes[asked & (probes.language == CLONE)].groupby("run_id").value.mean()
    early = dict(zip(means.index.tolist(), means.tolist(), strict=True))
    figure, ax = axes(1, 1, (5.4, 4.0))
    shown: list[str] = []
    reading = _reading(evidence, arms.arm.tolist())
    for k, (arm, share) in enumerate(zip(arms.arm.tolist(), arms.share.tolist(), strict=True)):
        runs = [run for run in evidence.runs[arm] if run in early]
        worth = evidence.estimate(LnTEff(arm, CLONE, ()), reading)
        if runs and worth.low == worth.high:
            ends = np.exp(worth.low - worth.below), np.exp(worth.low + worth.above)
            ax.plot(
                [early[run] for run in runs],
                [np.exp(worth.low)] * len(runs),
                "o",
                color=f"C{k}",
                label=f"{100 * share:.3g} %",
            )
            ax.plot([np.mean([early[run] for run in runs])] * 2, ends, color=f"C{k}", linewidth=1)
            shown += runs
    if not shown:
        return None
    worth_axis(ax)
    ax.set_xlabel("likeness of hidden states after a tenth of training")
    ax.set_ylabel("TEff of the clone at the end")
    ax.legend(title="clone's share", frameon=False, fontsize=8)
    return save(figure, stem, Provenance.of(table, "figures.imbalance_beyond.foretelling", shown))
