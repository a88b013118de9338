"""Statistics of a law that is refitted for every draw: the joint law of continual pre-training (arXiv:2407.02118).

    law = JointLaw(scratch=("scratch, 3M, nano-4", ...), cpt=("cpt, 3M, nano-4", ...), language="target")
    Claim("g", "Larger models transfer more ...", "eq. 4", Gamma(law), "above", 0.02)

Stage one fits L = E + A/N^alpha + B/D^beta to the arms from scratch; stage two holds E, A and alpha there, draw by
draw, and fits B, beta and gamma of L = E + A/N^alpha + B/(D^beta N^gamma). Everything has the paper's objective.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from analysis.claims.estimands import LnLoss, Sample, Span

if TYPE_CHECKING:
    from analysis.result import Fit

CARRY = ("E", "A", "alpha")
Draws = Mapping[str, np.ndarray]
On = Literal["scratch", "cpt"]


@dataclasses.dataclass(frozen=True)
class JointLaw:
    """The law's two stages on named arms, each of one size and number of tokens, in one language."""

    scratch: tuple[str, ...]
    cpt: tuple[str, ...]
    language: str

    @property
    def parts(self) -> tuple[LnLoss, ...]:
        return tuple(LnLoss(arm, self.language) for arm in (*self.scratch, *self.cpt))

    def arms(self, on: On) -> tuple[str, ...]:
        return self.scratch if on == "scratch" else self.cpt

    def first(self, sample: Sample) -> Draws:
        """E, A, B, alpha, beta (and gamma 0) of the arms from scratch, each [R]."""
        return self._kept(sample, "first", lambda: _refitted(self, sample, "scratch", {"gamma": np.zeros(1)}))

    def second(self, sample: Sample, on: On = "cpt", extended: bool = True) -> Draws:
        """All six parameters with E, A and alpha of stage one, fitted to the arms `on`, each [R].

        Args:
          extended: whether gamma is free; 0 without, which leaves Chinchilla's form.
        """
        if on == "scratch" and not extended:
            return self.first(sample)

        def make() -> Draws:
            held = {name: self.first(sample)[name] for name in CARRY}
            return _refitted(self, sample, on, held if extended else {**held, "gamma": np.zeros(1)})

        return self._kept(sample, f"second, {on}, {extended}", make)

    def _kept(self, sample: Sample, name: str, make: Callable[[], Draws]) -> Draws:
        key = (self, name)
        if key not in sample.memo:
            sample.memo[key] = make()
        kept: Draws = sample.memo[key]
        return kept


def _refitted(law: JointLaw, sample: Sample, on: On, held: Draws) -> Draws:
    """The form fitted to every draw of the arms' losses, with parameters held at their own draws."""
    import pandas as pd

    from analysis.batch import Batch, describe
    from analysis.fitting import View, fit
    from analysis.intervals import solve_checked, starts_of

    arms, language = law.arms(on), law.language
    losses = np.stack([sample.loss(arm, language) for arm in arms])
    rows = losses.shape[1]
    table = pd.DataFrame({
        "N": [sample.parameters(arm, language) for arm in arms],
        "D": [sample.tokens(arm, language) for arm in arms], "loss": losses[:, 0],
    })  # fmt: skip
    one: Fit = fit(table, "cpt", frozen={name: float(values[0]) for name, values in held.items()})
    view, constant = View.of(one.problem, one.table), {k: np.array(np.broadcast_to(v, rows)) for k, v in held.items()}
    starts = starts_of(one, view)
    y = np.log(losses[one.table.row].T)
    batch = Batch(y, view.w, np.broadcast_to(starts, (rows, *starts.shape)), constant)
    z, *_ = solve_checked(view, batch, 0)
    params, _ = describe(view.problem, view.points, batch, z)
    return {**constant, **params}


@dataclasses.dataclass(frozen=True)
class Gamma:
    """gamma of the extended law on the continued arms, or on those from scratch, where it should be 0."""

    law: JointLaw
    on: On = "cpt"

    @property
    def parts(self) -> tuple[LnLoss, ...]:
        return self.law.parts if self.on == "cpt" else self.law.parts[: len(self.law.scratch)]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(part.arm for part in self.parts)

    def of(self, sample: Sample) -> Span:
        return Span.exactly(self.law.second(sample, self.on)["gamma"])

    def __str__(self) -> str:
        return f"gamma({self.on})"


@dataclasses.dataclass(frozen=True)
class LnOptimum:
    """ln of the best size of a continued run over that of one from scratch, at a compute C = 6ND (eq. 2 and 5).

    Unknown (open on both sides) for draws in which a law has no optimum: gamma at or above beta or alpha.
    """

    law: JointLaw
    flops: float

    @property
    def parts(self) -> tuple[LnLoss, ...]:
        return self.law.parts

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.law.scratch, *self.law.cpt)

    def of(self, sample: Sample) -> Span:
        value = self._log_size(self.law.second(sample)) - self._log_size(self.law.first(sample))
        known = np.isfinite(value)
        return Span(np.where(known, value, -np.inf), np.where(known, value, np.inf))

    def _log_size(self, p: Draws) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            own = p["beta"] - p["gamma"]
            total = p["alpha"] + own
            log_g = np.log(p["alpha"] * p["A"] / (own * p["B"])) / total
            value = log_g + p["beta"] / total * np.log(self.flops / 6)
        return np.asarray(np.where((own > 0) & (p["alpha"] > p["gamma"]), value, np.nan))

    def __str__(self) -> str:
        return f"ln N*(cpt)/N*(scratch) at {self.flops:.3g} FLOPs"


@dataclasses.dataclass(frozen=True)
class LnMiss:
    """ln of how far Chinchilla's form misses arms that it was not fitted to, over how far the extended law does.

    A miss is the root mean square of ln predicted over measured loss. Of forms that contain one another the
    one with more parameters is always better on the arms that they were fitted to: only other arms can tell.

    Attributes:
      beyond: arms that are predicted, none of them the law's.
    """

    law: JointLaw
    beyond: tuple[str, ...]
    on: On = "cpt"

    @property
    def parts(self) -> tuple[LnLoss, ...]:
        return (*self.law.parts, *(LnLoss(arm, self.law.language) for arm in self.beyond))

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(part.arm for part in self.parts)

    def of(self, sample: Sample) -> Span:
        plain, extended = (self._miss(sample, self.law.second(sample, self.on, free)) for free in (False, True))
        return Span.exactly(np.log(plain / extended))

    def _miss(self, sample: Sample, p: Draws) -> np.ndarray:
        squares = []
        for arm in self.beyond:
            n, d = sample.parameters(arm, self.law.language), sample.tokens(arm, self.law.language)
            predicted = p["E"] + p["A"] / n ** p["alpha"] + p["B"] / (d ** p["beta"] * n ** p["gamma"])
            squares.append(np.log(predicted / sample.loss(arm, self.law.language)) ** 2)
        return np.asarray(np.sqrt(np.mean(squares, axis=0)))

    def __str__(self) -> str:
        return f"ln miss of Chinchilla over extended law ({self.on}, {len(self.beyond)} arms beyond)"
