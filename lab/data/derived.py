"""Derived languages: seeded, exactly invertible changes of a text, as dials of linguistic distance.

    change = Change(spelling=0.5, order="reverse")
    derivation = Derivation.of(change, corpus.documents())      # reads which letters the text has
    derivation.invert(derivation.apply(text, key), key) == text

A corpus of such text is named on top of any other: `derived:embedded:en?spelling=0.5&order=reverse` (see
`lab.data.corpora`). Two things keep every change exact and of equal information:

- *Spelling* is one bijection of the letters of the whole corpus, within letters of one script, vowels or consonants,
  case and UTF-8 length. Whatever is no letter, and letters the corpus does not have, stay.
- *Word order* moves words between the places where words stand. What stands between words (spaces, punctuation, line
  ends) stays, so the places of a changed text are those of the text, and the move is a function of places alone.

Swaps and reversals are the same for every document, so all information is kept and a model can learn the rule. A
shuffle is drawn by document: invertible by whoever knows seed and key, but noise to a model, which sees more entropy.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
import re
import typing
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from lab.data.embedded import Document
from lab.data.order import permute, uniform
from lab.data.vocabulary import EOD
from lab.errors import LabError

Order = Literal["swap", "reverse-sentences", "reverse", "shuffle", "shuffle-tokens"]
Half = Literal["a", "b"]

# Which letters and words there are depends on the Unicode tables of the Python that reads the text.
RULE = f"derived v1, Unicode {unicodedata.unidata_version}"


@dataclasses.dataclass(frozen=True)
class Change:
    """What is done to a text; the default is nothing.

    Attributes:
      spelling: the share of letters that stand for others, in [0, 1]. Those at a smaller share are among those at a
        larger one.
      order: `swap` exchanges neighbouring words of a sentence; `reverse-sentences` turns the words of every sentence
        round, `reverse` those of the whole document; `shuffle` puts the words of a document in a random order, and
        `shuffle-tokens` its tokens, after tokenising: the same unigrams without any structure.
      swapped: of `swap`, the share of pairs that are exchanged, in (0, 1]. Which pairs is a pattern of places in the
        sentence, the same in all; those at a smaller share are among those at a larger one.
      seed: of letters, pattern and shuffles.
    """

    spelling: float = 0.0
    order: Order | None = None
    swapped: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.spelling <= 1:
            raise LabError(f"The share of letters that a spelling changes lies in [0, 1], not {self.spelling:g}.")
        if self.order is not None and self.order not in typing.get_args(Order):
            raise LabError(f"Unknown word order {self.order!r}.", f"Known: {', '.join(typing.get_args(Order))}.")
        if not 0 < self.swapped <= 1:
            raise LabError(f"The share of pairs that are swapped lies in (0, 1], not {self.swapped:g}.")
        if self.swapped < 1 and self.order != "swap":
            raise LabError(f"Only `swap` has a share of pairs, not {self.order}.", "Say order=swap:0.5.")

    @property
    def entropy_kept(self) -> bool:
        """Whether it is one fixed bijection of types or places, so that a model could know it."""
        return self.order not in ("shuffle", "shuffle-tokens")

    @property
    def options(self) -> dict[str, str]:
        """As they stand in a corpus's name: without what is not changed, and without a seed that nothing uses."""
        options = {}
        if self.spelling:
            options["spelling"] = _text(self.spelling)
        if self.order:
            options["order"] = self.order + (f":{_text(self.swapped)}" if self.swapped < 1 else "")
        if self.seed and (self.spelling or self.swapped < 1 or not self.entropy_kept):
            options["seed"] = str(self.seed)
        return options

    def __str__(self) -> str:
        return urllib.parse.urlencode(self.options, safe=":") or "unchanged"

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Change:
        """The change that options of a corpus's name (`spelling`, `order`, `seed`) describe.

        Raises:
          LabError: for a value that means nothing.
        """
        order, _, share = options.get("order", "").partition(":")
        swapped = _number("order", share) if share else 1.0
        return cls(
            spelling=_number("spelling", options.get("spelling", "0")),
            # A share of none is no change, whatever would have changed.
            order=typing.cast(Order, order) if order and swapped else None,
            swapped=swapped or 1.0,
            seed=int(_number("seed", options.get("seed", "0"), whole=True)),
        )


