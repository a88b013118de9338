"""One training step on CPU: this laboratory against an equal PyTorch loop, alternating within one call.

    python benchmarks/train_step.py --torch-python /tmp/benchenv/bin/python

Both sides train the gpt2-family decoder of the same shape in float32 with AdamW on random tokens. Each contender is a
process of its own that compiles, warms up, and then waits; the parent lets one at a time run a few steps, in rounds of
changing order. Printed are medians over the rounds: wall-clock and CPU milliseconds a step, and the rounds' ratios of
wall-clock time to eager PyTorch. On a busy machine the waiting threads of one contender suffer more than another's, so
the load that other processes put on the cores is printed, too: ratios count only where it is near 0.

The interpreter given as `--torch-python` needs only PyTorch, so that it may live outside this project's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# d_model, layers, heads, context, vocabulary, batch.
SHAPES = {
    "s0": (64, 4, 4, 128, 1024, 32),
    "s1": (128, 4, 4, 256, 2048, 16),
    "s2": (256, 6, 8, 256, 8192, 8),
}
HERE = Path(__file__).resolve()


def jax_side(shape: tuple[int, ...], runs: int) -> Callable[[int], None]:
    """Trains `runs` runs, one on each of as many host devices."""
    sys.path.insert(0, str(HERE.parent.parent))
    from lab.devices import prepare_process

    prepare_process(host_devices=runs)
    import jax
    import numpy as np

    from lab.config import ModelConfig, OptimConfig
    from lab.optim import hyper_of, stack
    from lab.sharding import make_mesh, put_batches
    from lab.step import Program, init_state, train_steps

    d, layers, heads, context, vocab, batch = shape
    program = Program(ModelConfig("gpt2", d, layers, heads, d // heads, 4 * d, vocab, context), make_mesh(run=runs))
    hyper = stack([hyper_of(OptimConfig(1e-3, "constant"), 1_000_000)] * runs)
    tokens = np.random.default_rng(0).integers(1, vocab, (1, runs, batch, context + 1), np.int32)
    batches = put_batches(program.mesh, tokens)
    state = init_state(program, range(runs))

    def steps(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state, metrics = train_steps(program, state, batches, hyper)
        jax.block_until_ready(metrics.loss)

    return steps


def torch_side(shape: tuple[int, ...], compiled: bool, threads: int) -> Callable[[int], None]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(threads)
    d, layers, heads, context, vocab, batch = shape

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.mlp_in, self.mlp_out = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            B, T, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.o(y.transpose(1, 2).reshape(B, T, d))
            return x + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x)), approximate="tanh"))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab, d), nn.Embedding(context, d)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(layers)), nn.LayerNorm(d)
            self.head = nn.Linear(d, vocab, bias=False)

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            x = self.tokens(tokens) * d**0.5 + self.positions.weight
            for block in self.blocks:
                x = block(x)
            return F.cross_entropy(self.head(self.norm(x)).view(-1, vocab), targets.reshape(-1), ignore_index=0)

    torch.manual_seed(0)
    decoder = Decoder()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    forward = torch.compile(decoder) if compiled else decoder
    tokens = torch.randint(1, vocab, (batch, context + 1))

    def steps(n: int) -> None:
        for _ in range(n):
            loss = forward(tokens[:, :-1], tokens[:, 1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()

    return steps


def serve(side: Callable[[int], None]) -> None:
    """Warms up, says so, then times as many steps as each line of stdin asks for."""
    side(2)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        begin, cpu = time.perf_counter(), time.process_time()
        side(int(line))
        print(json.dumps([time.perf_counter() - begin, time.process_time() - cpu]), flush=True)


class Contender:
    """Processes that are timed together; `runs` is how many runs they train at once."""

    def __init__(self, name: str, python: str, arguments: list[str], runs: int = 1, pin: bool = False):
        self.name, self.runs = name, runs
        cores = sorted(os.sched_getaffinity(0))
        self.processes = []
        for i in range(runs if pin else 1):
            command = [python, str(HERE), *arguments]
            if pin:
                command = ["taskset", "-c", str(cores[i % len(cores)]), *command]
            self.processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
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


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent so far."""
    ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def contest(shape_name: str, contenders: list[Contender], rounds: int, steps: int) -> None:
    """Prints one table; the ratios are to the contender named `PyTorch eager`."""
    _, _, _, context, _, batch = SHAPES[shape_name]
    alive = [c for c in contenders if c.ready()]
    for c in contenders:
        if c not in alive:
            print(f"  {c.name}: did not start")
    wall: dict[str, list[float]] = {c.name: [] for c in alive}
    cpu: dict[str, list[float]] = {c.name: [] for c in alive}
    foreign = []
    for r in range(rounds):
        for c in alive[r % len(alive) :] + alive[: r % len(alive)]:
            busy = busy_seconds()
            w, u = c.seconds(steps)
            foreign.append((busy_seconds() - busy - u) / w)
            wall[c.name].append(w / steps)
            cpu[c.name].append(u / steps)
    base = next((c for c in alive if c.name.startswith("PyTorch eager")), None)
    for c in alive:
        median = statistics.median(wall[c.name])
        line = f"  {c.name:<34} {1e3 * median:8.1f} ms {1e3 * statistics.median(cpu[c.name]):8.1f} CPU ms"
        line += f" {c.runs * batch * context / median:10,.0f} tokens/s"
        if base is not None:
            ratios = sorted(b / t for b, t in zip(wall[base.name], wall[c.name], strict=True))
            line += f"   {statistics.median(ratios):5.2f} x eager ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(line, flush=True)
    print(f"  other processes kept {max(0.0, statistics.median(foreign)):.2f} cores busy meanwhile")
    for c in alive:
        c.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="s1,s2,s0")
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="steps a contender makes in each round")
    parser.add_argument("--serve", nargs=3, metavar=("SIDE", "SHAPE", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        side, shape, n = args.serve
        if side == "jax":
            serve(jax_side(SHAPES[shape], int(n)))
        else:
            serve(torch_side(SHAPES[shape], side == "compiled", int(n)))
        return
    cores = len(os.sched_getaffinity(0))
    for shape in args.shapes.split(","):
        d, layers, heads, context, vocab, batch = SHAPES[shape]
        print(f"{shape}: d {d}, {layers} layers, {heads} heads, context {context}, vocabulary {vocab}, batch {batch}")
        one = [
            Contender("PyTorch eager", args.torch_python, ["--serve", "eager", shape, str(cores)]),
            Contender("PyTorch compiled", args.torch_python, ["--serve", "compiled", shape, str(cores)]),
            Contender("this laboratory", sys.executable, ["--serve", "jax", shape, "1"]),
        ]
        contest(shape, one, args.rounds, args.steps)
        two = [
            Contender(
                "PyTorch eager, 2 pinned processes", args.torch_python, ["--serve", "eager", shape, "1"], 2, True
            ),
            Contender("this laboratory, 2 host devices", sys.executable, ["--serve", "jax", shape, "2"], 2),
        ]
        contest(shape, two, args.rounds, args.steps)


if __name__ == "__main__":
    main()
