"""Speed of fit + 4000 bootstraps against the usual procedure, on one synthetic table.

    python benchmarks/fit.py                 # the usual bootstraps timed on 200 resamples and scaled to 4000 (said)
    python benchmarks/fit.py --full          # all 4000 of them
    python benchmarks/fit.py --process       # also `lab fit` from process start to exit, cold and with its cache
    python benchmarks/fit.py --growth        # seconds and memory against points and resamples

The usual procedure (arXiv:2203.15556, as its replications run it) is 4500 starts of L-BFGS-B on the Huber objective
with finite-difference gradients, and one BFGS run from the optimum for each bootstrap resample. Both sides take the
same resamples. The two alternate in one process; medians are printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# scipy's L-BFGS-B calls BLAS on vectors of five; with several threads, contention makes it up to ten times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy.optimize import minimize

DELTA = 1e-3
RESAMPLES = 4000


def make_table(n: int = 240, seed: int = 0) -> pd.DataFrame:
    """n points of a Chinchilla-like law with heavy-tailed .5 % noise."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(2e7), np.log(1e10), n))
    tokens = size * np.exp(rng.uniform(np.log(2), np.log(500), n))
    loss = 1.82 + 482 / size**0.348 + 2085 / tokens**0.366
    return pd.DataFrame({"N": size, "D": tokens, "loss": loss * np.exp(0.003 * rng.standard_t(3, n))})


def usual_objective(frame: pd.DataFrame, scale: float = 1.0) -> Callable[[np.ndarray, np.ndarray], float]:
    """sum w Huber(LSE(a - alpha log N, b - beta log D, e) - log L) of (a, b, e, alpha, beta), times `scale`."""
    log_n, log_d, log_l = (np.log(frame[k].to_numpy()) for k in ("N", "D", "loss"))

    def value(p: np.ndarray, w: np.ndarray) -> float:
        pred = np.logaddexp(np.logaddexp(p[0] - p[3] * log_n, p[1] - p[4] * log_d), p[2])
        r = np.abs(pred - log_l)
        return float(scale * np.sum(w * np.where(r <= DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA))))

    return value


def usual_fit(frame: pd.DataFrame) -> np.ndarray:
    """The best of 4500 starts."""
    value, w = usual_objective(frame), np.ones(len(frame))
    grid = itertools.product(
        np.arange(0, 30, 5.0), np.arange(0, 30, 5.0), np.arange(-1, 1.5, 0.5), *[np.arange(0, 2.5, 0.5)] * 2
    )  # fmt: skip
    found = [minimize(value, np.array(start), args=(w,), method="L-BFGS-B") for start in grid]
    return np.asarray(min(found, key=lambda f: f.fun).x)


def usual_bootstrap(frame: pd.DataFrame, best: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """BFGS from the optimum for every resample; their objectives [R]."""
    value = usual_objective(frame, 1e6)  # unscaled, BFGS would stop where it starts
    return np.array([minimize(value, best, args=(w,), method="BFGS").fun / 1e6 for w in counts])


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(frame: pd.DataFrame, rounds: int, full: bool) -> dict[str, object]:
    from analysis import bootstrap, fit
    from analysis.intervals import resample_counts

    subset = RESAMPLES if full else 200
    counts, _ = resample_counts(np.arange(len(frame)), np.zeros(len(frame), int), range(subset), 0, 5)
    ours: list[float] = []
    fits: list[float] = []
    boots: list[float] = []
    for k in range(rounds + 1):
        began = time.perf_counter()
        result = fit(frame)
        draws = bootstrap(result, RESAMPLES, "iid")
        ours.append(time.perf_counter() - began)
        if k == rounds:
            break
        began = time.perf_counter()
        best = usual_fit(frame)
        fits.append(time.perf_counter() - began)
        began = time.perf_counter()
        theirs = usual_bootstrap(frame, best, counts)
        boots.append((time.perf_counter() - began) * RESAMPLES / subset)
        print(f"round {k + 1}: ours {ours[-1]:.2f} s, usual {fits[-1]:.1f} + {boots[-1]:.1f} s", flush=True)
    usual = statistics.median(fits) + statistics.median(boots)
    warm = statistics.median(ours[1:])
    gap = draws.value[:subset] / theirs - 1
    return {
        "points": len(frame),
        "resamples": RESAMPLES,
        "usual_resamples_timed": subset,
        "usual_fit_s": statistics.median(fits),
        "usual_bootstrap_s": statistics.median(boots),
        "ours_first_call_s": ours[0],
        "ours_later_calls_s": warm,
        "ratio_first_call": usual / ours[0],
        "ratio_later_calls": usual / warm,
        "objective_ours_over_usual": result.value / (usual_objective(frame)(best, np.ones(len(frame)))),
        "worst_resample_ours_over_usual": float(gap.max()),
        "resamples_usual_stopped_short": float(np.mean(gap < -1e-6)),
        "peak_memory_mb": peak_mb(),
    }


def process(frame: pd.DataFrame, usual_s: float | None) -> dict[str, object]:
    """`lab fit TABLE --bootstrap 4000` from start to exit: with an empty compilation cache, then with the full one."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        frame.to_csv(table, index=False)
        command = [sys.executable, "-m", "lab.cli", "fit", str(table), "--bootstrap", str(RESAMPLES), "--json"]
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - began)
    out: dict[str, object] = {"process_first_s": seconds[0], "process_later_s": statistics.median(seconds[1:])}
    if usual_s is not None:
        out |= {"ratio_process_first": usual_s / seconds[0]}
        out |= {"ratio_process_later": usual_s / statistics.median(seconds[1:])}
    return out


def growth() -> pd.DataFrame:
    """Seconds of later calls against points (one fit) and against resamples (240 points)."""
    from analysis import bootstrap, fit

    rows = []
    for n in (100, 1_000, 10_000, 100_000):
        frame = make_table(n)
        fit(frame)
        result = fit(frame)
        rows.append({"points": n, "resamples": 0, "seconds": result.seconds, "peak_mb": peak_mb()})
    result = fit(make_table(240))
    bootstrap(result, 100, "iid")
    for r in (100, 1_000, 10_000, 100_000):
        draws = bootstrap(result, r, "iid")
        rows.append({"points": 240, "resamples": r, "seconds": draws.seconds, "peak_mb": peak_mb()})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="time the usual bootstrap on all resamples")
    parser.add_argument("--process", action="store_true", help="also time the command line")
    parser.add_argument("--growth", action="store_true", help="only measure growth")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    if args.growth:
        print(growth().to_string(index=False))
        return
    frame = make_table(args.points)
    figures = compare(frame, args.rounds, args.full)
    if args.process:
        usual = float(str(figures["usual_fit_s"])) + float(str(figures["usual_bootstrap_s"]))
        figures |= process(frame, usual)
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
