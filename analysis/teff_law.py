"""A law of TEff: how it goes with share, size, tokens and anchors, as one power of each.

    ln TEff = k + sum_j  beta_j x_j,      x_j = ln share, ln N, ln tokens seen, ...

Ordinary least squares over arms makes every coefficient a weighted sum of ln TEff, so its interval comes from the same
joint bootstrap over seeds, ladder and documents as a claim's. What the powers leave over is in `residuals`; the
intervals know nothing of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.claims import Combination, LnTEff
from analysis.claims.evidence import Estimate, Evidence, Reading
from lab.errors import LabError


@dataclasses.dataclass(frozen=True, eq=False)
class TEffLaw:
    """A fitted law of TEff.

    Attributes:
      coefficients: name -> estimate; `1` is the constant, at regressors of 0.
      residuals: arm -> measured minus fitted ln TEff.
    """

    coefficients: Mapping[str, Estimate]
    residuals: Mapping[str, float]

    @property
    def spread(self) -> float:
        """Root mean square of the residuals."""
        return float(np.sqrt(np.mean(np.square(list(self.residuals.values())))))


def teff_law(
    evidence: Evidence, points: Sequence[LnTEff], regressors: Mapping[str, Sequence[float]], reading: Reading = "law"
) -> TEffLaw:
    """Fits a law of TEff.

    Args:
      evidence: of a result table.
      points: its arms and languages.
      regressors: name -> x_j of every point; logarithms of what enters as a power.
      reading: of the ladders.

    Raises:
      LabError: when regressors cannot be told apart on these points, or a point has only a bound.
    """
    names = ("1", *regressors)
    design = np.column_stack([np.ones(len(points)), *(np.asarray(x, float) for x in regressors.values())])
    scale = np.abs(design).max(axis=0)
    if np.linalg.matrix_rank(design / np.where(scale > 0, scale, 1)) < len(names):
        raise LabError(
            f"{len(points)} arms cannot tell {', '.join(regressors)} apart.",
            "Leave one out, or add arms that differ in it alone.",
        )
    each = [evidence.estimate(point, reading) for point in points]
    if bounded := [p.arm for p, e in zip(points, each, strict=True) if e.low != e.high]:
        raise LabError(f"TEff of {bounded[0]!r} is only bounded.", "Leave that arm out.")
    weights = np.linalg.pinv(design)
    found = {
        name: evidence.estimate(Combination(tuple(zip(map(float, row), points, strict=True))), reading)
        for name, row in zip(names, weights, strict=True)
    }
    y = np.array([e.low for e in each])
    left = y - design @ (weights @ y)
    return TEffLaw(found, {p.arm: float(r) for p, r in zip(points, left, strict=True)})
