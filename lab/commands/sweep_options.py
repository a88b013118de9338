"""What the verbs of `lab sweep` share: which study, at which scale, below which folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from sweeps.study import Arm, Scale, Study

ROOT = Path("out")


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    """A study at one of its scales."""

    study: tyro.conf.Positional[str]
    """Name of a study, or a path to its Python file."""
    scale: str | None = None
    """One of the study's scales (`lab sweep list`): nano, gpu or paper; by default its smallest."""
    root: Path = ROOT
    """Folder for everything the laboratory writes."""
    seeds: tuple[int, ...] = ()
    """Seeds in place of the scale's own: the same arms once more, with a table of their own (`lab replicate`)."""

    def chosen(self) -> tuple[Study[Any], Scale]:
        """The study and its scale.

        Raises:
          LabError: when there is no such study or scale, or its file raises.
        """
        from sweeps.study import find_study

        study = find_study(self.study)
        return study, study.scale(self.scale, self.seeds)

    def labelled_arms(self) -> tuple[str, tuple[Arm, ...]]:
        """The study's label at the scale, and its arms.

        Raises:
          LabError: when there is no such study or scale, its file raises, or its text cannot be prepared.
        """
        from sweeps.launch import prepared_arms

        study, scale = self.chosen()
        return study.label(scale), prepared_arms(study, scale, self.root)
