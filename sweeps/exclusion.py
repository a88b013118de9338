"""The rules by which rows are excluded from fits: named, with the reason in the row; no row is ever dropped.

A rule looks at the whole table and says of each row why it does not belong into a fit, or nothing. A table names the
rules it was made with, and rules see only the table, so that tables of several machines are judged again together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DEFAULT_RULES = ("diverged", "incomplete")

# Runs that agree in these differ in learning rate and seeds alone (rates are compared within one study).
RATE_CELL = [
    "study", "mixture", "family", "d_model", "n_layers", "n_total", "base_width", "context", "layout_hash",
    "tokens_seen", "batch_tokens", "schedule", "warmup", "weight_decay", "parent_tokens",
]  # fmt: skip


def diverged(frame: pd.DataFrame, _: float) -> pd.Series:
    """Runs whose loss or gradients ran away; says at which step."""
    return _as_noted(frame, "diverged")


def incomplete(frame: pd.DataFrame, _: float) -> pd.Series:
    """Runs that were not over when the table was made; says how far they were."""
    return _as_noted(frame, "incomplete")


def learning_rate(frame: pd.DataFrame, tolerance: float) -> pd.Series:
    """Runs whose peak rate is off the frontier: another rate of the same cell has a loss lower by more than VALUE."""
    best = best_rates(frame)
    worse = (best.loss - best.best_loss) / best.best_loss > tolerance
    reason = [
        f"learning-rate: {rate:g} is off the frontier, {top:g} has {low:.4f} nats against {loss:.4f}"
        for rate, top, low, loss in zip(frame.peak_lr, best.rate, best.best_loss, best.loss, strict=True)
    ]
    return _series(frame, reason).where(worse & (best.rate != frame.peak_lr))


def min_tokens(frame: pd.DataFrame, least: float) -> pd.Series:
    """Runs that saw fewer than VALUE training tokens."""
    reason = [f"min-tokens: {seen:,} tokens are fewer than {least:,.0f}" for seen in frame.tokens_seen]
    return _series(frame, reason).where(frame.tokens_seen < least)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule and its value.

    Attributes:
      name: as people write it.
      reasons: the rule: a table, and the value, to the reason of each row, or a missing one.
      value: by default; NaN where one must be given, None where the rule has none.
    """

    name: str
    reasons: Callable[[pd.DataFrame, float], pd.Series]
    value: float | None = None

    @property
    def meaning(self) -> str:
        return (self.reasons.__doc__ or "").strip()

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value:g}"


RULES = {
    rule.name: rule
    for rule in (
        Rule("diverged", diverged),
        Rule("incomplete", incomplete),
        Rule("learning-rate", learning_rate, 0.0),
        Rule("min-tokens", min_tokens, float("nan")),
    )
}


def parse(names: Sequence[str]) -> tuple[Rule, ...]:
    """Rules from `NAME` or `NAME=VALUE`; `none` alone is no rule at all.

    Raises:
      LabError: for an unknown rule, or one whose value is missing, odd or not wanted.
    """
    if tuple(names) == ("none",):
        return ()
    found = []
    for text in names:
        name, given, value = text.partition("=")
        if name not in RULES:
            known = "; ".join(f"{r.name}: {r.meaning}" for r in RULES.values())
            raise LabError(f"There is no exclusion rule {name!r}.", f"Known: {known}")
        rule = RULES[name]
        if given:
            if rule.value is None:
                raise LabError(f"The exclusion rule {name} has no value, not {value!r}.")
            try:
                rule = dataclasses.replace(rule, value=float(value))
            except ValueError:
                raise LabError(f"The exclusion rule {text!r} needs a number.", f"As in {name}=1e6.") from None
        if rule.value is not None and not np.isfinite(rule.value):
            raise LabError(f"The exclusion rule {name} needs a value.", f"As in {name}=1e6.")
        found.append(rule)
    return tuple(found)


def judge(table: pa.Table, rules: Sequence[Rule]) -> pa.Table:
    """The table with `tuned` and `exclusion` filled in: of each row the reason of the first rule that names it.

    What the rows said of divergence and of being incomplete is kept as those rules' reason.
    """
    import pandas as pd
    import pyarrow as pa

    from lab.table import arrow_schema

    needed = {*RATE_CELL, "run_id", "language", "loss", "peak_lr", "tokens_seen", "status", "exclusion"}
    frame = table.select(sorted(needed)).to_pandas()
    reasons = pd.Series(None, index=frame.index, dtype=object)
    for rule in rules:
        reasons = reasons.where(reasons.notna(), rule.reasons(frame, rule.value or 0.0))
    best = best_rates(frame)
    tuned = np.log(frame.peak_lr / best.rate)
    schema = arrow_schema([str(rule) for rule in rules])
    columns = {name: table[name] for name in schema.names}
    columns["exclusion"] = pa.array(reasons.where(reasons.notna(), None), pa.string())
    columns["tuned"] = pa.array(tuned, pa.float64(), from_pandas=True)
    return pa.table(columns, schema=schema)


def best_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each row's cell: the peak rate of the lowest loss, that loss, and the loss of the row's own rate.

    Losses are means over languages and seeds; a rate that diverged with any seed is the worst. Missing where no other
    rate was tried, or for a run that is not over.
    """
    import pandas as pd

    over = frame[frame.status != "incomplete"]
    over = over.assign(loss=over.loss.where(over.status == "done", np.inf))
    cells = over.groupby([*RATE_CELL, "peak_lr"], dropna=False).loss.mean().rename("own").reset_index()
    cells["tried"] = cells.groupby(RATE_CELL, dropna=False).peak_lr.transform("size")
    top = cells.sort_values("own", kind="stable").groupby(RATE_CELL, dropna=False, sort=False).head(1)
    top = top.rename(columns={"peak_lr": "rate", "own": "best_loss"})[[*RATE_CELL, "rate", "best_loss"]]
    cells = cells.merge(top, on=RATE_CELL)
    compared = cells[(cells.tried > 1) & np.isfinite(cells.best_loss)].rename(columns={"own": "loss"})
    columns = ["rate", "best_loss", "loss"]
    found = frame[[*RATE_CELL, "peak_lr", "status"]].merge(
        compared[[*RATE_CELL, "peak_lr", *columns]], on=[*RATE_CELL, "peak_lr"], how="left"
    )[columns]
    found.index = frame.index
    found[frame.status == "incomplete"] = np.nan
    assert isinstance(found, pd.DataFrame)
    return found


def _as_noted(frame: pd.DataFrame, status: str) -> pd.Series:
    """The rows of a status, with what they say of it themselves."""
    noted = frame.exclusion.fillna("").str.startswith(status)
    reason = frame.exclusion.astype(object).where(noted, status)
    return reason.where(frame.status == status)


def _series(frame: pd.DataFrame, values: Sequence[str]) -> pd.Series:
    import pandas as pd

    return pd.Series(values, index=frame.index, dtype=object)
