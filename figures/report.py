"""A study's report: one static HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader

from lab.records import atomic_write


@dataclasses.dataclass(frozen=True)
class Answer:
    """A number that answers the study's question, with its interval or bound, and what it says.

    Attributes:
      value, interval: as shown.
      text: what goes below them on the page.
      sentence: the whole in one sentence, for the terminal.
    """

    value: str
    interval: str
    text: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Text:
    kind: ClassVar[str] = "text"
    text: str
    note: bool = False


@dataclasses.dataclass(frozen=True)
class StatusLine:
    """A fit's status in words; `warn` where its numbers must be read with care."""

    kind: ClassVar[str] = "status"
    status: str
    text: str
    warn: bool


@dataclasses.dataclass(frozen=True)
class Rows:
    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    wrapped: Sequence[int] = ()  # columns of prose, whose lines may break


@dataclasses.dataclass(frozen=True)
class Picture:
    kind: ClassVar[str] = "figure"
    png: Path
    alt: str
    caption: str

    @property
    def data(self) -> str:
        return base64.b64encode(self.png.read_bytes()).decode()


Block = Text | StatusLine | Rows | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


def write(path: Path, title: str, lead: str, answers: Sequence[Answer], sections: Sequence[Section]) -> Path:
    """Renders the report to `path`."""
    template = Environment(loader=PackageLoader("figures", "."), autoescape=True).get_template("report.html.j2")
    atomic_write(path, template.render(title=title, lead=lead, answers=answers, sections=sections))
    return path
