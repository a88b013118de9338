"""How far two languages lie apart in their tokens, from their stores alone, as a model would see them.

    source = token_counts(prepared.store("embedded:en"), layout, "en")        # [V_total]
    measure(source, token_counts(prepared.store("embedded:enm"), layout, "enm"))

All distances are of unigrams: they see which ids are used and how often, not in which order. Two samples of one
language are not at distance 0 either: two halves of the source say what to call none.
"""

from __future__ import annotations

import dataclasses
import urllib.parse

import numpy as np

from lab.data.derived import Change
from lab.data.store import TokenStore
from lab.data.vocabulary import LanguageLayout
from lab.errors import LabError


@dataclasses.dataclass(frozen=True)
class Distance:
    """Of a target language from a source language.

    Attributes:
      vocabulary_overlap: Jaccard index of the types used, in [0, 1].
      mass_overlap: token mass in common, in [0, 1].
      known_tokens: share of the target's tokens whose type the source uses, in [0, 1].
      unigram_jsd: Jensen-Shannon divergence of the unigram distributions, in [0, 1] bits.
    """

    vocabulary_overlap: float
    mass_overlap: float
    known_tokens: float
    unigram_jsd: float


def token_counts(store: TokenStore, layout: LanguageLayout, language: str, split: str = "train") -> np.ndarray:
    """[V_total] int64: how often each id of the whole vocabulary stands in the store, read as `language`.

    Raises:
      LabError: when the layout reads the language with another tokenizer than the store was written with.
    """
    expected = layout.tokenizers[language].hash if language in layout.tokenizers else None
    table = layout.table(language)
    if store.manifest.tokenizer != expected:
        raise LabError(
            f"The store of {store.manifest.corpus} was written with tokenizer {store.manifest.tokenizer}, the layout "
            f"reads {language!r} with {expected}.",
            "Prepare the corpus with the layout's tokenizer.",
        )
    own = np.bincount(store.ids(split), minlength=len(table))
    counts = np.zeros(layout.v_total, np.int64)
    np.add.at(counts, table, own)
    return counts


def measure(source: np.ndarray, target: np.ndarray) -> Distance:
    """All distances of two count vectors [V] over the same types. Raises LabError as each of them does."""
    return Distance(
        vocabulary_overlap(source, target),
        mass_overlap(source, target),
        known_tokens(source, target),
        unigram_jsd(source, target),
    )


def vocabulary_overlap(source: np.ndarray, target: np.ndarray) -> float:
    """|A and B| / |A or B| of the types that occur: Jaccard's index (P. Jaccard, New Phytologist 11, 1912)."""
    p, q = _shares(source, target)
    return float(np.sum((p > 0) & (q > 0)) / np.sum((p > 0) | (q > 0)))


def mass_overlap(source: np.ndarray, target: np.ndarray) -> float:
    """sum_i min(p_i, q_i): 1 minus the total variation distance (Levin and Peres, Markov Chains and Mixing Times, 2nd
    edition, section 4.1)."""
    return float(np.minimum(*_shares(source, target)).sum())


def known_tokens(source: np.ndarray, target: np.ndarray) -> float:
    """sum_i q_i [p_i > 0], q the target's distribution: the share of its text in types that a model of the source has
    seen. Unlike the others it is not symmetric."""
    _shares(source, target)
    return float(target[source > 0].sum() / target.sum())


def unigram_jsd(source: np.ndarray, target: np.ndarray) -> float:
    """H((p + q) / 2) - (H(p) + H(q)) / 2 in bits (J. Lin, IEEE Transactions on Information Theory 37, 1991, section
    IV, with equal weights)."""
    p, q = _shares(source, target)
    return max(0.0, entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)


def dial_setting(source: str, target: str, renamed: float | None) -> float | None:
    """How far a target was turned away from its source by construction: the largest share of what was changed.

    Shares are of letters (`spelling`), of neighbours (`order=swap`), all words for other orders, and of pieces.

    Args:
      source, target: corpora by name.
      renamed: the share of the target's pieces that have changed places in the layout, if any.

    Returns:
      The share in [0, 1]; None where the target is no other half, and no change, of the source's corpus.

    Raises:
      LabError: for a name with options that mean nothing.
    """
    (base, _), (other, change) = _derivation(source), _derivation(target)
    if base != other or (renamed is None and not target.startswith(_DERIVED)):
        return None
    moved = 0.0 if change.order is None else change.swapped
    return max(change.spelling, moved, renamed or 0.0)


_DERIVED = "derived:"


def _derivation(corpus: str) -> tuple[tuple[str, frozenset[tuple[str, str]]], Change]:
    """What a corpus is made of, by name and options, and how it is changed."""
    name, _, query = corpus.removeprefix(_DERIVED).partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if not corpus.startswith(_DERIVED):
        return (name, frozenset(options.items())), Change()
    change = Change.parse(options)
    kept = {k: v for k, v in options.items() if k not in ("spelling", "order", "seed", "half")}
    return (name, frozenset(kept.items())), change


def entropy(weights: np.ndarray) -> float:
    """-sum_i p_i log2 p_i in bits, of weights [V] that need not sum to 1."""
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log2(p)).sum())


def _shares(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if source.shape != target.shape:
        raise LabError(
            f"Counts of {len(source)} and of {len(target)} types cannot be compared.", "Count both in one layout."
        )
    if not (source.sum() > 0 and target.sum() > 0):
        raise LabError("A language without tokens is at no distance.", "Is the split empty?")
    return source / source.sum(), target / target.sum()
