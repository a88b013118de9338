"""Where a figure comes from, as it is written into the file itself, and the way back.

PNG and SVG hold it as their description, PDF as its subject, a table in CSV as its first line after `# `: one JSON
object, that any viewer of properties shows.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lab.errors import LabError
from lab.records import one_line_io_errors, provenance

# A figure of more runs lists them in a file beside it.
MOST_RUNS = 500
FORMATS = (".png", ".svg", ".pdf")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a figure comes from.

    Attributes:
      table: file name of the table that it was drawn from.
      table_sha256: of that file's bytes.
      function: that drew it.
      revision: of the source, with + where it was modified.
      n_runs, runs_sha256: how many runs it shows, and the hash of their ids, sorted, one a line.
      runs: their ids; none where there are more than MOST_RUNS, which `<figure>.runs.txt` lists.
    """

    table: str
    table_sha256: str
    function: str
    revision: str
    n_runs: int
    runs_sha256: str
    runs: tuple[str, ...]

    @classmethod
    def of(cls, table: Path, function: str, runs: Iterable[str]) -> Provenance:
        """For a figure that `function` draws of some runs of a table, with the source as it is now."""
        ids = tuple(sorted(set(runs)))
        digest = hashlib.sha256(listed(ids).encode()).hexdigest()
        return cls(table.name, sha256(table), function, provenance()["commit"], len(ids), digest, ids)

    def embedded(self) -> str:
        """The JSON object that the file holds."""
        kept = dataclasses.replace(self, runs=()) if self.n_runs > MOST_RUNS else self
        return json.dumps(dataclasses.asdict(kept))

    def metadata(self, ending: str) -> dict[str, Any]:
        """What `savefig` is to write into a file of this ending; no date, so that a figure drawn again is the same."""
        if ending == ".pdf":
            return {"Subject": self.embedded(), "CreationDate": None}
        if ending == ".svg":
            return {"Description": self.embedded(), "Date": None}
        return {"Description": self.embedded(), "Software": "scaling-lab"}

    def write_runs(self, stem: Path) -> None:
        """Lists the runs beside a figure that has too many to hold."""
        if self.n_runs > MOST_RUNS:
            with one_line_io_errors(stem):
                runs_file(stem).write_text(listed(self.runs))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def listed(runs: Iterable[str]) -> str:
    return "".join(f"{run}\n" for run in runs)


def runs_file(figure: Path) -> Path:
    """The list of a figure's runs, where it has too many to hold."""
    return figure.with_suffix(".runs.txt")


def read_provenance(file: Path) -> dict[str, Provenance]:
    """What a figure's file says of where it comes from; of a report's HTML, each figure in it. By name of the figure.

    Raises:
      LabError: when the file is missing, no figure, or says nothing.
    """
    readers = {".png": _in_png, ".svg": _in_svg, ".pdf": _in_pdf, ".csv": _in_csv}
    if not file.is_file():
        raise LabError(f"There is no figure {file}.")
    if file.suffix == ".html":
        pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", file.read_text())
        texts = [_in_png(base64.b64decode(picture)) for picture in pictures]
    elif file.suffix in readers:
        texts = [readers[file.suffix](file.read_bytes())]
    else:
        raise LabError(f"{file} is no figure.", f"Known endings: {', '.join([*readers, '.html'])}.")
    found = {}
    for text in texts:
        one = _parsed(text)
        if one is not None:
            found[one.function.rpartition(".")[2]] = _with_runs(one, file)
    if not found:
        raise LabError(
            f"{file} does not say where it comes from.",
            "It was not drawn by this laboratory, or a program that edited it removed its metadata.",
        )
    return found


def _parsed(text: str | None) -> Provenance | None:
    try:
        form = json.loads(text or "")
        return Provenance(**{**form, "runs": tuple(form["runs"])})
    except (json.JSONDecodeError, TypeError, KeyError):
        return None


def _with_runs(found: Provenance, file: Path) -> Provenance:
    if len(found.runs) == found.n_runs:
        return found
    beside = runs_file(file)
    if not beside.is_file():
        raise LabError(f"{file} shows {found.n_runs} runs, whose list {beside} is missing.", "Draw it again.")
    runs = tuple(beside.read_text().split())
    if hashlib.sha256(listed(runs).encode()).hexdigest() != found.runs_sha256:
        raise LabError(f"{beside} is not the list of runs that {file} was drawn from.", "Draw it again.")
    return dataclasses.replace(found, runs=runs)


def _in_png(data: bytes) -> str | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.info.get("Description")
    except UnidentifiedImageError:
        return None


def _in_svg(data: bytes) -> str | None:
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError:
        return None
    return next((e.text for e in root.iter("{http://purl.org/dc/elements/1.1/}description")), None)


def _in_csv(data: bytes) -> str | None:
    return data.partition(b"\n")[0].removeprefix(b"# ").decode("utf-8", "replace")


def _in_pdf(data: bytes) -> str | None:
    """The subject in the document's information, which matplotlib writes as one uncompressed string."""
    found = re.search(rb"/Subject \(((?:[^\\()]|\\.)*)\)", data, re.DOTALL)
    if found is None:
        return None
    return re.sub(rb"\\(.)", rb"\1", found[1], flags=re.DOTALL).decode("ascii", "replace")
