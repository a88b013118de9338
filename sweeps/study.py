"""What a study is: a Python file that states its question, its scales with their cost, and its arms.

`sweeps/<name>.py`, or any file given by path, defines `STUDY`. From it follow the plan, the launch, the status and
the table.

A study can be asked at several scales: on two CPU cores, on a GPU, at the paper's own sizes. A `Scale` says what text
it needs and what it costs; a study whose sizes and budgets differ by scale makes a dataclass of its own of it:

    @dataclasses.dataclass(frozen=True)
    class Size(Scale):
        sizes: tuple[str, ...]

    STUDY = Study(..., scales=(Size("nano", NANO_TEXT, "an hour", ("nano-2", "nano-4")), Size("gpu", ...)), arms=arms)

and `arms(prepared, scale)` reads `scale.sizes`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from lab.config import RunConfig
from lab.errors import LabError
from lab.parents import check_child
from sweeps.exclusion import DEFAULT_RULES

if TYPE_CHECKING:
    from analysis.claims import Claim
    from sweeps.texts import Text

# What a scale's name promises.
SCALES = {
    "embedded": "two CPU cores, minutes, on text that comes with the laboratory",
    "nano": "two CPU cores, minutes to hours",
    "gpu": "one large GPU, about an hour",
    "paper": "the paper's own sizes",
}


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Corpora by name, and the size of each one's own vocabulary, of their joint one, or of one trained from others."""

    corpora: tuple[str, ...]
    vocab: int
    joint: bool = False
    tokenizer_from: tuple[str, ...] = ()


# One group of corpora; or several by name, of which a study's arms are given a mapping of the same names.
Data: TypeAlias = DataSpec | Mapping[str, DataSpec]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One run of a study, under the name by which people speak of it; seeds of one arm share the name.

    Attributes:
      name: of the arm.
      run: what is trained.
      order: arms of a lower order are trained first, so that a study can stop between two orders with whole results.
      evaluations: how often the run is evaluated, evenly spread, the last time at its end.
      probed: shares of the run after which its parameters are kept, so that `lab probe --at` can look at them; those of
        the end are always kept.
    """

    name: str
    run: RunConfig
    order: int = 0
    evaluations: int = 1
    probed: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scale:
    """One size at which a study can be asked.

    Attributes:
      name: one of `SCALES`.
      data: the text it needs.
      cost: what it costs, and where that was measured.
      seeds: of parameters and data alike, for studies whose arms read them: `lab sweep run --seeds` gives others.
    """

    name: str
    data: Data
    cost: str
    seeds: tuple[int, ...] = dataclasses.field(default=(0,), kw_only=True)

    def __post_init__(self) -> None:
        if self.name not in SCALES:
            raise LabError(f"A study cannot have a scale {self.name!r}.", f"Known: {', '.join(SCALES)}.")


@dataclasses.dataclass(frozen=True)
class LawFit:
    """A law that a study wants to fit, and to which rows of its table.

    Attributes:
      law: a name of `analysis.laws`, or `./file.py:Class`.
      where: pandas query over the result table's columns; only what is known before training may be named.
      columns: variable of the law -> column, where they differ from the law's names and aliases.
      group: column of groups that are fitted at once; `shared` are the parameters that all of them share.
      params: the parameters that planning assumes; the law's published ones by default.
    """

    law: str
    where: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    group: str | None = None
    shared: tuple[str, ...] = ()
    params: Mapping[str, float] | None = None


S = TypeVar("S", bound=Scale)


@dataclasses.dataclass(frozen=True)
class Study(Generic[S]):
    """A question, and the runs that answer it.

    Attributes:
      name: the study's name.
      question: what it asks, in one sentence.
      expected: what the answer is expected to be, written before the runs.
      scales: where it can be asked, smallest first; the first is meant when none is named.
      arms: its runs, given the prepared text (`lab.data.prepare.Prepared`, or a mapping of them where the scale's data
        is one) and one of its scales.
      laws: the laws it wants to fit: `lab sweep plan` says whether its runs identify them.
      claims: what it puts to the test at one of its scales, fixed before its runs; `lab claims` gives the verdicts.
      again: how the names of arms end that run a second time under another rule of learning rates, or nothing; where
        the two decide a claim in opposite ways, it stays undecided.
      exclude: rules of `sweeps.exclusion` by which rows of its table are excluded from fits.
    """

    name: str
    question: str
    expected: str
    scales: tuple[S, ...]
    arms: Callable[[Any, S], tuple[Arm, ...]]
    laws: tuple[LawFit, ...] = ()
    claims: Callable[[S], tuple[Claim, ...]] = lambda scale: ()
    again: str = ""
    exclude: tuple[str, ...] = DEFAULT_RULES

    def __post_init__(self) -> None:
        names = [s.name for s in self.scales]
        if not names or len(set(names)) != len(names):
            raise LabError(f"Study {self.name} needs scales of different names, not {names}.")

    def scale(self, name: str | None = None, seeds: tuple[int, ...] = ()) -> S:
        """The scale called `name`, or the smallest; with other seeds, if any are given.

        Raises:
          LabError: when the study has no such scale.
        """
        for scale in self.scales:
            if name in (None, scale.name):
                return dataclasses.replace(scale, seeds=seeds) if seeds else scale
        raise LabError(
            f"Study {self.name} has no scale {name!r}.", f"It has: {', '.join(s.name for s in self.scales)}."
        )

    def label(self, scale: S) -> str:
        """Names the table and folder of the study at `scale`: `<study>-<scale>`, or `<study>` if it has one scale; and
        the seeds, if they are not the scale's own."""
        name = self.name if len(self.scales) == 1 else f"{self.name}-{scale.name}"
        return (
            name if scale.seeds == self.scale(scale.name).seeds else f"{name}-seeds-{'-'.join(map(str, scale.seeds))}"
        )

    def checked_arms(self, prepared: Text, scale: S) -> tuple[Arm, ...]:
        """The arms at `scale`, each run once.

        Raises:
          LabError: when the study's own code fails, two arms are the same run, or one does not fit its parent.
        """
        try:
            arms = self.arms(prepared, scale)
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
        runs = {arm.run.run_id: arm.run for arm in arms}
        for run in runs.values():
            if run.parent and run.parent.run_id in runs:
                check_child(run, runs[run.parent.run_id])
        others = {arm.run.seed_init for arm in arms} - set(scale.seeds)
        if others and scale.seeds != self.scale(scale.name).seeds:
            raise LabError(
                f"Study {self.name} cannot be run with other seeds: its arms have {sorted(others)} whatever is asked.",
                "Let its arms read `scale.seeds`.",
            )
        return arms


def find_study(name: str) -> Study[Any]:
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
