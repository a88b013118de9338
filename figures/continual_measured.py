"""What a result table of the continual study holds, read once for all figures; a missing part says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from analysis.continual import distance, joint, lengths, replay, savings, vocabulary
from analysis.continual.names import arm, setting
from analysis.continual.names import what as what_of
from analysis.continual.roles import averaged, ladder, points, roles
from figures.provenance import Provenance
from figures.published import PublishedContinual
from lab.errors import LabError
from lab.table import read_table

T = TypeVar("T")
ACCURACIES = ("minimal pairs", "cloze")
RESAMPLES = 400


@dataclasses.dataclass(frozen=True, eq=False)
class Own:
    """The measured side.

    Attributes:
      rows: of `analysis.continual.roles`; empty without a table.
      runs: of `points`.
      ladder: the runs that laws are fitted to.
      curves: (role, N) -> loss curve of the ladder.
      saved: of `savings`.  by_parent: of `lengths`.  vocabularies: of `vocabulary`.
      gains: of `transfer`.  replayed, forgotten: of `replay`.
      distances: of every target.  accuracies: of `lab.probes`, minimal pairs and cloze, with the runs' roles.
      joint: the fitted laws, or None.
      misses: of `joint.forward`, or None.
      refused: part -> why it could not be had, in words.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    ladder: pd.DataFrame
    curves: Mapping[tuple[str, float], savings.Curve]
    saved: pd.DataFrame
    by_parent: pd.DataFrame
    vocabularies: pd.DataFrame
    gains: pd.DataFrame
    replayed: pd.DataFrame
    forgotten: pd.DataFrame
    distances: pd.DataFrame
    accuracies: pd.DataFrame
    joint: joint.Joint | None
    misses: pd.DataFrame | None
    refused: Mapping[str, str]

    @classmethod
    def nothing(cls) -> Own:
        """Where there is no table."""
        none = pd.DataFrame()
        why = "there is no result table of this study yet"
        parts = ("runs", "ladder", "laws", "savings", "parents", "vocabularies", "gains", "replay", "forgetting",
                 "distances", "accuracies")  # fmt: skip
        return cls(
            rows=none, runs=none, ladder=none, curves={}, saved=none, by_parent=none, vocabularies=none, gains=none,
            replayed=none, forgotten=none, distances=none, accuracies=none, joint=None, misses=None,
            refused=dict.fromkeys(parts, why),
        )  # fmt: skip

    @property
    def main_n(self) -> float:
        """The size with most continued runs: of replay and of further targets."""
        return float(self.runs.N[self.runs.role == "cpt"].mode().iloc[0])

    def why(self, part: str) -> str:
        return self.refused.get(part, "not in the table")


def measured(table: Path, probes: Path | None = None, resamples: int = RESAMPLES) -> Own:
    """Reads a result table of the study, and the table of its probes where there is one.

    Raises:
      LabError: for a table that is damaged, or whose runs have no roles.
    """
    rows = roles(read_table(table))
    runs = points(rows)
    found = None if probes is None else pd.read_parquet(probes)
    refused: dict[str, str] = {}

    def part(name: str, make: Callable[[], T], otherwise: T) -> T:
        try:
            return make()
        except LabError as error:
            refused[name] = error.problem
            return otherwise

    none = pd.DataFrame()
    whole = part("ladder", lambda: ladder(runs), none)
    curves: dict[tuple[str, float], savings.Curve] = savings.curves(whole, rows) if len(whole) else {}
    saved = part("savings", lambda: savings.savings(curves), none)
    by_parent, others = none, none
    if len(whole):
        by_parent = part("parents", lambda: lengths.by_parent(runs, curves, str(whole.text.iloc[0])), none)
        others = part("vocabularies", lambda: vocabulary.vocabularies(runs, whole), none)
    gains = part("gains", lambda: distance.transfer(runs), none)
    forgotten = part("forgetting", lambda: replay.forgetting(rows), none)
    laws, misses = None, None
    if len(whole):
        laws = part("laws", lambda: joint.joint(whole, resamples), None)
        misses = part("forward", lambda: joint.forward(whole), None)
    else:
        for name in ("laws", "savings", "parents", "vocabularies"):
            refused[name] = refused["ladder"]
    if found is None:
        refused["distances"] = refused["accuracies"] = "there is no table of probes"
        far, accuracies = none, none
    else:
        far, accuracies = distance.distances(found, runs), _accuracies(found, rows)
    return Own(rows, runs, whole, curves, saved, by_parent, others, gains, replay.replayed(rows), forgotten, far,
               accuracies, laws, misses, refused)  # fmt: skip


def _accuracies(probes: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies at the runs' ends, beside what the runs are; seeds together: mean, lowest, highest, and runs.

    What a continued run began with is the source's model read in that run's target: a row of role `source`.
    """
    what = rows.drop_duplicates("run_id").set_index("run_id")
    text = rows[rows.language == rows.target].drop_duplicates("run_id").set_index("run_id").eval_hash
    shown = probes[probes.probe.isin(ACCURACIES) & probes.run_id.isin(what.index)]
    own = what.loc[shown.run_id].set_index(shown.index)
    begun = (shown["at"] == 0) & (own.role == "cpt") & (shown.language == own.target)
    parent_tokens = own.parent_D.astype(float)
    facts = pd.DataFrame({
        "role": own.role.mask(begun, "source"), "replay": own.replay.mask(begun, 0.0), "N": own.N,
        "tokens_seen": own.tokens_seen.astype(float).mask(begun, parent_tokens),
        "name": own.arm.mask(begun, [_source_of(*pair) for pair in zip(own.arm, parent_tokens, strict=True)]),
    })  # fmt: skip
    shown = shown.assign(**facts, eval_hash=shown.run_id.map(text).to_numpy())[begun | (shown["at"] == 1)]
    by = ["probe", "place", "language", "condition", "role", "replay", "N", "name", "eval_hash", "tokens_seen"]
    groups = shown.groupby(by, dropna=False)
    found = groups.value.agg(["mean", "min", "max"]).set_axis(["value", "low", "high"], axis=1)
    found["runs"] = [tuple(sorted(set(part.run_id))) for _, part in groups]
    return found.reset_index()


def _source_of(name: str, tokens: float) -> str:
    """What the parent of a continued arm would be called, had it the arm's setting."""
    return arm(what_of("source", setting(name)), tokens / 1e6, name.rpartition(", ")[2])


@dataclasses.dataclass(frozen=True, eq=False)
class Sides:
    """Published and measured, and the table that figures say they come from."""

    paper: PublishedContinual
    own: Own
    table: Path

    def provenance(self, function: str, *frames: pd.DataFrame) -> Provenance:
        """Of a figure that shows the runs of these frames (column `runs`, or `run_id`)."""
        ids: set[str] = set()
        for frame in frames:
            if "runs" in frame:
                ids |= {run for some in frame.runs for run in some}
            elif "run_id" in frame:
                ids |= set(frame.run_id)
        return Provenance.of(self.table, f"figures.continual.{function}", ids)


def cells(own: Own) -> pd.DataFrame:
    """The runs with seeds together; empty without a table."""
    return averaged(own.runs) if len(own.runs) else own.runs


def number(value: Any, digits: int = 4) -> str:
    return f"{float(value):.{digits}g}"
