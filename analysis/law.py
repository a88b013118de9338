"""What a scaling law is: variables, parameters, a prediction; everything else follows by autodiff.

A new law is one small class. This is the whole of Chinchilla:

    class Chinchilla(Law):
        name = "chinchilla"
        source = "Hoffmann et al. 2022, arXiv:2203.15556, eq. 2"
        variables = (N, D)
        parameters = (coefficient("E"), coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta"))

        def log_basis(self, p, x):
            return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]), "B": -p["beta"] * jnp.log(x["D"])}

A law whose loss is linear in its coefficients gives `log_basis`; any other law gives `log_pred` (and, if a linear
law lies near it, also `log_basis`, which then only supplies starting points and centred coordinates).

Conventions: the loss is in nats per token; N in parameters, D in tokens, C in FLOPs. Parameters `p` are a dict of
arrays that broadcast against the columns `x` (dict of float64 arrays [n]); both are JAX values under transformation,
so laws use `jax.numpy` and no Python branches on values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from analysis.objective import Objective, Space
from lab.errors import LabError

Params = Mapping[str, Any]
Columns = Mapping[str, Any]
Role = Literal["coefficient", "shape"]
Scale = Literal["linear", "log"]


@dataclasses.dataclass(frozen=True)
class Variable:
    """A column a law reads.

    Attributes:
      name: key in the columns `x`, and the first column name that is looked for.
      unit: in words, for tables and messages.
      aliases: other column names taken when the table has exactly one of them.
      lower: values at or below it are bad input (rows are dropped with the reason), None for no bound.
      upper: values above it are bad input, None for no bound.
      default: value for tables without the column, None when the column is required.
    """

    name: str
    unit: str
    aliases: tuple[str, ...] = ()
    lower: float | None = 0.0
    upper: float | None = None
    default: float | None = None


N = Variable("N", "parameters", ("n", "params", "n_total", "n_nonembedding", "parameters"))
D = Variable("D", "tokens", ("d", "tokens", "tokens_seen"))


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A number that is fitted.

    Attributes:
      name: key in `p`.
      role: `coefficient` (the loss is linear in it, see `Law.log_basis`) or `shape`.
      lower, upper: hard bounds in natural units; a fit that ends on one says so.
      start: range of natural values that starting points cover.
      scale: how starting points are spread, and the coordinate the solver steps in (shapes only).
      plausible: values outside are flagged as degenerate, not refused.
      unit: in words.
      sign: of the term a coefficient multiplies, for `log_basis`.
    """

    name: str
    role: Role
    lower: float
    upper: float
    start: tuple[float, float]
    scale: Scale = "linear"
    plausible: tuple[float, float] = (-math.inf, math.inf)
    unit: str = ""
    sign: float = 1.0


def coefficient(name: str, unit: str = "", lower: float = 0.0, upper: float = math.inf, sign: float = 1.0) -> Parameter:
    """A factor in which the loss is linear, of at least 0 unless `lower` says otherwise; its start follows from the
    data. `sign` -1 is for a term that is subtracted."""
    return Parameter(name, "coefficient", lower, upper, (1e-3, 1e3), "log", unit=unit, sign=sign)


def exponent(
    name: str,
    start: tuple[float, float] = (0.02, 1.6),
    lower: float = 0.0,
    upper: float = 20.0,
    plausible: tuple[float, float] = (0.01, 3.0),
) -> Parameter:
    """A power; values that are not plausible are flagged as degenerate."""
    return Parameter(name, "shape", lower, upper, start, "linear", plausible=plausible)


def positive(name: str, start: tuple[float, float], lower: float, upper: float, unit: str = "") -> Parameter:
    """A shape of unknown order of magnitude, stepped in its logarithm (a half-life, a scale)."""
    return Parameter(name, "shape", lower, upper, start, "log", unit=unit)


@dataclasses.dataclass(frozen=True)
class Published:
    """Printed parameter values with their source; `note` says what they were fitted on."""

    source: str
    params: Mapping[str, float]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A qualitative statement a law's fit must satisfy.

    `margin(p, x)` is an array over the rows of x, above 0 where the claim holds, in nats or a ratio minus 1; infinite
    for rows that it says nothing about.
    """

    name: str
    text: str
    margin: Callable[[Params, Columns], Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One claim tested at given parameters: it holds when no row has a margin at or below 0."""

    claim: str
    text: str
    holds: bool
    worst: float
    at: Mapping[str, float]


