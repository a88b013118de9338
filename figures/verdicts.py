"""The verdicts on a study's claims, as a section of its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analysis.claims.ledger import Entry
from figures.report import Block, Rows, Section, Text

VERDICTS = ("reproduced", "contradicted", "undecided", "no data")


def counts(entries: Sequence[Entry]) -> str:
    """How many claims have each verdict, in words."""
    counts = Counter[str](entry.verdict for entry in entries)
    return ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])


def ledger_section(entries: Sequence[Entry]) -> Section:
    """Every claim with its verdict, first those that are decided."""
    blocks: list[Block] = [
        Text(
            f"{len(entries)} claims, fixed before the runs: {counts(entries)}. A claim is reproduced when its whole "
            "95 % interval lies on the claimed side, contradicted when it lies on the other, and either only if that "
            "survives Holm's procedure over all of them."
        )
    ]
    rows = []
    for entry in sorted(entries, key=lambda e: VERDICTS.index(e.verdict)):
        form = entry.as_dict()
        low, high = form["interval"] or (None, None)
        interval = "" if entry.finding is None else f"{_signed(low, '-∞')} to {_signed(high, '∞')}"
        notes = [entry.reason, *(f"{where}: {what}" for where, what in entry.beside.items())]
        rows.append(
            (
                entry.claim.id,
                entry.verdict,
                _signed(form["statistic"], ""),
                interval,
                str(entry.seeds or ""),
                entry.claim.text,
                "; ".join(note for note in notes if note),
            )
        )
    head = ("claim", "verdict", "estimate", "95 % interval", "seeds", "in words", "remarks")
    return Section("Verdicts", [*blocks, Rows(head, rows, wrapped=(5, 6))])


def _signed(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:+.3f}"
