"""How much of something a loss is worth: one primitive, and the measures of transfer that follow from it.

`equivalent(law, params, loss, along, at)` inverts a reference law in one variable. From it follow

    MLTE               tokens at which the reference law reaches the loss          arXiv:2404.07982, section 3
    TEff               MLTE / tokens of that language seen                          arXiv:2404.07982, section 3
    transferred data   MLTE - tokens seen                                           arXiv:2102.01293, eq. 1.1
    multiplier         MLTE / tokens seen = TEff                                    arXiv:2102.01293
    FLOPs saved        1 - C / C_reference at equal loss                            arXiv:2407.02118, section 4
    transfer score     BTS = 2 (1 - 1/TEff) of a 50/50 run                          arXiv:2510.22037, section 4
    MLPE               perplexity of the reference law at the tokens seen           arXiv:2404.07982, section 3

A law has losses that it never reaches (below its floor) or only at vanishing data. There the answer is a bound, typed
as one, never infinity or NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from analysis import surface
from analysis.law import Law
from analysis.optimum import Budget, budget_for, falling_root, minimise
from lab.errors import LabError

Kind = Literal["exact", "at least", "at most"]

# A law within this share of its floor (ceiling) is taken as having reached it: where a bound is drawn.
RESOLUTION = 1e-3
_LOW, _HIGH = math.log(1e-30), math.log(1e40)


@dataclasses.dataclass(frozen=True)
class Bounded:
    """A number, or a bound on it."""

    value: float
    kind: Kind = "exact"

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise LabError(f"A bounded value must be finite, not {self.value}.")

    def map(self, rising: Callable[[float], float]) -> Bounded:
        """The value under a rising function; a bound stays the same kind of bound."""
        return Bounded(rising(self.value), self.kind)

    def __str__(self) -> str:
        return f"{self.value:.4g}" if self.kind == "exact" else f"{self.kind} {self.value:.4g}"


@dataclasses.dataclass(frozen=True)
class Interval:
    """From `low` to `high` at `level`; an end that is a bound means that the interval is open there."""

    low: Bounded
    high: Bounded
    level: float = 0.95

    @property
    def open(self) -> bool:
        return self.low.kind != "exact" or self.high.kind != "exact"

    def __str__(self) -> str:
        if self.low.kind == "at least":
            return f"beyond {self.low.value:.4g}"
        if self.high.kind == "at most":
            return f"below {self.high.value:.4g}"
        low = f"{self.low.value:.4g}" if self.low.kind == "exact" else f"(open below {self.low.value:.4g})"
        high = f"{self.high.value:.4g}" if self.high.kind == "exact" else f"(open above {self.high.value:.4g})"
        return f"{low} to {high}"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
      value: at the fitted (or printed) parameters.
      interval: percentiles over parameter draws, or None without draws.
      extrapolated: the value lies outside the range of the points the law was fitted to.
    """

    value: Bounded
    interval: Interval | None = None
    extrapolated: bool = False

    def map(self, rising: Callable[[float], float]) -> Estimate:
        interval = self.interval
        if interval is not None:
            interval = dataclasses.replace(interval, low=interval.low.map(rising), high=interval.high.map(rising))
        return dataclasses.replace(self, value=self.value.map(rising), interval=interval)

    def __str__(self) -> str:
        text = str(self.value) + (f" [{self.interval}]" if self.interval else "")
        return text + (" (extrapolated)" if self.extrapolated else "")


