"""Does a run cost the same in a sweep of 16 as in one of 256? `python benchmarks/growth.py`

Trains that many runs of one tiny shape, differing in seed, through the whole path (`sweeps.launch.run_study`: plan,
slots refilled, evaluation, checkpoint, row, table), each number in a process of its own with an empty root. Printed are
seconds a run: CPU time and wall-clock time without start and compilation (from the first result to the last), and of
the last quarter of the runs against the first. `--profile` then says which functions grew most from the smallest number
of runs to the largest, in milliseconds a run.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import random
import sys
import tempfile
from pathlib import Path

from contest import print_cost, run_process

HERE = Path(__file__).resolve()
VOCAB, CONTEXT, BATCH = 384, 32, 4
Functions = dict[str, tuple[int, float, float]]  # name -> calls, own seconds, seconds with callees


def text(path: Path) -> None:
    """Made-up words, enough for training and a small test set."""
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefghijklmnop") for _ in range(rng.randint(2, 6))) for _ in range(200)]
    path.write_text("\n\n".join(" ".join(rng.choices(words, k=60)) for _ in range(400)))


def sweep(root: Path, corpus: str, runs: int, steps: int, devices: int, profile: Path | None) -> None:
    sys.path.insert(0, str(HERE.parent.parent))
    from lab.devices import prepare_process

    prepare_process(host_devices=devices)
    from lab.config import Component, LayoutConfig, MixtureConfig, OptimConfig, RunConfig, Stage
    from lab.data.prepare import Prepared
    from lab.presets import preset
    from sweeps.launch import run_study
    from sweeps.study import Arm, DataSpec, Scale, Study

    def arms(prepared: Prepared, _: Scale) -> tuple[Arm, ...]:
        layout = LayoutConfig.joint(("en",), prepared.tokenizer(corpus).hash)
        mixture = MixtureConfig((Component("en", prepared.source(corpus)),), layout, (Stage(1.0, (1.0,)),))
        model = preset("nano-1", VOCAB, CONTEXT)
        optim = OptimConfig(1e-2)
        return tuple(Arm("one", RunConfig(model, optim, mixture, steps, BATCH, seed, seed)) for seed in range(runs))

    scale = Scale("nano", DataSpec((corpus,), VOCAB), "a benchmark")
    study = Study("growth", "Does the cost of a run grow?", "No.", (scale,), arms)
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    code = run_study(study, scale, root)
    profiler.disable()
    if code:
        raise SystemExit(code)
    if profile:
        profiler.dump_stats(profile)
    print_cost()


def functions(profile: Path) -> Functions:
    found: Functions = {}
    for (file, line, name), (_, calls, own, whole, _) in pstats.Stats(str(profile)).stats.items():  # type: ignore[attr-defined]
        short = "/".join(Path(file).parts[-3:])
        found[f"{short}:{line} {name}" if line else name] = (calls, own, whole)
    return found


def report(small: Functions, few: int, large: Functions, many: int, top: int) -> None:
    """Prints what grew, and what takes longest, in milliseconds a run with callees."""

    def each(found: Functions, name: str, n: int) -> float:
        return 1e3 * found.get(name, (0, 0.0, 0.0))[2] / n

    def per_more(name: str) -> float:
        """Of one more run: start and compilation, which are the same for few and many, fall out."""
        return 1e3 * (large[name][2] - small.get(name, (0, 0.0, 0.0))[2]) / (many - few)

    grown = {n: each(large, n, many) - each(small, n, few) for n in large}
    print(f"functions that grew most: ms a run at {few} runs, at {many}, and calls a run at {many}")
    for name in sorted(grown, key=grown.__getitem__, reverse=True)[:top]:
        if grown[name] > 0:
            print(
                f"  {each(small, name, few):9.2f} {each(large, name, many):9.2f} {large[name][0] / many:9.1f}  {name}"
            )
    print(f"functions that take longest: ms of one more run between {few} and {many}, and calls a run")
    for name in sorted(large, key=per_more, reverse=True)[: 3 * top]:
        print(f"  {per_more(name):9.2f} {large[name][0] / many:9.1f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="16,64,256")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="run the smallest and the largest under cProfile, too")
    parser.add_argument("--top", type=int, default=12)
    parser.add_argument("--sweep", nargs=4, metavar=("ROOT", "CORPUS", "N", "PROFILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.sweep:
        root, corpus, n, profile = args.sweep
        sweep(Path(root), corpus, int(n), args.steps, args.devices, Path(profile) if profile != "-" else None)
        return
    sys.path.insert(0, str(HERE.parent.parent))
    from lab.data.prepare import prepare

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        text(work / "words.txt")
        corpus = f"text:{work / 'words.txt'}"
        prepare((corpus,), VOCAB, False, work)

        def measure(n: int, profile: str = "-") -> None:
            root = work / f"{n}{'-profiled' if profile != '-' else ''}"
            root.mkdir()
            (root / "data").symlink_to(work / "data")
            command = [sys.executable, str(HERE), "--steps", str(args.steps), "--devices", str(args.devices)]
            cost, _ = run_process([*command, "--sweep", str(root), corpus, str(n), profile])
            ends = sorted(p.stat().st_mtime for p in root.glob("runs/*/result.json"))
            assert len(ends) == n
            quarter = max(1, n // 4)
            each = (ends[-1] - ends[0]) / (n - 1)
            first, last = (ends[quarter] - ends[0]) / quarter, (ends[-1] - ends[-1 - quarter]) / quarter
            costs[n] = cost.cpu_s
            print(
                f"{n:5d} runs{' (profiled)' if profile != '-' else ''}: {cost.wall_s:7.1f} s, {cost.cpu_s:7.1f} CPU s"
                f", {cost.peak_bytes / 2**20:5.0f} MiB; from the first result {each:.3f} s a run"
                f" (first quarter {first:.3f}, last {last:.3f}); others kept {cost.foreign:.2f} cores busy",
                flush=True,
            )

        costs: dict[int, float] = {}
        counts = [int(n) for n in args.runs.split(",")]
        for n in counts:
            measure(n)
        for a, b in itertools.pairwise(counts):
            print(f"CPU seconds of each run between {a} and {b}: {(costs[b] - costs[a]) / (b - a):.3f}")
        if args.profile:
            ends = (counts[0], counts[-1])
            for n in ends:
                measure(n, str(work / f"{n}.prof"))
            report(functions(work / f"{ends[0]}.prof"), ends[0], functions(work / f"{ends[1]}.prof"), ends[1], args.top)


if __name__ == "__main__":
    main()
