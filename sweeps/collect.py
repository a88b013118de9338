"""From run directories to one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config import form_fingerprint
from lab.errors import LabError
from lab.records import RunDir, read_json
from lab.result import CURVE_POINTS, described, evaluation_curve, thin
from lab.table import COLUMNS, SCHEMA_VERSION, Provenance, problem_of, rows, table_of, write_table
from sweeps.exclusion import Rule, judge
from sweeps.status import begun_runs
from sweeps.study import Arm

if TYPE_CHECKING:
    import pyarrow as pa


ROWS_AT_ONCE = 1000  # held as Python objects


@dataclasses.dataclass(frozen=True)
class Collected:
    """What was collected.

    Attributes:
      path: the table.
      rows: how many it has, excluded ones included.
      excluded: how many rows each rule excluded.
      incomplete: runs that were begun and are not over: they have rows, without a loss.
      waiting: runs that were not begun: they have none.
      damaged: what is wrong with the run directories that were left out, one line each.
    """

    path: Path
    rows: int
    excluded: Mapping[str, int]
    incomplete: int
    waiting: int
    damaged: tuple[str, ...]


def table_path(label: str, root: Path) -> Path:
    return root / label / "results.parquet"


def collect(label: str, arms: Sequence[Arm], root: Path, rules: Sequence[Rule]) -> Collected:
    """Writes the rows of all runs that were begun as one table.

    A run directory that is damaged or was edited by hand is named and left out; nothing in it is touched.

    Args:
      label: names the study at its scale, and the table's folder.
      arms: of the study.
      root: folder of all results.
      rules: exclude rows, in this order.

    Raises:
      LabError: when no run is over.
    """
    import pyarrow as pa

    tables: list[pa.Table] = []
    found: list[dict[str, Any]] = []
    damaged: list[str] = []
    over = incomplete = waiting = 0
    begun = begun_runs(root)
    for arm in arms:
        if arm.run.run_id not in begun:
            waiting += 1
            continue
        asked, directory = Provenance(label, arm.name), RunDir(root, arm.run.run_id)
        try:
            result = directory.result()
            _check(directory, result)
            if result is None:
                part = _incomplete(arm, directory, asked)
                incomplete += bool(part)
                waiting += not part
            else:
                part = _over(directory, result, asked)
        except LabError as error:
            damaged.append(str(error))
            continue
        found.extend(part)
        over += result is not None
        if len(found) >= ROWS_AT_ONCE:
            tables.append(table_of(found))
            found = []
    if not over:
        problem = f"No run of study {label} is finished below {root}."
        raise LabError(" ".join([problem, *damaged[:3]]), f"Run `lab sweep run {label}` first.")
    table = judge(pa.concat_tables([*tables, table_of(found)]), rules)
    path = table_path(label, root)
    excluded: dict[str, int] = {}
    for reason in table["exclusion"].drop_null().to_pylist():
        name = next(r.name for r in rules if reason.startswith(r.name))
        excluded[name] = excluded.get(name, 0) + 1
    return Collected(path, write_table(path, table), excluded, incomplete, waiting, tuple(damaged))


def _check(directory: RunDir, result: dict[str, Any] | None) -> None:
    """Whether a run directory is the run's.

    Raises:
      LabError: when its config, or the run that its result names, is another.
    """
    mend = f"It was edited by hand: move {directory.path} away to train the run again."
    if form_fingerprint(read_json(directory.config_file)) != directory.run_id:
        raise LabError(f"{directory.config_file} does not describe run {directory.run_id}.", mend)
    if result is not None and (named := result.get("run", {}).get("run_id")) != directory.run_id:
        raise LabError(f"{directory.result_file} is the result of run {named}.", mend)


def _over(directory: RunDir, result: dict[str, Any], asked: Provenance) -> list[dict[str, Any]]:
    """The rows of a run that is over.

    Raises:
      LabError: when its result was edited by hand or written by another version.
    """
    mend = f"It was written by another version or edited: move {directory.path} away to train the run again."
    try:
        part = rows(result, asked)
    except (KeyError, TypeError):
        raise LabError(f"{directory.result_file} is not a result.", mend) from None
    if not part:
        raise LabError(f"{directory.result_file} has no evaluation.", mend)
    for row in part:
        if problem := problem_of(row):
            raise LabError(f"{directory.result_file}: {problem}.", mend)
    return part


def _incomplete(arm: Arm, directory: RunDir, asked: Provenance) -> list[dict[str, Any]]:
    """The rows of a run that is not over: what its config and its log say, and no loss. None before its first log."""
    metrics = directory.metrics.read()
    if not metrics:
        return []
    run, last = arm.run, metrics[-1]
    so_far = dataclasses.replace(run, steps=last["step"])
    curve_tokens, curve_loss = thin(metrics, CURVE_POINTS)
    shared = {
        **dict.fromkeys(COLUMNS),
        **described(so_far),
        **dataclasses.asdict(asked),
        "run_id": run.run_id,
        "group": run.run_id,
        "curve_tokens": curve_tokens,
        "curve_loss": curve_loss,
        "train_loss": last["loss"],
        "wall_s": last.get("wall_s"),
        "status": "incomplete",
        "exclusion": f"incomplete: {so_far.tokens_seen:,} of {run.tokens_seen:,} tokens",
        "schema": SCHEMA_VERSION,
    }
    evaluations = directory.evaluations.read()
    return [
        {**shared, "language": c.language, **evaluation_curve(c.language, evaluations)} for c in run.mixture.components
    ]
