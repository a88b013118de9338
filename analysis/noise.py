"""How far runs that differ in their seed alone lie apart, where each arm has only two or three of them.

Three seeds say little about an arm's variance, and arms differ too much in it to be pooled outright (short runs are
noisier than long ones). The variance of each arm is therefore drawn towards what all arms have in common, by as much as
they agree: the empirical Bayes estimate of Smyth 2004 (Statistical Applications in Genetics and Molecular Biology 3,
article 3, section 6), with its degrees of freedom.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

# A variance below this share of the common one is rounding, not knowledge.
LEAST_SHARE = 1e-8
# Degrees of freedom of replicates from which on the noise of a group is told from that of the others.
ENOUGH = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """Variances between seeds.

    Attributes:
      variance: [A] of one run of each arm; NaN where no arm has replicates.
      freedom: [A] degrees of freedom of each, at most those of all arms together.
      total: degrees of freedom of all arms together.
    """

    variance: np.ndarray
    freedom: np.ndarray
    total: int


def moderated(variance: np.ndarray, freedom: np.ndarray) -> Noise:
    """Variances [A] with `freedom` [A] (0 for an arm of one run, whose variance is not read), drawn together.

    An arm of one run gets the common variance, with the freedom that the arms' agreement gives it.
    """
    freedom = np.asarray(freedom, float)
    known = freedom > 0
    total = int(freedom.sum())
    if not known.any():
        return Noise(np.full(len(freedom), np.nan), np.zeros(len(freedom)), 0)
    d, s2 = freedom[known], np.asarray(variance, float)[known]
    pooled = float(np.sum(d * s2) / d.sum())
    prior, common = _prior(np.maximum(s2, LEAST_SHARE * pooled), d) if pooled > 0 else (np.inf, 0.0)
    if np.isinf(prior):
        return Noise(np.full(len(freedom), pooled), np.full(len(freedom), float(total)), total)
    own = np.where(known, np.nan_to_num(variance), 0.0)
    drawn = (prior * common + freedom * own) / (prior + freedom)
    return Noise(drawn, np.minimum(prior + freedom, total), total)


def moderated_within(variance: np.ndarray, freedom: np.ndarray, group: np.ndarray) -> Noise:
    """`moderated` within each group [A], such as a language: a forgotten one's noise is not that of the one that is
    learned. Groups with fewer than ENOUGH degrees of freedom are drawn towards all arms."""
    whole = moderated(variance, freedom)
    drawn, degrees = whole.variance.copy(), whole.freedom.copy()
    for name in set(group):
        rows = np.asarray(group) == name
        if freedom[rows].sum() >= ENOUGH:
            own = moderated(variance[rows], freedom[rows])
            drawn[rows], degrees[rows] = own.variance, own.freedom
    return Noise(drawn, degrees, whole.total)


def _prior(s2: np.ndarray, d: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom of the common variance (inf where the arms agree) and its value (Smyth 2004, section 6.2)."""
    e = np.log(s2) - digamma(d / 2) + np.log(d / 2)
    if len(e) < 2:
        return np.inf, float(s2.mean())
    excess = float(e.var(ddof=1) - np.mean(polygamma(1, d / 2)))
    if excess <= polygamma(1, 1e6):
        return np.inf, float(np.exp(e.mean()))
    half = brentq(lambda log_h: float(polygamma(1, np.exp(log_h))) - excess, np.log(1e-4), np.log(1e7))
    half = float(np.exp(half))
    return 2 * half, float(np.exp(e.mean() + digamma(half) - np.log(half)))
