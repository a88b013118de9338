"""Which split a document belongs to: a pure function of its key, so that a growing corpus never moves a document.

Parallel corpora share alignment keys, so one chapter lies in the same split in every language. The probe chapters
are in nobody's training set and are kept verse by verse.
"""

from __future__ import annotations

import hashlib
from typing import Final

# Of all keys, in ten-thousandths; the rest is training. The smallest embedded corpus fixes them: English must keep
# 1.2M training tokens at a vocabulary of 1,024, and has 1.36M in all.
_SHARES: Final = {"test": 850, "validation": 100}

# Chapters whose verses carry the same numbers in every registered Bible (a test checks it), from law, history,
# poetry, prophets, gospels and letters.
PROBE: Final = frozenset(
    {
        "Genesis 22", "Ruth 2", "2 Samuel 12", "2 Kings 5", "Job 28", "Proverbs 31", "Isaiah 40",
        "Matthew 5", "Luke 15", "John 4", "Acts 27", "Romans 8", "James 3",
    }
)  # fmt: skip

RULE: Final = f"sha256 v1 {_SHARES} probe {hashlib.sha256(repr(sorted(PROBE)).encode()).hexdigest()[:8]}"


def split_of(key: str, may_be_held_out: bool = True) -> str:
    """The split of the document (or of all parallel documents) with this key.

    A text without counterpart in its parallel group, which says so by `may_be_held_out`, is always training text, so
    that held-out sets are parallel.
    """
    if not may_be_held_out:
        return "train"
    if key in PROBE:
        return "probe"
    bucket = int.from_bytes(hashlib.sha256(f"split {key}".encode()).digest()[:8], "big") % 10_000
    for split, share in _SHARES.items():
        if bucket < share:
            return split
        bucket -= share
    return "train"
