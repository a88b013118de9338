"""Which component every training sequence is drawn from.

    plan = ComponentPlan(mixture, n_sequences, seed_data)
    plan.components(start, stop)      # [stop - start] int8: index into mixture.components

`exact` sampling is the chairman assignment of R. Tijdeman ("The chairman assignment problem", Discrete Mathematics
32, 1980): at every step the realised count of each of k components differs from its cumulative target by at most
1 - 1/(2k - 2), whatever the targets do over time. Giving the next sequence to the largest deficit does not keep
within 1 from four components on.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from lab.config import MixtureConfig, fingerprint
from lab.data.order import uniform
from lab.errors import LabError

MAX_COMPONENTS = 12
# Shares are whole multiples of 1e-10, so that all arithmetic is exact in 64-bit integers. Decimal shares lose nothing,
# and over the longest run allowed no other share drifts by more than the room that Tijdeman's bound leaves below 1.
_UNITS = 10**10
_BLOCK = 1 << 14
_NEVER = np.int64(2**62)


class ComponentPlan:
    """The component of every sequence of a run, computed block by block when first asked for.

    With a single stage the plan does not depend on `n_sequences`: a longer run begins with the shorter one.

    Args:
      mixture: components and the stages' shares.
      n_sequences: length of the run, of which the stages are fractions.
      seed_data: used by `bernoulli` only.

    Raises:
      LabError: for more components or sequences than the exact arithmetic carries.
    """

    def __init__(self, mixture: MixtureConfig, n_sequences: int, seed_data: int):
        if n_sequences < 1:
            raise LabError(f"A run needs at least one sequence, not {n_sequences}.")
        if len(mixture.components) > MAX_COMPONENTS:
            raise LabError(
                f"A mixture of {len(mixture.components)} components is too wide.", f"Up to {MAX_COMPONENTS}."
            )
        finest = _denominator(len(mixture.components)) if mixture.sampling == "exact" else 1
        if n_sequences > (longest := 2**62 // (_UNITS * finest)):
            raise LabError(
                f"{n_sequences:,} sequences of {len(mixture.components)} components are too many for exact shares.",
                f"Up to {longest:,}.",
            )
        self.n_sequences = n_sequences
        self._targets = _Targets(mixture, n_sequences)
        self._blocks: list[np.ndarray] = []
        if mixture.sampling == "exact":
            self._chairman = _Chairman(self._targets)
        self._exact = mixture.sampling == "exact"
        self._key = fingerprint(["bernoulli", seed_data])

    def components(self, start: int, stop: int) -> np.ndarray:
        """[stop - start] int8: the component of each sequence in [start, stop)."""
        if not 0 <= start <= stop:
            raise ValueError(f"not a range of sequences: [{start}, {stop})")
        while len(self._blocks) * _BLOCK < stop:
            first = len(self._blocks) * _BLOCK
            self._blocks.append(self._chairman.next(_BLOCK) if self._exact else self._draw(first, first + _BLOCK))
        blocks = self._blocks[start // _BLOCK : max(start // _BLOCK + 1, math.ceil(stop / _BLOCK))]
        if not blocks:
            return np.zeros(0, np.int8)
        offset = start // _BLOCK * _BLOCK
        joined = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return joined[start - offset : stop - offset]

    def target(self, n: int) -> np.ndarray:
        """[components] float64: how many of the first `n` sequences each component is to have."""
        return self._targets.cumulative(n) / _UNITS

    def _draw(self, start: int, stop: int) -> np.ndarray:
        i = np.arange(start, stop)
        draws = np.floor(uniform(self._key, i) * _UNITS).astype(np.int64)
        stage = np.minimum(np.searchsorted(self._targets.starts, i, side="right") - 1, len(self._targets.shares) - 1)
        bounds = np.cumsum(self._targets.shares, axis=1)[stage]
        return (draws[:, None] >= bounds).sum(axis=1).astype(np.int8)


class _Targets:
    """Cumulative targets: piecewise linear in the number of sequences, in units of 1e-10 sequences."""

    def __init__(self, mixture: MixtureConfig, n_sequences: int):
        edges = np.cumsum([0.0, *(stage.fraction for stage in mixture.stages)])
        starts = np.round(edges[:-1] * n_sequences).astype(np.int64)
        self.starts = starts  # [stages]
        self.shares = np.array([_whole_units(stage.shares) for stage in mixture.stages], np.int64)  # [stages, k]
        lengths = np.diff(starts)
        self.at_start = np.vstack(
            [np.zeros(self.shares.shape[1], np.int64), np.cumsum(lengths[:, None] * self.shares[:-1], axis=0)]
        )

    def cumulative(self, n: int) -> np.ndarray:
        """[k] int64 targets after `n` sequences."""
        stage = int(np.searchsorted(self.starts, n, side="right")) - 1
        return self.at_start[stage] + (n - self.starts[stage]) * self.shares[stage]

    def first_reaching(self, component: int, numerator: np.ndarray, denominator: int) -> np.ndarray:
        """The least n at which the component's target is numerator / denominator units or more; else `_NEVER`."""
        n = np.full(numerator.shape, _NEVER)
        ends = [*self.starts[1:].tolist(), int(_NEVER)]
        for stage, end in enumerate(ends):
            share = int(self.shares[stage, component]) * denominator
            missing = numerator - int(self.at_start[stage, component]) * denominator
            if share == 0:
                reached = np.where(missing <= 0, self.starts[stage], _NEVER)
            else:
                reached = self.starts[stage] + np.maximum(0, -(-missing // share))
            n = np.where((n == _NEVER) & (reached <= end), reached, n)
        return n


class _Chairman:
    """Tijdeman's assignment as unit jobs with release times and deadlines, served by earliest deadline.

    The j-th sequence of a component may be given out once its target reaches j + 1/(2k-2), and must be by the step
    at which the target would reach j + 1 - 1/(2k-2). Ties go to the component named first.
    """

    def __init__(self, targets: _Targets):
        self._targets = targets
        self._k = targets.shares.shape[1]
        self._m = _denominator(self._k)
        self._made = [0] * self._k  # jobs released so far, by component
        self._ready: list[int] = []  # heap of deadline * k + component
        self._n = 0

    def next(self, count: int) -> np.ndarray:
        """[count] int8: the components of the next `count` sequences."""
        if self._k == 1:
            return np.zeros(count, np.int8)
        first, last = self._n + 1, self._n + count
        releases, keys = [], []
        for c in range(self._k):
            release, deadline = self._jobs(c, last)
            releases.append(release)
            keys.append(deadline * self._k + c)
        order = np.argsort(np.concatenate(releases), kind="stable")
        released = np.concatenate(releases)[order]
        pending = np.concatenate(keys)[order].tolist()
        bounds = np.searchsorted(released, np.arange(first, last + 1), side="right").tolist()
        ready, k, begin = self._ready, self._k, 0
        chosen = [0] * count
        for step, end in enumerate(bounds):
            for key in pending[begin:end]:
                heapq.heappush(ready, key)
            begin = end
            chosen[step] = heapq.heappop(ready) % k
        self._n = last
        return np.array(chosen, np.int8)

    def _jobs(self, component: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Releases and deadlines of the component's jobs that are released by step `last` and were not before."""
        units, m, made = _UNITS, self._m, self._made[component]
        # Released by `last`: target >= j + 1/m, that is j <= (target * m - 1) / m.
        total = int(self._targets.cumulative(last)[component])
        stop = max(made, (total * m - units) // (units * m) + 1)
        j = np.arange(made, stop, dtype=np.int64)
        self._made[component] = stop
        release = self._targets.first_reaching(component, (j * m + 1) * units, m)
        deadline = self._targets.first_reaching(component, (j * m + m - 1) * units, m)
        return release, np.minimum(deadline, _NEVER // MAX_COMPONENTS - 1)


def _denominator(k: int) -> int:
    """Of the fractions of a sequence at which jobs are released and due."""
    return max(2 * k - 2, 1)


def _whole_units(shares: tuple[float, ...]) -> list[int]:
    """Shares in units of 1e-10 that sum exactly to 1: the largest remainders are rounded up."""
    exact = [share * _UNITS / math.fsum(shares) for share in shares]
    whole = [math.floor(x + 1e-5) for x in exact]
    by_remainder = sorted(range(len(shares)), key=lambda c: (whole[c] - exact[c], c))
    for c in by_remainder[: _UNITS - sum(whole)]:
        whole[c] += 1
    return whole
