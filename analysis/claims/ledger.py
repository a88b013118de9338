"""Verdicts: each claim on its own, then all of them together, and against the same arms at another learning rate.

A claim is *reproduced* when the whole interval lies on the claimed side (for "about zero": within delta),
*contradicted* when the whole interval lies on the other side, *undecided* otherwise, and has *no data* where arms are
missing. Holm's procedure over the ledger then keeps the chance of one wrong decision or more at 5 %: the verdict counts
what survives it, the raw verdict is shown beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.estimands import Claim, LnTEff, Measured, ids, leaves
from analysis.claims.evidence import LEVEL, Estimate, Evidence, Reading
from analysis.claims.gather import gather
from analysis.teff import usable, variants
from lab.errors import LabError

Verdict = Literal["reproduced", "contradicted", "undecided", "no data"]
MOST_SEEDS = 100


@dataclasses.dataclass(frozen=True)
class Finding:
    """One claim read by one reading of the ladders.

    Attributes:
      verdict: raw, of this claim alone.
      estimate: of its estimand.
      interval: at 95 %.
      p_reproduced, p_contradicted: one-sided; a side is decided at 2.5 %.
    """

    verdict: Verdict
    estimate: Estimate
    interval: tuple[float, float]
    p_reproduced: float
    p_contradicted: float

    @property
    def p(self) -> float:
        """Of either decision."""
        return min(1.0, 2 * min(self.p_reproduced, self.p_contradicted))

    @property
    def half_width(self) -> float:
        return (self.interval[1] - self.interval[0]) / 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the ledger.

    Attributes:
      claim: what was claimed.
      verdict: after Holm, the claim's number of seeds, and the flip rules.
      raw: of the claim alone; None without data.
      reading: of the ladders that the numbers are by: the token law, or the local curve where the law misfits.
      finding: the numbers; None without data.
      beside: the verdict by the token law where that misfits, and at the other rate; None where there is none.
      p_holm: adjusted p.
      reason: why it is undecided or has no data; empty otherwise.
      further: seeds more for each of its arms that would decide it; None where it is decided or no number would.
      seeds: of the claim's arms, the fewest.
      documents: of the evaluation sets behind it, the fewest; 0 where the table kept no losses by document, so that the
        interval knows nothing of the text that was scored.
      runs: ids of all runs that the verdict rests on.
    """

    claim: Claim
    verdict: Verdict
    raw: Verdict
    reading: Reading | None
    finding: Finding | None
    beside: dict[str, Verdict]
    p_holm: float | None
    reason: str
    further: int | None
    seeds: int
    documents: int
    runs: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """One JSON-ready object; an open end of an interval is null."""
        found = self.finding
        ends = [] if found is None else [v if math.isfinite(v) else None for v in found.interval]
        value = None if found is None else _value(found.estimate)
        return {
            "id": self.claim.id,
            "claim": self.claim.text,
            "source": self.claim.source,
            "estimand": str(self.claim.estimand),
            "side": self.claim.side,
            "against": self.claim.against,
            "delta": self.claim.delta,
            "verdict": self.verdict,
            "raw_verdict": self.raw,
            "statistic": value,
            "interval": ends,
            "half_width": None if found is None or not math.isfinite(found.half_width) else found.half_width,
            "degrees_of_freedom": None if found is None else found.estimate.freedom,
            "p": None if found is None else found.p,
            "p_holm": self.p_holm,
            "read_by": {"law": "token law", "local": "local curve", None: None}[self.reading],
            "beside": dict(self.beside),
            "reason": self.reason,
            "further_seeds": self.further,
            "further_runs": None if self.further is None else self.further * len(self.claim.arms),
            "seeds": self.seeds,
            "documents": self.documents,
            "runs": list(self.runs),
        }


def _value(estimate: Estimate) -> float | None:
    """The estimate, or the bound on it; None where nothing is known."""
    return next((v for v in (estimate.low, estimate.high) if math.isfinite(v)), None)


