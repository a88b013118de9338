"""A control without a decoder: do clones align in word2vec, trained on the very tokens that the decoder read?

    vectors = cbow(sentences, vocab, width)      # `sentences` can be iterated over anew, and yields arrays of ids

The settings are those of arXiv:2404.07982's notebook (CBOW of gensim, its Figure 6); the width is the decoder's.
gensim is optional: `pip install 'scaling-lab[probes]'`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from lab.errors import LabError

WINDOW, NEGATIVES, SAMPLE = 5, 20, 1e-3
RATE, MIN_RATE = 0.025, 0.0001


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Rows by id of the total vocabulary, [V, D] float32; NaN for ids that were never seen.

    Attributes:
      input: of a token as context (`wv`).
      output: of a token as what is predicted (`syn1neg`).
    """

    input: np.ndarray
    output: np.ndarray


def cbow(sentences_T: Iterable[np.ndarray], vocab: int, width: int, seed: int = 0) -> Vectors:
    """Trains word2vec (arXiv:1301.3781, CBOW with negative sampling of arXiv:1310.4546) for one epoch.

    Args:
      sentences_T: token ids of each training sequence; iterated over twice.
      vocab: ids in all.
      width: of the vectors.
      seed: of vectors and samples; the same seed gives the same vectors, since one thread trains.

    Raises:
      LabError: when gensim is not installed.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise LabError("The word2vec control needs gensim.", "pip install 'scaling-lab[probes]'.") from None
    trained = Word2Vec(
        sentences=_Words(sentences_T),
        vector_size=width,
        sg=0,
        window=WINDOW,
        negative=NEGATIVES,
        sample=SAMPLE,
        alpha=RATE,
        min_alpha=MIN_RATE,
        min_count=1,
        epochs=1,
        seed=seed,
        workers=1,
    )
    ids = np.array([int(word) for word in trained.wv.index_to_key])
    return Vectors(*(_by_id(rows, ids, vocab) for rows in (trained.wv.vectors, trained.syn1neg)))


@dataclasses.dataclass(frozen=True)
class _Words:
    """Token ids as the words that gensim reads."""

    sentences_T: Iterable[np.ndarray]

    def __iter__(self) -> Iterator[list[str]]:
        for ids in self.sentences_T:
            yield [str(i) for i in ids.tolist()]


def _by_id(rows_NxD: np.ndarray, ids_N: np.ndarray, vocab: int) -> np.ndarray:
    whole = np.full((vocab, rows_NxD.shape[1]), np.nan, np.float32)
    whole[ids_N] = rows_NxD
    return whole
