"""Contenders that alternate within one call of a benchmark, each in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent so far."""
    ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a process took from its start to its end: seconds, CPU seconds, largest resident memory, and how many
    cores other processes kept busy meanwhile."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    foreign: float


def run_process(command: Sequence[str], env: dict[str, str] | None = None) -> tuple[Cost, str]:
    """Runs a command to its end; returns its cost and what it printed.

    Raises:
      SystemExit: when it fails, with the end of what it wrote to stderr.
    """
    busy, begin = busy_seconds(), time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    out, err = process.communicate()
    wall = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{err[-3000:]}")
    cost = json.loads(out.splitlines()[-1])
    foreign = (busy_seconds() - busy - cost["cpu_s"]) / wall
    return Cost(wall, cost["cpu_s"], cost["peak_bytes"], max(0.0, foreign)), out


def print_cost() -> None:
    """What a process says of itself in its last line, for `run_process`."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}
    print(json.dumps(cost), flush=True)


def serve(side: Callable[[int], None]) -> None:
    """Warms up, says so, then times as many steps as each line of stdin asks for."""
    side(2)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        begin, cpu = time.perf_counter(), time.process_time()
        side(int(line))
        print(json.dumps([time.perf_counter() - begin, time.process_time() - cpu]), flush=True)


class Contender:
    """Processes that `serve` and are timed together; `runs` is how many runs they train at once."""

    def __init__(self, name: str, command: list[str], runs: int = 1, pin: bool = False):
        self.name, self.runs = name, runs
        cores = sorted(os.sched_getaffinity(0))
        self.processes = []
        for i in range(runs if pin else 1):
            full = ["taskset", "-c", str(cores[i % len(cores)]), *command] if pin else command
            self.processes.append(
                subprocess.Popen(
                    full, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            )

    def ready(self) -> bool:
        return all(p.stdout is not None and p.stdout.readline() for p in self.processes)

    def seconds(self, steps: int) -> tuple[float, float]:
        """Wall-clock seconds until all processes have made `steps` steps, and the CPU seconds of all of them."""
        for p in self.processes:
            assert p.stdin is not None
            p.stdin.write(f"{steps}\n")
            p.stdin.flush()
        replies = [json.loads(p.stdout.readline()) for p in self.processes if p.stdout is not None]
        return max(wall for wall, _ in replies), sum(cpu for _, cpu in replies)

    def close(self) -> None:
        for p in self.processes:
            p.communicate("")


# Threads of the contender before may wait for more work by spinning: nobody's turn begins before they are asleep.
REST_S = 0.5


def contest(contenders: Sequence[Contender], base: str, rounds: int, steps: int, tokens: int) -> None:
    """Prints one table: medians over rounds of changing order, and the rounds' ratios to the contender `base`.

    Args:
      steps: made by a contender in each round.
      tokens: of one step of one run.
    """
    alive = [c for c in contenders if c.ready()]
    for c in contenders:
        if c not in alive:
            print(f"  {c.name}: did not start")
    wall: dict[str, list[float]] = {c.name: [] for c in alive}
    cpu: dict[str, list[float]] = {c.name: [] for c in alive}
    foreign = []
    for r in range(rounds):
        for c in alive[r % len(alive) :] + alive[: r % len(alive)]:
            time.sleep(REST_S)
            busy = busy_seconds()
            w, u = c.seconds(steps)
            foreign.append((busy_seconds() - busy - u) / w)
            wall[c.name].append(w / steps)
            cpu[c.name].append(u / steps)
    for c in alive:
        median = statistics.median(wall[c.name])
        line = f"  {c.name:<36} {1e3 * median:8.1f} ms {1e3 * statistics.median(cpu[c.name]):8.1f} CPU ms"
        line += f" {c.runs * tokens / median:10,.0f} tokens/s"
        if base in wall:
            line += f"   {ratios(wall[base], wall[c.name])}, CPU {ratios(cpu[base], cpu[c.name])}"
        print(line, flush=True)
    print(f"  ratios to {base}; other processes kept {max(0.0, statistics.median(foreign)):.2f} cores busy meanwhile")
    for c in alive:
        c.close()


def ratios(base: Sequence[float], other: Sequence[float]) -> str:
    """`median (lowest to highest)` of the rounds' ratios."""
    found = sorted(b / t for b, t in zip(base, other, strict=True))
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"
