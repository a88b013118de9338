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
import os
import sys
from collections.abc import Callable
from pathlib import Path

from contest import Contender, contest, serve

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
    from torch_decoder import Decoder, adamw

    torch.set_num_threads(threads)
    d, layers, heads, context, vocab, batch = shape
    torch.manual_seed(0)
    decoder = Decoder(d, layers, heads, vocab, context)
    optimizer = adamw(decoder, 1e-3)
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

    def contender(name: str, side: str, shape: str, n: int, runs: int = 1, pin: bool = False) -> Contender:
        python = sys.executable if side == "jax" else args.torch_python
        return Contender(name, [python, str(HERE), "--serve", side, shape, str(n)], runs, pin)

    for shape in args.shapes.split(","):
        d, layers, heads, context, vocab, batch = SHAPES[shape]
        print(f"{shape}: d {d}, {layers} layers, {heads} heads, context {context}, vocabulary {vocab}, batch {batch}")
        one = [
            contender("PyTorch eager", "eager", shape, cores),
            contender("PyTorch compiled", "compiled", shape, cores),
            contender("this laboratory", "jax", shape, 1),
        ]
        contest(one, "PyTorch eager", args.rounds, args.steps, batch * context)
        two = [
            contender("PyTorch eager, 2 pinned processes", "eager", shape, 1, runs=2, pin=True),
            contender("this laboratory, 2 host devices", "jax", shape, 2, runs=2),
        ]
        contest(two, "PyTorch eager, 2 pinned processes", args.rounds, args.steps, batch * context)


if __name__ == "__main__":
    main()