def _text(value: float) -> str:
    return f"{value:.12g}"


def _number(option: str, text: str, whole: bool = False) -> float:
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = "whole number" if whole else "number"
        raise LabError(f"The option {option} of a derived corpus needs a {kind}, not {text!r}.")
    return value


def half_of(align: str) -> Half:
    """The half of the training documents that one with this alignment key belongs to: parallel texts share halves, and
    a growing corpus moves no document."""
    return "b" if hashlib.sha256(f"half {align}".encode()).digest()[0] & 1 else "a"


def derive(
    change: Change,
    half: Half | None,
    documents: Callable[[], Iterator[Document]],
    split_of: Callable[[Document], str],
) -> Iterator[Document]:
    """The documents, changed, under their own keys; of training documents only those of `half`, if it is given.

    The letters that a spelling exchanges are those of all documents, so that both halves are spelt alike.
    """
    derivation = Derivation.of(change, documents())
    for document in documents():
        training = split_of(document) == "train"
        if half and training and half_of(document.align) != half:
            continue
        verses = tuple((key, derivation.apply(text, key)) for key, text in document.verses)
        yield dataclasses.replace(document, text=derivation.apply(document.text, document.key), verses=verses)


@dataclasses.dataclass(frozen=True)
class Derivation:
    """A change of one corpus, both ways.

    Attributes:
      change: what is done.
      letters: the spelling: a bijection of letters onto themselves; others stay.
      known: digests of the corpus's documents and verses by key, or None: with them, `invert` refuses text that it
        knows to be no change of that document.
    """

    change: Change
    letters: Mapping[str, str]
    known: Mapping[str, bytes] | None = None

    @classmethod
    def of(cls, change: Change, documents: Iterable[Document], remember: bool = False) -> Derivation:
        """The change of a corpus.

        Args:
          documents: of the unchanged corpus, all splits; read only if the change or `remember` asks for it.
          remember: whether `known` is filled.
        """
        alphabet: set[str] = set()
        known: dict[str, bytes] = {}
        if change.spelling or remember:
            for document in documents:
                alphabet.update(document.text)
                if remember:
                    texts = ((document.key, document.text), *document.verses)
                    known.update((key, _digest(text)) for key, text in texts)
        return cls(change, spelling(alphabet, change.spelling, change.seed), known if remember else None)

    def apply(self, text: str, key: str | None = None) -> str:
        """The changed text. A shuffle of tokens leaves the text as it is: it comes after tokenising.

        Raises:
          LabError: when words are shuffled and the document's key is not given.
        """
        respelt = text.translate(self._table) if self.letters else text
        return _moved(respelt, self.change, key, inverse=False)

    def invert(self, text: str, key: str | None = None) -> str:
        """The text that `apply` made this of.

        Text without a key may be anybody's, such as what a model wrote in the derived language: swaps, reversals and
        spellings are bijections of all texts.

        Raises:
          LabError: when the words or tokens were shuffled and there is no key; and, if `known`, when the corpus has no
            document of this key, or has one that becomes another text: the text was edited, or is of another key, seed
            or change.
        """
        if self.change.order == "shuffle-tokens":
            raise LabError(
                "A shuffle of tokens cannot be undone on text: another tokenizing of it has other tokens.",
                "Undo it on the store's ids with `invert_ids`, then decode them.",
            )
        base = _moved(text, self.change, key, inverse=True)
        base = base.translate(self._inverse_table) if self.letters else base
        if key is not None:
            self.check(base, key)
        return base

    def check(self, base: str, key: str) -> None:
        """Raises LabError when `base` is known not to be the unchanged document `key`."""
        if self.known is None:
            return
        if key not in self.known:
            raise LabError(f"The derived language never mapped a document {key!r}: its corpus has none.")
        if self.known[key] != _digest(base):
            raise LabError(
                f"The derived language ({self.change}) never mapped document {key!r} to this text.",
                "Is it the whole document, unedited, under its own key and made with the same seed?",
            )

    def apply_ids(self, ids: np.ndarray, key: str) -> np.ndarray:
        """[tokens] the document's ids as the store holds them; its end of document stays at the end.

        Raises:
          LabError: when `ids` are not one whole document.
        """
        return ids if (order := self._token_order(ids, key)) is None else ids[order]

    def invert_ids(self, ids: np.ndarray, key: str) -> np.ndarray:
        """[tokens] the ids that `apply_ids` made these of. Raises LabError as `apply_ids` does."""
        if (order := self._token_order(ids, key)) is None:
            return ids
        base = np.empty_like(ids)
        base[order] = ids
        return base

    def _token_order(self, ids: np.ndarray, key: str) -> np.ndarray | None:
        """[tokens] which token comes to each place; None if all stay."""
        if self.change.order != "shuffle-tokens":
            return None
        if np.flatnonzero(ids == EOD).tolist() != [len(ids) - 1]:
            raise LabError(
                f"The ids of {key!r} are not one whole document: one end of document, {EOD}, at their end.",
                "Cut them at the store's offsets.",
            )
        last = len(ids) - 1
        return np.append(permute(f"tokens {self.change.seed} {key}", last, np.arange(last)), last)

    @functools.cached_property
    def _table(self) -> dict[int, str]:
        return {ord(a): b for a, b in self.letters.items()}

    @functools.cached_property
    def _inverse_table(self) -> dict[int, str]:
        return {ord(b): a for a, b in self.letters.items()}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


