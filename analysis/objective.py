"""What a fit minimises: a sum (never a mean) of one loss function over residuals in one space."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from lab.errors import LabError

Kind = Literal["huber", "squares", "absolute"]
Space = Literal["log", "linear", "reciprocal"]

KINDS = ("huber", "squares", "absolute")
SPACES = ("log", "linear", "reciprocal")


@dataclasses.dataclass(frozen=True)
class Objective:
    """`sum_i w_i rho(r_i / s_i)` with r = prediction - observation in `space`, s the noise of the point (1 if none).

    Attributes:
      kind: `huber` rho = r^2/2 up to delta, then linear; `squares` r^2/2; `absolute` |r|.
      space: `log` compares log L, `linear` L, `reciprocal` exp(-L) = 1/perplexity.
      delta: Huber's corner, in units of r / s.
    """

    kind: Kind = "huber"
    space: Space = "log"
    delta: float = 1e-3

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.space not in SPACES:
            raise LabError(f"Unknown objective {self.name!r}.", f"Known: {', '.join(names())}.")
        if not self.delta > 0:
            raise LabError(f"Huber's delta must be above 0, not {self.delta}.")

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.space}"

    def rho(self, r: Any, delta: Any) -> Any:
        """The loss of a residual; `delta` is an argument so that a solver can continue in it."""
        if self.kind == "squares":
            return 0.5 * r * r
        size = jnp.abs(r)
        inside = jnp.minimum(size, delta)
        value = inside * (size - 0.5 * inside)
        return value / delta if self.kind == "absolute" else value

    def summand(self, r: np.ndarray) -> np.ndarray:
        """The loss of each residual at the objective's own corner, outside compiled code."""
        if self.kind == "squares":
            return 0.5 * r * r
        size = np.abs(r)
        if self.kind == "absolute":
            return size
        inside = np.minimum(size, self.delta)
        return np.asarray(inside * (size - 0.5 * inside))

    def psi(self, r: Any, delta: Any) -> Any:
        """Derivative of rho."""
        if self.kind == "squares":
            return r
        value = jnp.clip(r, -delta, delta)
        return value / delta if self.kind == "absolute" else value

    def slope(self, r: Any, delta: Any) -> Any:
        """Second derivative of rho (0 beyond Huber's corner)."""
        if self.kind == "squares":
            return jnp.ones_like(r)
        value = (jnp.abs(r) <= delta).astype(r.dtype)
        return value / delta if self.kind == "absolute" else value

    def weight(self, r: Any, delta: Any) -> Any:
        """psi(r) / r: the weight under which least squares majorises rho."""
        if self.kind == "squares":
            return jnp.ones_like(r)
        value = delta / jnp.maximum(jnp.abs(r), delta)
        return value / delta if self.kind == "absolute" else value


def names() -> tuple[str, ...]:
    return tuple(f"{k}-{s}" for k in KINDS for s in SPACES)


def objective(name: str, delta: float | None = None) -> Objective:
    """The objective called `huber`, `squares-linear`, ...: kind, and space after a dash (log when left out).

    Raises:
      LabError: for an unknown name.
    """
    kind, _, space = name.partition("-")
    if kind not in KINDS or (space or "log") not in SPACES:
        raise LabError(f"Unknown objective {name!r}.", f"Known: {', '.join(names())}.")
    return Objective(kind, space or "log", 1e-3 if delta is None else delta)  # type: ignore[arg-type]
