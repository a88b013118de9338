"""Which split a document belongs to: a pure function of its key, so that a growing corpus never moves a document.

Parallel corpora share alignment keys, so one chapter lies in the same split in every language. The probe chapters
are in nobody's training set and are kept verse by verse.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Final

# Chapters whose verses carry the same numbers in every registered Bible (a test checks it), from law, history,
# poetry, prophets, gospels and letters.
PROBE: Final = frozenset(
    {
        "Genesis 22", "Ruth 2", "2 Samuel 12", "2 Kings 5", "Job 28", "Proverbs 31", "Isaiah 40",
        "Matthew 5", "Luke 15", "John 4", "Acts 27", "Romans 8", "James 3",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """How many documents are held out, in ten-thousandths of all keys; the rest is training.

    The smallest embedded corpus fixes the usual shares: English must keep 1.2M training tokens at a vocabulary of
    1,024, and has 1.36M in all. Where documents are few and long, as novels are, the noise of a comparison is theirs,
    and a larger `test` buys more of them; a document that a smaller share held out, a larger one holds out, too.
    """

    test: int = 850
    validation: int = 100

    def __str__(self) -> str:
        """The rule's identity, part of that of every token store."""
        probe = hashlib.sha256(repr(sorted(PROBE)).encode()).hexdigest()[:8]
        return f"sha256 v1 {dataclasses.asdict(self)} probe {probe}"

    def split_of(self, key: str, may_be_held_out: bool = True) -> str:
        """The split of the document (or of all parallel documents) with this key.

        A text without counterpart in its parallel group, which says so by `may_be_held_out`, is always training text,
        so that held-out sets are parallel.
        """
        if not may_be_held_out:
            return "train"
        if key in PROBE:
            return "probe"
        bucket = int.from_bytes(hashlib.sha256(f"split {key}".encode()).digest()[:8], "big") % 10_000
        if bucket < self.test:
            return "test"
        return "validation" if bucket < self.test + self.validation else "train"


USUAL: Final = SplitRule()
