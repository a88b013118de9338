"""What a study is: a Python file that states its question, its cost and its arms.

`sweeps/<name>.py`, or any file given by path, defines `STUDY`. From it follow the plan, the launch, the status and
the table.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config import RunConfig
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.data.prepare import Prepared


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Corpora by name, and the size of each one's own vocabulary (or of their joint one)."""

    corpora: tuple[str, ...]
    vocab: int
    joint: bool = False


@dataclasses.dataclass(frozen=True)
class Arm:
    """One run of a study, under the name by which people speak of it; seeds of one arm share the name."""

    name: str
    run: RunConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it.

    Attributes:
      name: the study's name, also that of its table.
      question: what it asks, in one sentence.
      cost: what it costs, and where that was measured.
      expected: what the answer is expected to be, written before the runs.
      data: the text it needs.
      arms: its runs, given the prepared text.
    """

    name: str
    question: str
    cost: str
    expected: str
    data: DataSpec
    arms: Callable[[Prepared], tuple[Arm, ...]]

    def checked_arms(self, prepared: Prepared) -> tuple[Arm, ...]:
        """The arms, each run once.

        Raises:
          LabError: when the study's own code fails, or two arms are the same run.
        """
        try:
            arms = self.arms(prepared)
        except LabError:
            raise
        except Exception as error:
            raise LabError(f"Study {self.name} failed while making its arms: {_where(error)}.") from error
        seen: dict[str, str] = {}
        for arm in arms:
            if arm.run.run_id in seen:
                raise LabError(
                    f"Study {self.name}: arms {seen[arm.run.run_id]!r} and {arm.name!r} are the same run.",
                    "Name it once, or give them different seeds.",
                )
            seen[arm.run.run_id] = arm.name
        if not arms:
            raise LabError(f"Study {self.name} has no arms.")
        return arms


def find_study(name: str) -> Study:
    """The study called `name`, or the one in the file `name`.

    Raises:
      LabError: when there is none, or its file raises.
    """
    try:
        if name.endswith(".py"):
            path = Path(name)
            if not path.exists():
                raise LabError(f"The study file {name} does not exist.")
            spec = importlib.util.spec_from_file_location(f"_study_{path.stem}", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        elif name in study_names():
            module = importlib.import_module(f"sweeps.{name}")
        else:
            raise LabError(f"There is no study {name!r}.", f"Known: {', '.join(study_names())}; or give a .py file.")
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"The study file of {name} raises {_where(error)}.") from error
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise LabError(f"The study file of {name} defines no STUDY = Study(...).")
    return study


def study_names() -> list[str]:
    """The studies that ship with the laboratory: the modules here that define a STUDY."""
    here = Path(__file__).parent
    return sorted(p.stem for p in here.glob("*.py") if "\nSTUDY = " in p.read_text())


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"