# Base letters, after canonical decomposition. Of scripts without an entry all letters count as consonants.
_VOWELS = frozenset("aeiouyæœøıɑəɛɩɔʊʏαεηιουωаеиоуыэюяєіїѣѵاويى")


def spelling(alphabet: Iterable[str], share: float, seed: int) -> dict[str, str]:
    """A bijection of a share of the letters of `alphabet` onto themselves; empty if none moves.

    Letters are exchanged for those of the same script, of the same kind (vowel or consonant), and of the same UTF-8
    length; a capital goes where its small letter goes, and caseless letters go among themselves. In every such group
    the letters stand in an order of their own (a hash of seed and letter), the first `share` of them move one place
    on, and the last of these to the first. No letter of these stays, unless it is alone.
    """
    groups: dict[tuple[object, ...], set[tuple[str, str]]] = defaultdict(set)
    for character in alphabet if share else ():
        category = unicodedata.category(character)
        if not category.startswith("L"):
            continue
        small, capital = _case_pair(character)
        group = (
            unicodedata.name(character, "").split(" ")[0],
            "" if capital else category,
            unicodedata.normalize("NFD", small)[0] in _VOWELS,
            len(small.encode()),
            len(capital.encode()),
        )
        groups[group].add((small, capital))
    letters = {}
    for group_letters in groups.values():
        order = sorted(group_letters, key=lambda pair: hashlib.sha256(f"spelling {seed} {pair[0]}".encode()).digest())
        moved = order[: round(share * len(order))]
        for (small, capital), (to_small, to_capital) in zip(moved, moved[1:] + moved[:1], strict=True):
            if small != to_small:
                letters[small] = to_small
                if capital:
                    letters[capital] = to_capital
    return letters


def _case_pair(letter: str) -> tuple[str, str]:
    """(small, capital); or (letter, "") where the two are not one letter each and each other's."""
    small, capital = letter.lower(), letter.upper()
    paired = len(small) == len(capital) == 1 and small != capital and letter in (small, capital)
    return (small, capital) if paired and small.upper() == capital and capital.lower() == small else (letter, "")