def judge(evidence: Evidence, claim: Claim, reading: Reading) -> Finding:
    """The raw verdict on one claim.

    Raises:
      LabError: as `Evidence.estimate`.
    """
    estimate = evidence.estimate(claim.estimand, reading)
    above, below, null = estimate.p_above, estimate.p_below, claim.against
    if claim.side == "above":
        right, wrong = above(null), below(null)
    elif claim.side == "below":
        right, wrong = below(null), above(null)
    else:
        low, high = null - claim.delta, null + claim.delta
        right, wrong = max(above(low), below(high)), min(above(high), below(low))
    tail = (1 - LEVEL) / 2
    verdict: Verdict = "reproduced" if right <= tail else "contradicted" if wrong <= tail else "undecided"
    return Finding(verdict, estimate, estimate.interval(), right, wrong)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (Holm 1979): reject those at or below the level."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _silent(_: str) -> None:
    pass


def ledger(
    claims: tuple[Claim, ...], evidence: Evidence, other: Evidence | None = None,
    told: Callable[[str], None] = _silent,
) -> tuple[Entry, ...]:  # fmt: skip
    """All claims judged together, in their order.

    Args:
      claims: of a study.
      evidence: its table.
      other: the same arms under another rule of learning rates: where the two decide opposite ways, nothing is decided.
      told: is called with what is being done.

    Raises:
      LabError: when two claims share an id, or nothing in the table can be read.
    """
    entries = []
    for k, claim in enumerate(ids(claims).values(), 1):
        told(f"Claim {claim.id} ({k} of {len(claims)})")
        entries.append(_entry(claim, evidence, other))
    judged = [i for i, e in enumerate(entries) if e.finding is not None]
    if entries and not judged:
        first = entries[0]
        raise LabError(
            f"None of the {len(entries)} claims can be tested: {first.claim.id} is {first.reason}.",
            "Run these arms, then collect.",
        )
    adjusted = holm([found.p for i in judged if (found := entries[i].finding) is not None])
    for i, p in zip(judged, adjusted, strict=True):
        entries[i] = _after_holm(entries[i], float(p))
    return tuple(entries)


def _entry(claim: Claim, evidence: Evidence, other: Evidence | None) -> Entry:
    missing = _missing(claim, evidence)
    runs = tuple(dict.fromkeys(r for arm in claim.needs for r in evidence.runs.get(arm, ())))
    if missing:
        shown = "; ".join(missing[:4]) + (f"; and {len(missing) - 4} more" if len(missing) > 4 else "")
        return Entry(claim, "no data", "no data", None, None, {}, None, f"missing: {shown}", None, 0, 0, runs)
    cells = [i for leaf in leaves(claim.estimand) if isinstance(leaf, LnTEff) for i in [_cell(evidence, leaf)]]
    beside: dict[str, Verdict] = {}
    reading: Reading | None = None
    if cells:
        reading = "local" if evidence.misfits(cells) else "law"
    finding = judge(evidence, claim, reading or "law")
    if reading == "local":
        beside["by the token law, which misfits its ladder"] = judge(evidence, claim, "law").verdict
    if other is not None and not _missing(claim, other):
        again: Reading = "law"
        theirs = [i for leaf in leaves(claim.estimand) if isinstance(leaf, LnTEff) for i in [_cell(other, leaf)]]
        if theirs and other.misfits(theirs):
            again = "local"
        beside["at the other learning rate"] = judge(other, claim, again).verdict
    seeds = min(int(evidence.cells.seeds[_cell(evidence, leaf)]) for leaf in leaves(claim.estimand))
    verdict, reason = finding.verdict, ""
    opposite = {"reproduced": "contradicted", "contradicted": "reproduced"}.get(finding.verdict)
    flips = [where for where, what in beside.items() if what == opposite]
    if seeds < claim.seeds:
        verdict, reason = "undecided", f"{seeds} of {claim.seeds} seeds"
    if flips:
        verdict, reason = "undecided", f"the verdict flips: {finding.verdict}, but {opposite} {' and '.join(flips)}"
    further = None
    if verdict == "undecided" and not flips:
        further = further_seeds(claim, finding, seeds)
        if not reason:
            reason = _why(claim, finding, further)
    texts = {str(evidence.cells.eval_hash[_cell(evidence, leaf)]) for leaf in leaves(claim.estimand)}
    documents = min(evidence.documents.get(text, 0) for text in texts)
    return Entry(
        claim, verdict, finding.verdict, reading, finding, beside, None, reason, further, seeds, documents, runs
    )


