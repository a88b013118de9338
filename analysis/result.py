"""What a fit returns: frozen, typed, with a status that says whether the numbers may be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from analysis.coordinates import Problem
from analysis.identify import NullDirection
from analysis.law import Law
from analysis.objective import Objective
from analysis.table import Drop, Table
from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.intervals import Interval

# From worst to best; a fit has the first that applies, and `flags` lists every one that does.
Status = Literal["not converged", "not identified", "degenerate", "bound hit", "several minima", "converged"]
STATUSES: tuple[Status, ...] = (
    "not converged", "not identified", "degenerate", "bound hit", "several minima", "converged",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Flag:
    """One thing the reader of a fit must know: its kind (a status, or `note`) and a sentence."""

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Minimum:
    """A local minimum other starts ended in."""

    objective: float
    params: Mapping[str, float]
    share: float


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A law fitted to a table.

    Attributes:
      law, table, objective: what was fitted, to what, minimising what.
      params: label -> value in natural units; labels are parameter names, with `[group]` where groups differ.
      frozen: parameters held at a given value.
      status, flags: see STATUSES.
      value: the objective at the optimum (a sum over points).
      residuals: prediction - observation in the objective's space [n].
      condition: of the Jacobian in centred coordinates with unit columns.
      null: directions in parameter space that the table says nothing about.
      minima: other local minima found, best first.
      reached: share of the starts that ended at the optimum.
      seconds: wall time of the fit.
      problem, z: the solver's view (coordinates [q]), for everything that refits.
    """

    law: Law
    table: Table
    objective: Objective
    params: Mapping[str, float]
    frozen: Mapping[str, float]
    status: Status
    flags: tuple[Flag, ...]
    value: float
    residuals: np.ndarray
    condition: float
    null: tuple[NullDirection, ...]
    minima: tuple[Minimum, ...]
    reached: float
    seconds: float
    problem: Problem
    z: np.ndarray

    @property
    def n(self) -> int:
        return self.table.n

    @property
    def dropped(self) -> tuple[Drop, ...]:
        return self.table.dropped

    @property
    def identified(self) -> bool:
        return self.status not in ("not converged", "not identified")

    def params_of(self, group: str | None = None) -> dict[str, float]:
        """All of the law's parameters, frozen ones included, for one group (none needed where there is one).

        Raises:
          LabError: when the group is unknown, or not named where groups differ.
        """
        return group_params(self.law, self.table.groups, {**self.frozen, **self.params}, group)

    def predict(self, x: Mapping[str, Any], group: str | None = None) -> np.ndarray:
        """Loss in nats at columns x (variable name -> array)."""
        with jax.enable_x64(True):
            columns = {k: jnp.asarray(v, jnp.float64) for k, v in x.items()}
            return np.asarray(jnp.exp(self.law.log_pred(self.params_of(group), columns)))

    @property
    def fitted(self) -> np.ndarray:
        """Loss in nats predicted at the table's own points [n]."""
        y, r = self.table.loss, self.residuals
        if self.objective.space == "log":
            return np.asarray(y * np.exp(r))
        return np.asarray(y + r if self.objective.space == "linear" else -np.log(np.exp(-y) + r))

    @property
    def r2(self) -> float:
        """1 - residual / total sum of squares of the loss in nats."""
        y = self.table.loss
        return float(1 - np.sum((self.fitted - y) ** 2) / np.sum((y - y.mean()) ** 2))

    def intervals(
        self, level: float = 0.95, method: str | None = None, resamples: int = 1000, seed: int = 0
    ) -> dict[str, Interval]:
        """An interval for every free parameter; see `analysis.intervals.intervals`."""
        from analysis.intervals import intervals

        return intervals(self, level, method, resamples, seed)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """One JSON-ready object."""
        return {
            "law": self.law.name,
            "source": self.law.source,
            "table": self.table.source,
            "n": self.n,
            "groups": list(self.table.groups) if len(self.table.groups) > 1 else [],
            "clusters": len(self.table.clusters) if self.table.clustered else None,
            "objective": {"name": self.objective.name, "delta": self.objective.delta, "value": self.value},
            "params": dict(self.params),
            "frozen": dict(self.frozen),
            "status": self.status,
            "flags": [dataclasses.asdict(f) for f in self.flags],
            "null_directions": [d.text for d in self.null],
            "minima": [dataclasses.asdict(m) for m in self.minima],
            "reached": self.reached,
            "condition": self.condition,
            "r2": self.r2,
            "dropped": [{"rule": d.rule, "why": d.why, "rows": list(d.rows)} for d in self.dropped],
            "notes": list(self.table.notes),
            "seconds": self.seconds,
        }


def group_params(law: Law, groups: tuple[str, ...], params: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    """Picks one group's parameters, by plain name, out of labelled ones; see `Fit.params_of`."""
    if group is None:
        if len(groups) > 1 and any(p.name not in params for p in law.parameters):
            raise LabError(f"The fit has {len(groups)} groups.", f"Name one: {', '.join(groups)}.")
        group = groups[0]
    if group not in groups:
        raise LabError(f"The fit has no group {group!r}.", f"It has: {', '.join(groups)}.")
    return {p.name: params[p.name] if p.name in params else params[f"{p.name}[{group}]"] for p in law.parameters}