# Scripts without spaces of which every character counts as a word: kana, ideographs and their marks.
_IDEOGRAPHS = "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
_IDEOGRAPHS += "\uf900-\ufaff\U00020000-\U0003ffff"
# Between two characters of a word they belong to it: apostrophes, hyphens and joiners.
_JOINERS = "`'\u2019\u2010\u2011\u200c\u200d-"
# What lies between two words of different sentences: a full stop, or an empty line.
_SENTENCE_END = re.compile("[.!?\u2026\u061f\u06d4\u0964]\\S*\\s|[\u3002\uff01\uff1f]|\\n[^\\S\\n]*\\n")


@functools.cache
def _word() -> re.Pattern[str]:
    """Matches one word: an ideograph (group 1), or a longest run of letters, digits, marks and joiners between them."""
    ideograph = re.compile(f"[{_IDEOGRAPHS}]")

    def in_word(code: int) -> bool:
        c = chr(code)
        return (c.isalnum() or c == "_" or unicodedata.category(c).startswith("M")) and not ideograph.match(c)

    ranges, start = [], None
    # Beyond there are ideographs and nothing else that is written.
    for code in range(0x20001):
        inside = code < 0x20000 and in_word(code)
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    run = f"[{''.join(ranges)}]+"
    return re.compile(f"([{_IDEOGRAPHS}])|{run}(?:[{_JOINERS}]{run})*")


def _moved(text: str, change: Change, key: str | None, inverse: bool) -> str:
    """The text with its words in another order.

    The move depends on what is no word and on which words are ideographs, and keeps both: words are exchanged with
    words, ideographs with ideographs. A run of letters never gets another for its neighbour without something between
    them. So the moved text has the places of the text, and the inverse finds them again.
    """
    if change.order in (None, "shuffle-tokens"):
        return text
    if change.order == "shuffle" and key is None:
        raise LabError("A shuffle of words is drawn for every document by its key.", "Give the document's key.")
    words: list[str] = []
    between: list[str] = []
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    by_sentence = change.order in ("swap", "reverse-sentences")
    end = sentence = 0
    for place, match in enumerate(_word().finditer(text)):
        gap = text[end : match.start()]
        if by_sentence and _SENTENCE_END.search(gap):
            sentence += 1
        groups[sentence, match[1] is not None].append(place)
        words.append(match[0])
        between.append(gap)
        end = match.end()
    moved = words.copy()
    for (_, ideographs), places in groups.items():
        for to, origin in enumerate(_order(change, len(places), f"{key} {ideographs}")):
            a, b = places[to], places[origin]
            if inverse:
                moved[b] = words[a]
            else:
                moved[a] = words[b]
    return "".join(itertools.chain.from_iterable(zip(between, moved, strict=True))) + text[end:]


def _order(change: Change, n: int, key: str) -> Sequence[int]:
    """Which of `n` words comes to each place."""
    if change.order == "shuffle":
        return permute(f"words {change.seed} {key}", n, np.arange(n)).tolist()
    if change.order != "swap":
        return range(n - 1, -1, -1)
    return _swaps(change.swapped, change.seed, n)


@functools.lru_cache(maxsize=4096)
def _swaps(share: float, seed: int, n: int) -> tuple[int, ...]:
    """Pairs (0, 1), (2, 3), ... of which a share is exchanged, spread evenly (multiples of the golden ratio)."""
    pairs = np.arange(n // 2)
    start = 0.0 if share == 1 else uniform(f"swaps {seed}", np.zeros(1, np.int64))[0]
    exchanged = (start + pairs * ((math.sqrt(5) - 1) / 2)) % 1 < share
    order = np.arange(n)
    order[: 2 * len(pairs)] ^= np.repeat(exchanged, 2)  # 2k and 2k + 1 differ in their last bit
    return tuple(order.tolist())