def _cell(evidence: Evidence, leaf: Measured) -> int:
    return evidence.cell(leaf.arm, *leaf.cell)


def _missing(claim: Claim, evidence: Evidence) -> list[str]:
    """What is not in the table: arms by name, and measurements of arms that are."""
    found = [f"the arm {arm!r}" for arm in claim.needs if arm not in evidence.runs]
    for leaf in leaves(claim.estimand):
        if leaf.arm in evidence.runs:
            try:
                cell = _cell(evidence, leaf)
                if isinstance(leaf, LnTEff) and not found:
                    evidence.reference(cell, "local")
            except LabError as error:
                found.append(error.problem.rstrip("."))
    return list(dict.fromkeys(found))


def _why(claim: Claim, finding: Finding, further: int | None) -> str:
    if not math.isfinite(finding.half_width):
        known = finding.estimate.freedom > 0
        return "the interval is open: only a bound is known" if known else "no arm has replicate seeds"
    low, high = finding.interval
    if claim.side != "about zero" and claim.against - claim.delta < low and high < claim.against + claim.delta:
        return f"any effect is smaller than {claim.delta:g}, the smallest that matters"
    width = f"half-width {finding.half_width:.3f}"
    if further is None:
        return f"{width}; more seeds alone would not decide it"
    runs = further * len(claim.arms)
    return f"{width}; {_many(further, 'more seed')} ({_many(runs, 'run')}) would decide it"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def further_seeds(claim: Claim, finding: Finding, seeds: int) -> int | None:
    """Seeds more for each arm at which the interval is expected to decide.

    The effect is taken to be the estimate; or delta, where that is larger and the interval does not speak against it.
    More seeds shrink what seeds contribute and leave what the documents do; None when 100 would not do, or when the
    interval has shrunk to less than delta around nothing.
    """
    value = _value(finding.estimate)
    if value is None or not math.isfinite(finding.half_width):
        return None
    away = abs(value - claim.against)
    if claim.side == "about zero":
        wanted = abs(claim.delta - away)
    else:
        wanted = away if finding.half_width < claim.delta else max(away, claim.delta)
        if away + finding.half_width < claim.delta:
            return None
    estimate = finding.estimate
    for more in range(1, MOST_SEEDS + 1):
        share = seeds / (seeds + more)
        freedom = estimate.freedom / share if estimate.seeds > estimate.documents else estimate.freedom
        half = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(estimate.seeds * share + estimate.documents)
        if seeds + more >= claim.seeds and half < wanted:
            return more
    return None


def _after_holm(entry: Entry, p: float) -> Entry:
    entry = dataclasses.replace(entry, p_holm=p)
    if entry.verdict not in ("reproduced", "contradicted") or p <= 1 - LEVEL:
        return entry
    assert entry.finding is not None
    more = further_seeds(entry.claim, entry.finding, entry.seeds)
    reason = f"{entry.verdict} by itself, but not among all claims (Holm's p {p:.3f})"
    return dataclasses.replace(entry, verdict="undecided", reason=reason, further=more)


def study_ledger(
    claims: tuple[Claim, ...], table: pd.DataFrame, again: str = "", probes: pd.DataFrame | None = None,
    other: pd.DataFrame | None = None, told: Callable[[str], None] = _silent,
) -> tuple[Entry, ...]:  # fmt: skip
    """The ledger of a study's result table.

    Args:
      claims: of the study.
      table: rows of `lab.table`.
      again: how the names of arms end that were run again at another rule of learning rates; the rest are judged, those
        beside them.
      probes: rows of `lab.probes`.
      other: rows of another table in place of the arms run again, under the plain names.
      told: as in `ledger`.

    Raises:
      LabError: as `ledger` and `gather`; naming what is missing, when no claim can be tested.
    """
    first, second = variants(table, again) if again else (table, table.iloc[:0])
    second = second if other is None else other
    beside = gather(second, claims, probes) if len(usable(second)) else None
    return ledger(claims, gather(first, claims, probes), beside, told)


def frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """The ledger as a table, one row for each claim."""
    return pd.DataFrame([e.as_dict() for e in entries])
