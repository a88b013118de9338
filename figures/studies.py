"""Which studies have figures, and one way to draw them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from analysis.plots import STYLE
from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.claims import Claim


@dataclasses.dataclass(frozen=True)
class Found:
    """What there is of a study; everything but its name may be missing.

    Attributes:
      label: names the study at its scale.
      table: its result table.
      probes: the table of its probes.
      rates: the result table of the sweep that fixed its learning rates.
      claims: that it makes, fixed before its runs.
      again: how the names of arms end that ran a second time under another rule of learning rates.
    """

    label: str
    table: Path | None = None
    probes: Path | None = None
    rates: Path | None = None
    claims: Sequence[Claim] = ()
    again: str = ""


def _demo(found: Found, folder: Path) -> str:
    from figures import demo

    if found.table is None:
        raise LabError(f"There is no table of {found.label}.", f"Make it: lab sweep run {found.label}, then collect.")
    return demo.draw(found.table, folder)


def _imbalance(found: Found, folder: Path) -> str:
    from figures import imbalance

    return imbalance.draw(found, folder)


def _continual(found: Found, folder: Path) -> str:
    from figures import continual

    return continual.draw(found, folder)


STUDIES: dict[str, Callable[[Found, Path], str]] = {
    "continual": _continual,
    "demo": _demo,
    "imbalance": _imbalance,
}


def draw(study: str, found: Found, folder: Path) -> str:
    """Draws every figure and the report of `study` into `folder`.

    Returns a summary for the terminal, which ends with the report's path.

    Raises:
      LabError: for a study without figures, or a table that is missing or lacks runs that a figure needs.
    """
    if study not in STUDIES:
        raise LabError(f"The study {study!r} has no figures.", f"Known: {', '.join(STUDIES)}.")
    with mpl.rc_context(STYLE):
        return STUDIES[study](found, folder)
