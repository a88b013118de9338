"""What the study adds to the paper, one sentence with an interval each: from the claims' findings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.claims.ledger import Entry

# Claim -> what is compared, and in what: a change of bits a byte or loss, or a factor between shares.
CHANGE, FACTOR = "change", "factor"
VOCABULARY = {
    "V1": ("New pieces that begin as compositions of old ones, against random ones, change bits a byte by", CHANGE),
    "V2": ("At equal bytes of the target an extended vocabulary, against the source's own, changes bits a byte by",
           CHANGE),
    "V3": ("At equal exact FLOPs it changes them by", CHANGE),
    "V4": ("At equal bytes of the target a joint tokenizer, against an extended vocabulary, changes bits a byte by",
           CHANGE),
    "V5": ("At equal exact FLOPs an extended vocabulary, against a joint tokenizer, changes them by", CHANGE),
}  # fmt: skip
REPLAY = {
    "R10": ("The share of replay that ends the forgetting is, at the largest size over that at the smallest,", FACTOR),
    "R11": ("That share is, at the middle budget over that at the shorter one,", FACTOR),
    "R12": ("What 20 % of replay adds to the target's loss is larger at the largest size than at the smallest by",
            CHANGE),
    "R13": ("With 5 % of replay the source's loss ends, at the size and length where that is most, above its start by",
            CHANGE),
}  # fmt: skip


def sentences(entries: Sequence[Entry], about: dict[str, tuple[str, str]]) -> list[str]:
    """A sentence for each of the claims that was tested; its estimate is a logarithm."""
    found = {entry.claim.id: entry for entry in entries}
    return [_sentence(found[id], *about[id]) for id in about if id in found and found[id].finding is not None]


def _sentence(entry: Entry, text: str, kind: str) -> str:
    finding = entry.finding
    assert finding is not None
    low, high = finding.interval
    ends = f"[{_end(low, kind)}, {_end(high, kind)}]"
    value = finding.estimate
    if not (math.isfinite(value.low) or math.isfinite(value.high)):
        return f"{text} not known: one of the two lies outside the shares that were replayed ({entry.claim.id})."
    known = value.low == value.high
    shown = _end(value.low, kind) if known else f"between {_end(value.low, kind)} and {_end(value.high, kind)}"
    return f"{text} {shown} {ends} ({entry.claim.id}, {entry.verdict})."


def _end(value: float, kind: str) -> str:
    if not math.isfinite(value):
        return "open"
    return f"{math.exp(value):.2f}" if kind == FACTOR else f"{100 * math.expm1(value):+.1f} %"
