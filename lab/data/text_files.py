"""Documents out of text files: plain, .gz or .xz, cut at blank lines, at line ends, or by a field of JSON lines."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.errors import LabError

SPLITS = re.compile(r"blank|blank2|line|file|jsonl:.+")


def default_split(file: Path, in_folder: bool) -> str:
    """How a file is cut where nobody says."""
    if ".jsonl" in file.suffixes:
        return "jsonl:text"
    return "file" if in_folder else "blank"


class reading:
    """Turns what goes wrong while `file` is read into a LabError."""

    def __init__(self, file: Path):
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnicodeDecodeError):
            raise LabError(f"{self._file} is not UTF-8 text (byte {error.start}).", "Convert it first.") from error
        if isinstance(error, (OSError, EOFError, lzma.LZMAError)):
            reason = getattr(error, "strerror", None) or error
            raise LabError(f"{self._file} cannot be read: {reason}.", "Is it whole, and readable?") from error


def read_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file (plain, .gz or .xz), without their ends. Raises LabError when it cannot be read."""
    yield from texts(file, "line")


def texts(file: Path, split: str) -> Iterator[str]:
    """The documents of a UTF-8 file (plain, .gz or .xz), cut as `split` says.

    Raises:
      LabError: when it cannot be read, is not UTF-8, or has a line that is no JSON object with the field.
    """
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(file.suffix, open)
    with reading(file), opener(file, "rt", encoding="utf-8", newline="") as lines:
        if split == "file":
            yield lines.read()
        elif split == "line":
            for line in lines:
                yield line.rstrip("\r\n")
        elif split.startswith("jsonl:"):
            field = split.removeprefix("jsonl:")
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json_field(file, number, line, field)
        else:
            yield from _paragraphs(lines, blank_lines=2 if split == "blank2" else 1)


def _paragraphs(lines: Iterator[str], blank_lines: int) -> Iterator[str]:
    """Texts that end with at least so many blank lines, without those."""
    text: list[str] = []
    blank = 0
    for line in lines:
        if line.strip():
            if blank >= blank_lines and text:
                yield "".join(text).rstrip("\r\n")
                text = []
            elif text:
                text += ["\n"] * blank
            text.append(line)
            blank = 0
        else:
            blank += 1
    if text:
        yield "".join(text).rstrip("\r\n")


def _json_field(file: Path, number: int, line: str, field: str) -> str:
    try:
        text = json.loads(line)[field]
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(
            f"Line {number} of {file} is no JSON object with a field {field!r}.", "Name it by `?split=jsonl:FIELD`."
        ) from error
    if not isinstance(text, str):
        raise LabError(f"The field {field!r} of line {number} of {file} is not text.", "Name another field.")
    return text
