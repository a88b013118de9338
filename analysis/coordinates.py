"""The coordinates a solver steps in: free parameters only, coefficients measured at the centre of the data.

A coefficient c enters as z = c * basis(centre; shapes), the size of its term in nats at the geometric mean of every
column. That is the pivot-centred form for any law with a `log_basis`, and it keeps c = 0 an ordinary bound.
Shapes enter as they are, or as logarithms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from analysis.law import Law, Parameter
from analysis.objective import Objective

# A coefficient's term at the centre, in nats (or 1/perplexity); only absurd terms of opposite sign reach it.
LARGEST_TERM = 1e6


@dataclasses.dataclass(frozen=True)
class Free:
    """One coordinate: a parameter of one group, or (group None) shared by all."""

    name: str
    group: int | None

    def label(self, groups: tuple[str, ...]) -> str:
        return self.name if self.group is None else f"{self.name}[{groups[self.group]}]"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything about a family of fits that is fixed at compile time.

    Attributes:
      law, objective: what is fitted and what is minimised.
      groups: how many groups the points fall into.
      free: the coordinates in order, shapes before coefficients.
    """

    law: Law
    objective: Objective
    groups: int
    free: tuple[Free, ...]

    @property
    def q(self) -> int:
        return len(self.free)

    @property
    def code(self) -> Problem:
        """The problem with what compiled code takes as an argument left out, so that it is shared."""
        return dataclasses.replace(self, objective=dataclasses.replace(self.objective, delta=1.0))

    def parameter(self, k: int) -> Parameter:
        return self.law.parameter[self.free[k].name]


def make_problem(
    law: Law, objective: Objective, groups: int, frozen: frozenset[str], shared: frozenset[str]
) -> Problem:
    """The problem with every parameter free but `frozen`, and one value for all groups of those in `shared`."""
    ordered = [p for p in law.parameters if p.role == "shape"] + [p for p in law.parameters if p.role == "coefficient"]
    free: list[Free] = []
    for p in ordered:
        if p.name in frozen:
            continue
        if groups == 1 or p.name in shared:
            free.append(Free(p.name, None))
        else:
            free.extend(Free(p.name, g) for g in range(groups))
    return Problem(law, objective, groups, tuple(free))


def bounds(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of every coordinate, [q] each."""
    low, high = [], []
    for k in range(problem.q):
        p = problem.parameter(k)
        if p.role == "coefficient":
            low.append(0.0 if p.lower >= 0 else -LARGEST_TERM)
            high.append(LARGEST_TERM)
        elif p.scale == "log":
            low.append(np.log(p.lower))
            high.append(np.log(p.upper))
        else:
            low.append(p.lower)
            high.append(p.upper)
    return np.array(low), np.array(high)


def to_params(
    problem: Problem, z: jax.Array, constant: Mapping[str, Any], centre: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Natural parameters, name -> scalar (one group) or [G], from coordinates z [q] and the frozen values."""
    law = problem.law
    p: dict[str, Any] = dict(constant)
    values: dict[str, Any] = {}
    # In order, never over a set: the compiled program, and so its place in a persistent cache, must not vary.
    for name in dict.fromkeys(f.name for f in problem.free):
        at = [k for k, f in enumerate(problem.free) if f.name == name]
        value = z[at[0]] if problem.free[at[0]].group is None else z[jnp.array(at)]
        values[name] = jnp.exp(value) if _in_logs(law.parameter[name]) else value
    for name, value in values.items():
        if law.parameter[name].role == "shape":
            p[name] = value
    scale = unit_terms(problem, p, centre)
    for name, value in values.items():
        if law.parameter[name].role == "coefficient":
            p[name] = value * jnp.exp(-scale[name]) if name in scale else value
    return p


def unit_terms(problem: Problem, p: Mapping[str, Any], centre: Mapping[str, Any]) -> dict[str, Any]:
    """log basis of each free coefficient at the centre; the mean over groups where the coefficient is shared."""
    # Free coefficients count as 1 here, so that coordinates do not depend on them where a basis reads them.
    unknown = {f.name: 1.0 for f in problem.free if problem.law.parameter[f.name].role == "coefficient"}
    basis = problem.law.log_basis({**p, **unknown}, centre)
    if basis is None:
        return {}
    grouped = {f.name: f.group is not None for f in problem.free}
    return {k: jnp.asarray(v) if grouped.get(k) else jnp.mean(v) for k, v in basis.items() if k in grouped}


def to_coordinates(problem: Problem, params: Mapping[str, Any], centre: Mapping[str, Any]) -> np.ndarray:
    """The z [q] of natural parameters (name -> scalar or [G]); the inverse of `to_params`."""
    with jax.enable_x64(True):
        scale = {k: np.asarray(v) for k, v in unit_terms(problem, params, centre).items()}
    z = np.empty(problem.q)
    for k, f in enumerate(problem.free):
        p = problem.law.parameter[f.name]
        value = np.asarray(params[f.name], float)
        one = float(value if value.ndim == 0 else value.mean() if f.group is None else value[f.group])
        if p.role == "coefficient":
            s = scale.get(f.name, np.zeros(()))
            z[k] = one * np.exp(float(s if np.ndim(s) == 0 else s[f.group or 0]))
        else:
            z[k] = np.log(one) if p.scale == "log" else one
    return z


def _in_logs(p: Parameter) -> bool:
    return p.role == "shape" and p.scale == "log"
