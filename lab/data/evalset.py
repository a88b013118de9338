"""Fixed evaluation sets: the same documents, by hash, for every run that is compared.

evalset = evaluation_set(store)                  # from 32 test documents or more, 200,000 tokens, where there are
ids = evalset.mapped(layout.table("en#1"))       # the same text in any language that reads this store
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from lab.data.store import TokenStore
from lab.errors import LabError

TOKENS = 200_000
DOCUMENTS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class EvalSet:
    """Documents, or the middles of long ones, to be scored.

    Attributes:
      corpus: where they come from.
      ids: [tokens] the tokenizer's own ids, documents ending with id 2.
      offsets: [documents + 1] int64 where each document starts.
      bytes: [tokens] int32 UTF-8 bytes of each token; ends of documents have 0.
      keys: the documents' keys.
      hash: 16 hex digits over ids, offsets and tokenizer.
    """

    corpus: str
    ids: np.ndarray
    offsets: np.ndarray
    bytes: np.ndarray
    keys: tuple[str, ...]
    hash: str

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    @property
    def n_documents(self) -> int:
        return len(self.keys)

    def mapped(self, table: np.ndarray) -> np.ndarray:
        """[tokens] int32 ids of the total vocabulary, in the language of `table`."""
        return table[self.ids]


def evaluation_set(store: TokenStore, split: str = "test", tokens: int = TOKENS) -> EvalSet:
    """The first documents of a split that make up `tokens` tokens or more, or all when it has fewer.

    One long document says little about a language, and leaves nothing to resample. So of a document no more counts
    than its middle `tokens / DOCUMENTS` tokens, or as many as it takes where there are fewer long documents than that.

    Raises:
      LabError: when the split is empty.
    """
    offsets = store.offsets(split)
    lengths = np.diff(offsets)
    if not len(lengths):
        raise LabError(
            f"{store.manifest.corpus} has no {split} documents.",
            "Give more text, or cut it into more documents (`?split=`).",
        )
    most = _most(lengths, tokens)
    taken = np.minimum(lengths, most)
    # The least number of documents whose end is at or past `tokens`.
    n = min(int(np.searchsorted(np.cumsum(taken), tokens)) + 1, len(lengths))
    starts = offsets[:n] + (lengths[:n] - taken[:n]) // 2
    text = store.ids(split)
    ids = np.concatenate([text[start : start + k] for start, k in zip(starts, taken[:n], strict=True)])
    ends = np.concatenate([[0], np.cumsum(taken[:n])]).astype(np.int64)
    digest = hashlib.sha256(store.manifest.tokenizer.encode())
    digest.update(np.ascontiguousarray(ids, "<u4").data)
    digest.update(np.ascontiguousarray(ends, "<i8").data)
    return EvalSet(
        corpus=store.manifest.corpus,
        ids=ids,
        offsets=ends,
        bytes=store.piece_bytes[ids],
        keys=tuple(store.keys(split)[:n]),
        hash=digest.hexdigest()[:16],
    )


def _most(lengths: np.ndarray, tokens: int) -> int:
    """Tokens that a document may give: the least number from `tokens / DOCUMENTS` on with which all give `tokens`."""
    least = -(-tokens // DOCUMENTS)
    rising = np.sort(lengths)
    # If the k shortest are taken whole, the others share what is missing.
    missing = tokens - np.concatenate([[0], np.cumsum(rising)[:-1]])
    shares = -(-missing // np.arange(len(rising), 0, -1))
    fits = shares <= rising
    return max(least, int(shares[fits][0])) if fits.any() else int(rising[-1])


def parallel_verses(first: TokenStore, second: TokenStore) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(key, ids in the first, ids in the second) of every probe verse that both stores have, in the first's order.

    Raises:
      LabError: when the stores are not parallel.
    """
    group = first.manifest.parallel
    if not group or group != second.manifest.parallel:
        raise LabError(f"{first.manifest.corpus} and {second.manifest.corpus} are not parallel texts.")
    position = {key: i for i, key in enumerate(second.keys("probe"))}
    a, b = first.offsets("probe"), second.offsets("probe")
    pairs = []
    for i, key in enumerate(first.keys("probe")):
        if (j := position.get(key)) is not None:
            pairs.append((key, first.ids("probe")[a[i] : a[i + 1]], second.ids("probe")[b[j] : b[j + 1]]))
    return pairs