def equivalent(
    law: Law,
    params: surface.Values,
    loss: float,
    along: str = "D",
    at: surface.Values | None = None,
    draws: Mapping[str, np.ndarray] | None = None,
    loss_draws: np.ndarray | None = None,
    span: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Estimate:
    """The value of the variable `along` at which the reference law has the given loss.

    Args:
      law: the reference law; its loss must fall with `along`.
      params: its parameters.
      loss: nats per token.
      along: `D` for equivalent tokens, `N` for equivalent parameters, or any other variable; `C` for the compute at
        which the law's own optimum has the loss.
      at: the law's other variables.
      draws: bootstrap draws of the parameters, each [R], for an interval.
      loss_draws: [R] draws of the loss to go with them (from seeds or documents); by default the loss is exact.
      span: range of `along` in the data the law was fitted to; a value outside it is marked as extrapolated.
      level: of the interval.

    Raises:
      LabError: for a loss that is not above 0, a missing variable, or a law that does not fall with `along`.
    """
    if not loss > 0:
        raise LabError(f"A loss in nats must be above 0, not {loss}.")
    worth, kind = _invert(law, params, loss, along, at or {})
    value = Bounded(float(worth[0]), kind[0])
    if span is not None and value.kind == "at least":
        # Beyond every point of the fit the form is a guess: claim no more than the data reached.
        value = Bounded(min(value.value, span[1]), "at least")
    interval = None
    if draws is not None:
        values, kinds = _invert(law, draws, loss if loss_draws is None else loss_draws, along, at or {})
        if span is not None:
            values = np.where(np.array(kinds) == "at least", np.minimum(values, span[1]), values)
        interval = interval_of(values, kinds, level)
    outside = span is not None and not (span[0] <= value.value <= span[1])
    return Estimate(value, interval, outside)


def _invert(
    law: Law, params: surface.Values, loss: float | np.ndarray, along: str, at: surface.Values
) -> tuple[np.ndarray, list[Kind]]:
    p = surface.as_params(law, params)
    rows = surface.draws_of(p) or 1
    height = _height(law, p, rows, along, at)
    target = np.log(loss)
    low, high = np.full(rows, _LOW), np.full(rows, _HIGH)
    if along == "C":
        low, high = np.full(rows, math.log(1e3)), np.full(rows, math.log(1e30))
    root = falling_root(lambda u: height(u) - target, low, high)
    kinds: list[Kind] = ["exact" if math.isfinite(r) else "at least" if r > 0 else "at most" for r in root]
    if not all(k == "exact" for k in kinds):
        # A law may have no finite loss at vanishing data: then nothing is bounded there.
        floor, ceiling = height(high), np.nan_to_num(height(low), nan=1e9, posinf=1e9)
        if np.any(ceiling < floor):
            raise LabError(f"The loss of {law.name} rises with {along}: it cannot be inverted.")
        near_floor = falling_root(lambda u: height(u) - (floor + RESOLUTION), low, high)
        near_ceiling = falling_root(lambda u: height(u) - (ceiling - RESOLUTION), low, high)
        bound = np.where(np.isposinf(root), near_floor, near_ceiling)
        bound = np.where(np.isfinite(bound), bound, np.where(np.isposinf(root), high, low))
        root = np.where(np.isfinite(root), root, bound)
    return np.exp(root), kinds


def _height(
    law: Law, p: Mapping[str, np.ndarray], rows: int, along: str, at: surface.Values
) -> Callable[[np.ndarray], np.ndarray]:
    """log loss as a function of log `along` [R]."""
    if along == "C":
        return lambda u: np.log(minimise(law, p, Budget(np.exp(u)), at)[2])
    if along not in {v.name for v in law.variables}:
        raise LabError(
            f"The law {law.name} has no variable {along!r}.", f"It has: {', '.join(v.name for v in law.variables)}."
        )
    wide = surface.broadcast(p, (rows,))

    def height(u: np.ndarray) -> np.ndarray:
        columns = surface.as_columns(law, {**at, along: np.exp(u)})
        return surface.paired(law, wide, columns, along)[0]

    return height


def interval_of(values: np.ndarray, kinds: list[Kind], level: float = 0.95) -> Interval:
    """Percentile interval of draws of which some are bounds: those sort beyond every exact draw.

    An end that falls among bounds is the weakest of them.
    """
    kind = np.array(kinds)
    key = np.where(kind == "at least", np.inf, np.where(kind == "at most", -np.inf, values))

    def end(q: float) -> Bounded:
        at = float(np.quantile(key, q, method="lower" if q < 0.5 else "higher"))
        if math.isfinite(at):
            return Bounded(at)
        if at > 0:
            return Bounded(float(values[kind == "at least"].min()), "at least")
        return Bounded(float(values[kind == "at most"].max()), "at most")

    return Interval(end((1 - level) / 2), end((1 + level) / 2), level)


def equivalent_tokens(
    law: Law, params: surface.Values, loss: float, at: surface.Values | None = None, **options: Any
) -> Estimate:
    """MLTE: training tokens at which the reference law reaches `loss` nats; `options` as in `equivalent`."""
    return equivalent(law, params, loss, "D", at, **options)


def equivalent_parameters(
    law: Law, params: surface.Values, loss: float, at: surface.Values | None = None, **options: Any
) -> Estimate:
    """Parameters at which the reference law reaches `loss` nats; over N this is Fernandes' effective share."""
    return equivalent(law, params, loss, "N", at, **options)


def equivalent_flops(law: Law, params: surface.Values, loss: float, **options: Any) -> Estimate:
    """Compute at which the reference law's own optimum reaches `loss` nats."""
    return equivalent(law, params, loss, "C", **options)


def mlpe(law: Law, params: surface.Values, tokens: float, at: surface.Values | None = None) -> float:
    """Perplexity that the monolingual law gives at `tokens` (arXiv:2404.07982)."""
    return float(np.exp(surface.loss(law, params, {**(at or {}), "D": tokens})))


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What a run's loss on a language is worth in tokens of that language.

    Attributes:
      tokens: of the language, seen by the run.
      mlte: monolingual token equivalent.
      teff: token efficiency = data multiplier.
      transferred: effective data transferred, mlte - tokens.
      flops_saved: share of the reference's compute saved at equal loss and equal N, 1 - 1/teff.
      bts: bilingual transfer score, for a run with half its tokens in this language.
    """

    tokens: float
    mlte: Estimate
    teff: Estimate
    transferred: Estimate
    flops_saved: Estimate
    bts: Estimate


def transfer(
    law: Law, params: surface.Values, loss: float, tokens: float, at: surface.Values | None = None, **options: Any
) -> Transfer:
    """All token measures of one loss; every one is a rising function of MLTE, so bounds and intervals carry over.

    Args:
      tokens: tokens of that language the run saw (as realised).
      options: `draws`, `loss_draws`, `span` and `level` of `equivalent`.
    """
    if not tokens > 0:
        raise LabError(f"The tokens of the language must be above 0, not {tokens}.")
    worth = equivalent_tokens(law, params, loss, at, **options)
    return Transfer(
        tokens,
        worth,
        worth.map(lambda m: m / tokens),
        worth.map(lambda m: m - tokens),
        worth.map(lambda m: 1 - tokens / m),
        worth.map(lambda m: 2 * (1 - tokens / m)),
    )


def flops_saved(
    law: Law, params: surface.Values, reference: Law, reference_params: surface.Values, loss: float
) -> Bounded:
    """1 - C / C_reference where both laws reach `loss` at their own compute optimum.

    At least when the reference never reaches the loss.

    Raises:
      LabError: when the law itself never reaches it.
    """
    cost = float(budget_for(law, params, loss)[0])
    if not math.isfinite(cost):
        raise LabError(f"The law {law.name} never reaches a loss of {loss:.4g} nats.")
    worth = equivalent_flops(reference, reference_params, loss)
    return worth.value.map(lambda c: 1 - cost / c)


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Where two laws meet: below `value` one is lower, above it the other."""

    value: float
    lower_before: str
    lower_after: str


def crossings(
    first: Law,
    first_params: surface.Values,
    second: Law,
    second_params: surface.Values,
    along: str = "D",
    at: surface.Values | None = None,
    span: tuple[float, float] = (1e3, 1e18),
) -> list[Crossing]:
    """All values of `along` in `span` at which the two laws predict the same loss, in rising order.

    An empty list says that one law is lower throughout the span.
    """
    fixed = dict(at or {})

    def gap(u: np.ndarray) -> np.ndarray:
        def log_loss(law: Law, params: surface.Values) -> np.ndarray:
            names = {v.name for v in law.variables}
            x = {k: v for k, v in {**fixed, along: np.exp(u)}.items() if k in names}
            return surface.log_loss(law, params, x)

        return log_loss(first, first_params) - log_loss(second, second_params)

    grid = np.linspace(math.log(span[0]), math.log(span[1]), 2000)
    sign = np.sign(gap(grid))
    found = []
    for i in np.flatnonzero(sign[1:] * sign[:-1] < 0):
        falling = bool(sign[i] > 0)
        edges = np.array([grid[i]]), np.array([grid[i + 1]])
        factor = 1.0 if falling else -1.0
        root = falling_root(lambda u, s=factor: s * gap(u), *edges)  # type: ignore[misc]
        before, after = (second.name, first.name) if falling else (first.name, second.name)
        found.append(Crossing(float(np.exp(root[0])), before, after))
    return found
