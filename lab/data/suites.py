"""Minimal pairs: sentences that differ in whether they are grammatical, from the files they were published in.

    suites = read_suites([Path("blimp.tar.xz"), Path("clams.tar.xz")])    # folders or archives
    [(s.name, s.language, len(s.phenomena)) for s in suites]              # BLiMP en 67, CLAMS de 7, CLAMS en 7, ...

Files, wherever they lie in a folder or a tar archive (other files are left alone):
  BLiMP   *.jsonl with `sentence_good` and `sentence_bad`: the 67 paradigms of arXiv:1912.00582, English.
  CLAMS   LANGUAGE/PARADIGM.txt, lines `True<tab>sentence` and `False<tab>sentence` by turns: the seven paradigms of
          subject-verb agreement that arXiv:2005.00187 has in every language, so that languages compare. What it has
          beyond them in English alone is not read.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from lab.errors import LabError

PAIRS = 200  # of a phenomenon, at most
BLIMP, BLIMP_PARADIGMS = "BLiMP", 67
CLAMS = "CLAMS"
CLAMS_PARADIGMS = (
    "long_vp_coord", "obj_rel_across_anim", "obj_rel_within_anim", "prep_anim", "simple_agrmt", "subj_rel", "vp_coord",
)  # fmt: skip
_AS_PUBLISHED = "Give the whole suite as published: a folder or a .tar, .tar.gz or .tar.xz archive."

Pair = tuple[str, str]  # the grammatical sentence, the other one


@dataclasses.dataclass(frozen=True)
class Suite:
    """Minimal pairs of one language.

    Attributes:
      name: `BLiMP` or `CLAMS`.
      language: BCP 47 tag.
      phenomena: pairs by phenomenon, at most `PAIRS` of each.
    """

    name: str
    language: str
    phenomena: dict[str, tuple[Pair, ...]]

    @functools.cached_property
    def hash(self) -> str:
        """16 hex digits over all sentences."""
        return hashlib.sha256(json.dumps(self.phenomena).encode()).hexdigest()[:16]


def read_suites(paths: Sequence[Path], most: int = PAIRS) -> tuple[Suite, ...]:
    """All suites in some folders and archives, by name and language.

    Of a phenomenon with more than `most` pairs a fixed random choice is kept, in the order of the file.

    Raises:
      LabError: for a path that cannot be read, one without a suite, a suite that lacks a phenomenon, is damaged or
        empty, and one that is there twice.
    """
    found: dict[tuple[str, str], dict[str, tuple[Pair, ...]]] = defaultdict(dict)
    for path in paths:
        before = sum(map(len, found.values()))
        for where, lines in _files(path):
            suite = _suite_of(where, lines)
            if suite is None:
                continue
            phenomena, pairs = found[suite], _pairs(suite[0], f"{path}, {where}", lines)
            if where.stem in phenomena:
                raise LabError(f"{' '.join(suite)} has {where.stem} twice.", "Give every suite once.")
            phenomena[where.stem] = _draw(pairs, most)
        if sum(map(len, found.values())) == before:
            raise LabError(f"{path} holds no minimal pairs: neither BLiMP nor CLAMS.", _AS_PUBLISHED)
    for (name, language), phenomena in found.items():
        _check_whole(name, language, phenomena)
    return tuple(Suite(*key, dict(sorted(found[key].items()))) for key in sorted(found))


def _files(path: Path) -> Iterator[tuple[PurePosixPath, list[str]]]:
    """Names and lines of what may be files of a suite, in a folder or an archive."""
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and file.suffix in (".jsonl", ".txt"):
                    yield PurePosixPath(file.relative_to(path.parent).as_posix()), _lines(file.read_bytes())
            return
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isfile() and name.suffix in (".jsonl", ".txt"):
                    content = archive.extractfile(member)
                    assert content is not None  # a regular file has content
                    yield name, _lines(content.read())
    except FileNotFoundError:
        raise LabError(f"There is no file or folder {path} of minimal pairs.", _AS_PUBLISHED) from None
    # Damaged compression shows as EOFError, or as an OSError or ReadError of its own.
    except (OSError, EOFError, tarfile.TarError) as error:
        raise LabError(f"{path} cannot be read as an archive of minimal pairs ({error}).", _AS_PUBLISHED) from None


def _lines(content: bytes) -> list[str]:
    return [line.rstrip("\r") for line in content.decode(errors="replace").split("\n") if line.strip()]


def _suite_of(where: PurePosixPath, lines: list[str]) -> tuple[str, str] | None:
    """Name and language of the suite that a file belongs to, if any."""
    if where.suffix == ".jsonl":
        return (BLIMP, "en") if not lines or '"sentence_good"' in lines[0] else None
    if where.stem in CLAMS_PARADIGMS and len(where.parts) > 1:
        return CLAMS, where.parts[-2]
    return None


def _pairs(name: str, where: str, lines: list[str]) -> list[Pair]:
    """The pairs of one file. Raises LabError where a line is damaged, or there is none."""
    if not lines:
        raise LabError(f"{where} is empty.", _AS_PUBLISHED)
    if name == BLIMP:
        return [_of_json(f"Line {number} of {where}", line) for number, line in enumerate(lines, 1)]
    marked = [line.partition("\t") for line in lines]
    for number, (mark, _, sentence) in enumerate(marked):
        if mark != ("True", "False")[number % 2] or not sentence.strip():
            raise LabError(
                f"Line {number + 1} of {where} is not {'False' if number % 2 else 'True'} with a sentence.",
                _AS_PUBLISHED,
            )
    if len(marked) % 2:
        raise LabError(f"{where} ends with half a pair.", _AS_PUBLISHED)
    return [(good[2], bad[2]) for good, bad in zip(marked[::2], marked[1::2], strict=True)]


def _of_json(where: str, line: str) -> Pair:
    try:
        form = json.loads(line)
        good, bad = form["sentence_good"], form["sentence_bad"]
    except (ValueError, TypeError, KeyError):
        good = bad = None
    if not (isinstance(good, str) and isinstance(bad, str) and good and bad):
        raise LabError(f"{where} has no `sentence_good` and `sentence_bad`.", _AS_PUBLISHED)
    return good, bad


def _draw(pairs: list[Pair], most: int) -> tuple[Pair, ...]:
    chosen = np.random.default_rng(0).permutation(len(pairs))[:most]
    return tuple(pairs[i] for i in np.sort(chosen))


def _check_whole(name: str, language: str, phenomena: Iterable[str]) -> None:
    """Means over other phenomena would be of another suite."""
    names = set(phenomena)
    if name == BLIMP and len(names) != BLIMP_PARADIGMS:
        raise LabError(f"{name} has {BLIMP_PARADIGMS} paradigms; {len(names)} are here.", _AS_PUBLISHED)
    if name == CLAMS and (missing := sorted(set(CLAMS_PARADIGMS) - names)):
        raise LabError(f"{name} in {language!r} lacks {', '.join(missing)}.", _AS_PUBLISHED)
