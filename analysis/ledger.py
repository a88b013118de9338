"""A test scale that opens once: the largest runs are kept out of every choice, and looking at them is written down."""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.compare import scale_of
from analysis.fitting import fit
from analysis.law import Law
from analysis.objective import Objective
from analysis.table import Table
from lab.errors import LabError


def fingerprint(table: Table, test: np.ndarray) -> str:
    """Identity of the held-out rows: their values, whatever the file is called and however it is sorted. 16 digits."""
    names = sorted(n for n in table.columns if n in ("N", "D", "C"))
    rows = np.column_stack([*(table.columns[n][test] for n in names), table.loss[test]])
    text = "\n".join(sorted(",".join(f"{v:.9e}" for v in row) for row in rows))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_once(path: Path, table: Table, test: np.ndarray, question: Mapping[str, Any]) -> str:
    """Writes into the ledger at `path` that the test rows are being looked at, and by what; returns their identity.

    A later test set that shares rows is another identity: keep one rule for what is held out.

    Raises:
      LabError: when the ledger says that they were looked at before, or it cannot be read.
    """
    identity = fingerprint(table, test)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                seen, when = entry["rows"], entry["opened"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise LabError(
                    f"Line {number} of the ledger {path} is damaged.", "Restore it from version control."
                ) from None
            if seen == identity:
                raise LabError(
                    f"These {int(test.sum())} test rows were opened on {when} for {entry['question']}.",
                    "A second look would be a choice by them: hold out larger runs, or report the first look.",
                )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"rows": identity, "opened": now, "count": int(test.sum()), "question": dict(question)}
        file.write(json.dumps(entry) + "\n")
    return identity


@dataclasses.dataclass(frozen=True)
class Examination:
    """The one look at the held-out rows.

    Attributes:
      law: the law that was chosen before.
      rows: how many were held out.  identity: of those rows, as in the ledger.
      mape, rmse, bias: relative errors of its predictions, fitted to the other rows only.
      status: of that fit.
    """

    law: str
    rows: int
    identity: str
    mape: float
    rmse: float
    bias: float
    status: str


def held_out(table: Table, above: float) -> np.ndarray:
    """Mask [n] of the rows whose scale lies above `above`.

    Raises:
      LabError: when that is none or all of them.
    """
    scale = scale_of(table)
    test = scale > above
    if not test.any() or test.all():
        raise LabError(
            f"{int(test.sum())} of {table.n} rows lie above {above:.3g}.",
            f"Scales: {scale.min():.3g} to {scale.max():.3g}.",
        )
    return np.asarray(test)


def examine(
    path: Path,
    table: Table,
    law: Law,
    above: float,
    *,
    objective: str | Objective | None = None,
    delta: float | None = None,
    shared: Sequence[str] = (),
) -> Examination:
    """Fits `law` to the rows up to scale `above` and predicts those beyond, once; the ledger keeps the second look out.

    The fit comes first: what fails before the rows are opened does not cost the look.

    Raises:
      LabError: as `fit`, `held_out` and `open_once` do.
    """
    test = held_out(table, above)
    inside = dataclasses.replace(table, weight=table.weight * ~test)
    one = fit(inside, law, objective=objective, delta=delta, shared=shared)
    identity = open_once(path, table, test, {"law": law.name, "above": above, "table": table.source})
    ratio = one.fitted[test] / table.loss[test]
    return Examination(
        law.name, int(test.sum()), identity, float(np.mean(np.abs(ratio - 1))),
        float(np.sqrt(np.mean(np.log(ratio) ** 2))), float(np.mean(ratio - 1)), one.status,
    )  # fmt: skip