class Law:
    """A parametric form for the loss. Subclass it, or a frozen dataclass of it for laws with options.

    Class attributes:
      name: what `fit(law=...)` and `--law` call it.
      source: paper and equation.
      variables: columns it reads.
      parameters: what is fitted, in the order of reports.
      objective: what is minimised when the caller names none.
      linear_in: the space (see `analysis.objective`) in which the prediction is the sum of coefficient times basis.
      published: printed values.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    variables: ClassVar[tuple[Variable, ...]]
    parameters: ClassVar[tuple[Parameter, ...]]
    objective: ClassVar[Objective] = Objective()
    linear_in: ClassVar[Space] = "linear"
    published: ClassVar[tuple[Published, ...]] = ()

    def log_basis(self, p: Params, x: Columns) -> dict[str, Any] | None:
        """log of the factor that multiplies each coefficient; `p` holds the shapes. None: the law is not linear.

        A key that is no parameter is a term with factor 1: known from the columns and the shapes alone.
        """
        return None

    def log_pred(self, p: Params, x: Columns) -> jax.Array:
        """log of the loss in nats, shape [n]."""
        terms = self.terms(p, x)
        return jnp.log(sum(jnp.broadcast_to(t, _size(x)) for t in terms.values()))

    def in_space(self, p: Params, x: Columns, space: Space) -> jax.Array:
        """The prediction in an objective's space: `log` L, `linear` L or `reciprocal` exp(-L). Shape [n].

        A law that is simplest in another space than `log` overrides this.
        """
        log_loss = self.log_pred(p, x)
        if space == "log":
            return log_loss
        return jnp.exp(log_loss) if space == "linear" else jnp.exp(-jnp.exp(log_loss))

    def terms(self, p: Params, x: Columns) -> dict[str, Any]:
        """Additive parts of the loss in nats by name; their sum is the loss."""
        basis = self.log_basis(p, x)
        if basis is None:
            raise LabError(f"The law {self.name} has no additive terms.", "Define `terms` or `log_basis`.")
        return {name: self.factor(p, name) * jnp.exp(value) for name, value in basis.items()}

    def factor(self, p: Params, term: str) -> Any:
        """What multiplies a term of `log_basis`: its signed coefficient, or 1 where it has none."""
        return self.parameter[term].sign * p[term] if term in self.parameter else 1.0

    def optimum(self, p: Params, flops: float, x: Columns | None = None) -> dict[str, float]:
        """The N and D of least loss with 6 N D = flops; `x` holds the other variables (scalars).

        Laws with a closed form override this. The default searches log N.

        Raises:
          LabError: when the law has no N or D, or its loss falls without end as N or D grows.
        """
        from analysis.optimum import search

        return search(self, p, flops, x or {})

    def claims(self) -> tuple[Claim, ...]:
        """Statements that must hold of every sensible fit; the default: the loss falls with N and with D."""
        return tuple(falls_with(self, v) for v in self.variables if v.name in ("N", "D"))

    @property
    def parameter(self) -> dict[str, Parameter]:
        return {p.name: p for p in self.parameters}

    def __repr__(self) -> str:
        return f"<law {self.name}>"


def _size(x: Columns) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(jnp.shape(v) for v in x.values()))


def falls_with(law: Law, variable: Variable, strictly: bool = True) -> Claim:
    """The claim that the loss falls as the variable grows by 1 %; not strictly: that it does not rise."""
    name, how = variable.name, "falls" if strictly else "does not rise"

    def margin(p: Params, x: Columns) -> Any:
        fall = law.log_pred(p, x) - law.log_pred(p, {**x, name: jnp.asarray(x[name]) * 1.01})
        return fall if strictly else jnp.where(jnp.abs(fall) <= 1e-12, jnp.inf, fall)

    return Claim(f"falls with {name}", f"the loss {how} with {name} ({variable.unit})", margin)


def check_claims(law: Law, params: Params, x: Columns) -> list[Verdict]:
    """Tests every claim of the law at `params` on the rows of `x` (arrays of one length)."""
    verdicts = []
    with jax.enable_x64(True):
        columns = {k: jnp.asarray(v, jnp.float64) for k, v in x.items()}
        for claim in law.claims():
            margin = np.broadcast_to(np.asarray(claim.margin(params, columns)), _size(columns))
            worst = int(np.argmin(np.where(np.isnan(margin), -np.inf, margin)))
            at = {k: float(np.broadcast_to(v, margin.shape)[worst]) for k, v in x.items()}
            holds = bool(np.all(margin > 0))
            verdicts.append(Verdict(claim.name, claim.text, holds, float(margin[worst]), at))
    return verdicts
