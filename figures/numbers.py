"""The numbers of a report, each with the fit and the runs that it comes from: `numbers.json` beside the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

from figures.provenance import sha256
from lab.records import provenance, write_json


@dataclasses.dataclass(frozen=True)
class Number:
    """One number of a report.

    Attributes:
      name: what it is.
      value: at the fit.
      source: how it was computed.
      runs: ids of the runs that it was computed from.
      ends: of its intervals, lower and upper ones by the method's name; infinite where open.
    """

    name: str
    value: float
    source: str
    runs: tuple[str, ...]
    ends: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


def write_numbers(path: Path, table: Path, numbers: Iterable[Number]) -> None:
    """Writes the numbers that were computed from `table`."""
    form = {
        "table": table.name,
        "table_sha256": sha256(table),
        "revision": provenance()["commit"],
        "numbers": [
            {
                "name": n.name,
                "value": n.value,
                "source": n.source,
                "intervals": {k: [end if math.isfinite(end) else None for end in ends] for k, ends in n.ends.items()},
                "runs": sorted(set(n.runs)),
            }
            for n in numbers
        ],
    }
    write_json(path, form)
