"""What the claims' 95 % intervals cover when the truth is known, for three and five seeds.

    python benchmarks/claim_coverage.py

Tables are made from the imbalance study's arms without training (`tests/synthetic_imbalance.py`): a ladder of eight
budgets and the clone at 10 % and 50 %, whose TEff is known. Noise of a run's ln PPL is 0.4 %, the same for all runs or
(`uneven`) growing towards short ones as it does in practice, on top of an effect that each seed has on all runs. Beside
the ledger's interval stand those it replaces: percentiles over resampled seeds, and t over the seeds' own values.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from synthetic_imbalance import SCALE, T, World, arms

from analysis.claims import LnTEff, Statistic, difference
from analysis.claims.evidence import Evidence, Reader
from analysis.claims.gather import gather
from sweeps.imbalance_claims import claims

MAIN = SCALE.sizes[0]
TENTH, HALF = f"clone 10 %, 1 T, {MAIN}", f"clone 50 %, 1 T, {MAIN}"
TRUE = {(TENTH, "clone1"): 2.1, (HALF, "l1"): 0.85, (HALF, "clone1"): 0.85}
DRAWS = 500


@dataclasses.dataclass(frozen=True)
class Uneven(World):
    """A world where a run of a twentieth of T is four times as noisy as one of T."""

    def noise_at(self, tokens_seen: int) -> float:
        return self.noise * (T / tokens_seen) ** 0.46


def estimands() -> dict[str, tuple[Statistic, float]]:
    ladder = next(c.estimand for c in claims(SCALE) if c.id == "T2")
    assert isinstance(ladder, LnTEff)
    half = dataclasses.replace(ladder, arm=HALF)
    one, two = (float(np.log(TRUE[arm, "clone1"])) for arm in (TENTH, HALF))
    return {"ln TEff at 10 %": (ladder, one), "at 10 % over at 50 %": (difference(ladder, half), one - two)}


def rivals(evidence: Evidence, table: pd.DataFrame, statistic: Statistic) -> dict[str, tuple[float, float]]:
    """Percentiles over all resamples of the seeds, and t over the values that each seed has by itself."""
    cells = evidence.cells
    wide = table.assign(y=np.log(table.ppl)).pivot_table(
        index=["arm", "language", "tokens_seen"], columns="seed_init", values="y"
    )
    values = wide.loc[list(zip(cells.arm, cells.language, cells.tokens_seen, strict=True))].to_numpy()
    count = values.shape[1]
    kinds = list(itertools.combinations_with_replacement(range(count), count))
    ways = np.array([math.factorial(count) / math.prod(math.factorial(k.count(i)) for i in set(k)) for k in kinds])
    resampled = np.stack([values[:, k].mean(axis=1) for k in kinds], axis=1)
    drawn = statistic.of(Reader(dataclasses.replace(evidence, draws=np.hstack([values, resampled])), "law")).low
    alone, means = drawn[:count], drawn[count:]
    order = np.argsort(means)
    below = np.cumsum(ways[order]) / ways.sum()
    low, high = (means[order][min(np.searchsorted(below, q), len(means) - 1)] for q in (0.025, 0.975))
    half = stats.t.ppf(0.975, count - 1) * alone.std(ddof=1) / np.sqrt(count)
    return {"percentile": (low, high), "t of seeds": (alone.mean() - half, alone.mean() + half)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=60, help="of each line; its coverage is good to 3 points")
    args = parser.parse_args()
    runs = arms(dataclasses.replace(SCALE, orders=(1,)))
    needs = [arm.name for arm in runs if arm.name.startswith("l1,")] + [TENTH, HALF]
    print(f"{'noise':8}{'seeds':>6}  {'estimand':22}{'interval':12}{'coverage':>9}{'half-width':>11}{'n':>6}")
    for kind in (World, Uneven):
        for count in (3, 5):
            began = time.perf_counter()
            found: dict[tuple[str, str], list[tuple[bool, float]]] = {}
            for draw in range(args.simulations):
                world = kind(TRUE, noise=0.004, document_noise=0.0, seeds=tuple(range(count)), draw=draw)
                table = world.table(runs, needs)
                evidence = gather(table, draws=DRAWS)
                for name, (statistic, truth) in estimands().items():
                    own = {"ledger": evidence.estimate(statistic, "law").interval()}
                    ends = own | rivals(evidence, table, statistic)
                    for method, (low, high) in ends.items():
                        found.setdefault((name, method), []).append((low <= truth <= high, (high - low) / 2))
            for (name, method), cells in found.items():
                held, width = np.mean([c[0] for c in cells]), np.median([c[1] for c in cells])
                label = "even" if kind is World else "uneven"
                print(f"{label:8}{count:6}  {name:22}{method:12}{held:9.2f}{width:11.3f}{len(cells):6}", flush=True)
            print(f"{time.perf_counter() - began:40.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
