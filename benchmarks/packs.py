"""Many runs of one shape on one device: tokens a second and peak memory by the number of runs, `vmap`ped.

    python benchmarks/packs.py                                                    # on a CPU, a few minutes
    python benchmarks/packs.py --torch-python /tmp/benchenv/bin/python            # on a GPU: big shapes, too

Every row is a process of its own that compiles, warms up and trains on random tokens; the rounds go through the rows
forwards and backwards, and medians are shown. On a CPU the runs are also split over two host devices. On an accelerator
packs go to 64 runs, and the 85M and 303M shapes train one run in bfloat16 with model FLOP utilisation (FLOPs of
`lab.flops`, causal attention counted as half a square) against the device's peak, beside a compiled PyTorch loop.

Only random tokens are read: neither TensorFlow nor a data set is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from contest import print_cost, run_process

HERE = Path(__file__).resolve()


@dataclasses.dataclass(frozen=True)
class Shape:
    d: int
    layers: int
    heads: int
    context: int
    vocab: int
    batch: int  # sequences a step
    steps: int  # a dispatch
    accelerator: bool = True  # whether the shape is measured there


PACKS = {
    "3k": Shape(16, 1, 1, 128, 1024, 4, 8, accelerator=False),
    "0.2M": Shape(64, 4, 4, 128, 1024, 4, 8),
    "1M": Shape(112, 7, 7, 256, 4096, 8, 8),
    "11M": Shape(384, 6, 6, 512, 8192, 8, 4),
}
SOLO = {
    "85M": Shape(768, 12, 12, 1024, 32768, 16, 1),
    "303M": Shape(1024, 24, 16, 1024, 32768, 8, 1),
}
ON_CPU = ("3k", "0.2M")
# Dense bfloat16 FLOP/s as their makers print them; others are reported without a utilisation.
PEAK = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def pack(shape: Shape, runs: int, devices: int, seconds: float) -> dict[str, Any]:
    sys.path.insert(0, str(HERE.parent.parent))
    from lab.devices import prepare_process

    prepare_process(host_devices=devices)
    import jax
    import numpy as np

    from lab.config import ModelConfig, OptimConfig
    from lab.flops import flops_per_token
    from lab.optim import hyper_of, stack
    from lab.sharding import make_mesh, put_batches
    from lab.step import Program, init_state, train_steps

    model = ModelConfig(
        "gpt2", shape.d, shape.layers, shape.heads, shape.d // shape.heads, 4 * shape.d, shape.vocab, shape.context
    )
    program = Program(model, make_mesh(run=devices))
    hyper = stack([hyper_of(OptimConfig(1e-3, "constant"), 1_000_000)] * runs)
    tokens = (shape.steps, runs, shape.batch, shape.context + 1)
    batches = put_batches(program.mesh, np.random.default_rng(0).integers(1, shape.vocab, tokens, np.int32))
    state = init_state(program, range(runs))
    started = time.perf_counter()
    executable = train_steps.lower(program, state, batches, hyper).compile()
    compile_s = time.perf_counter() - started
    state, metrics = executable(state, batches, hyper)
    jax.block_until_ready(metrics)
    dispatches, begin, cpu = 0, time.perf_counter(), time.process_time()
    while dispatches < 3 or time.perf_counter() - begin < seconds:
        state, metrics = executable(state, batches, hyper)
        jax.block_until_ready(metrics.loss)  # as a training loop waits for the dispatch before
        dispatches += 1
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    trained = dispatches * shape.steps * runs * shape.batch * shape.context
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "tokens_per_s": trained / wall,
        "tokens_per_cpu_s": trained / cpu,
        "compile_s": compile_s,
        "device_bytes": memory.get("peak_bytes_in_use"),
        "flops_per_s": flops_per_token(model).exact * trained / wall,
    }


def torch_loop(shape: Shape, seconds: float) -> dict[str, Any]:
    """One run in bfloat16 autocast, compiled, with fused AdamW."""
    import torch
    from torch_decoder import Decoder, adamw

    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    with torch.device("cuda"):
        decoder = Decoder(shape.d, shape.layers, shape.heads, shape.vocab, shape.context)
        tokens = torch.randint(1, shape.vocab, (shape.batch, shape.context + 1))
    optimizer, forward = adamw(decoder, 1e-3), torch.compile(decoder)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    started = time.perf_counter()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    compile_s = time.perf_counter() - started
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
        steps += 5
    wall = time.perf_counter() - begin
    return {
        "tokens_per_s": steps * shape.batch * shape.context / wall,
        "compile_s": compile_s,
        "device_bytes": torch.cuda.max_memory_allocated(),
    }


def describe() -> None:
    """The device, in a process of its own: a parent that holds an accelerator would take its memory."""
    import jax

    device = jax.devices()[0]
    print(json.dumps({"platform": device.platform, "kind": device.device_kind, "jax": jax.__version__}))
    print_cost()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="an interpreter that has PyTorch with CUDA; only used on a GPU")
    parser.add_argument("--shapes", help="some of 3k, 0.2M, 1M, 11M, 85M, 303M; by default those for this device")
    parser.add_argument("--packs", help="numbers of runs; by default 1 to 32 on a CPU, 1 to 64 elsewhere")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="of training in each measurement")
    parser.add_argument("--row", nargs=4, metavar=("SIDE", "SHAPE", "RUNS", "DEVICES"), help=argparse.SUPPRESS)
    parser.add_argument("--describe", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = {**PACKS, **SOLO}
    if args.describe:
        return describe()
    if args.row:
        side, name, runs, devices = args.row
        one = pack(known[name], int(runs), int(devices), args.seconds) if side == "jax" else None
        print(json.dumps(one or torch_loop(known[name], args.seconds)))
        return print_cost()
    command = [sys.executable, str(HERE), "--seconds", str(args.seconds)]
    device = json.loads(run_process([*command, "--describe"])[1].splitlines()[-2])
    cpu = device["platform"] == "cpu"
    print(f"{device['kind']} ({device['platform']}), jax {device['jax']}")
    shapes = (
        args.shapes.split(",")
        if args.shapes
        else [n for n, s in known.items() if (n in ON_CPU if cpu else s.accelerator)]
    )
    counts = [int(n) for n in (args.packs or ("1,2,4,8,16,32" if cpu else "1,2,4,8,16,32,64")).split(",")]
    for name in shapes:
        rows = [("jax", n, 1) for n in counts] if name in PACKS else [("jax", 1, 1)]
        if cpu and name in PACKS:
            rows += [("jax", n, 2) for n in counts if n % 2 == 0]
        if name in SOLO and not cpu and args.torch_python:
            rows.append(("torch", 1, 1))
        measure(name, known[name], rows, device, args)


def measure(
    name: str, shape: Shape, rows: list[tuple[str, int, int]], device: dict[str, str], args: argparse.Namespace
) -> None:
    """Prints the table of one shape."""
    print(
        f"{name}: d {shape.d}, {shape.layers} layers, context {shape.context}, vocabulary {shape.vocab},"
        f" batch {shape.batch}, {shape.steps} steps a dispatch"
    )
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = {row: [] for row in rows}
    foreign = []
    for r in range(args.rounds):
        for row in rows[:: 1 if r % 2 == 0 else -1]:
            python = sys.executable if row[0] == "jax" else args.torch_python
            arguments = ["--seconds", str(args.seconds), "--row", row[0], name, str(row[1]), str(row[2])]
            try:
                cost, out = run_process([python, str(HERE), *arguments])
            except SystemExit as error:  # most often out of memory: the table says so, and goes on
                print(f"  {row}: {str(error).splitlines()[-1][:100]}", flush=True)
                continue
            found[row].append({**json.loads(out.splitlines()[-2]), "host_bytes": cost.peak_bytes})
            foreign.append(cost.foreign)
    peak = next((flops for kind, flops in PEAK.items() if kind in device["kind"]), None)
    base = found[rows[0]]
    for (side, runs, devices), measured in found.items():
        if not measured:
            continue

        def middle(key: str, measured: list[dict[str, Any]] = measured) -> float:
            return statistics.median(m[key] for m in measured)

        on = (
            f"{runs:3d} runs on {devices} device{'s' if devices > 1 else ' '}" if side == "jax" else "PyTorch, compiled"
        )
        line = f"  {on:<22} {middle('tokens_per_s'):12,.0f} tokens/s"
        if base:
            one = statistics.median(m["tokens_per_s"] for m in base)
            line += f"  {middle('tokens_per_s') / one:6.2f} x"
        if device["platform"] == "cpu":
            line += f"  {middle('tokens_per_cpu_s'):10,.0f} tokens/CPU s"
        memory = "host_bytes" if measured[0]["device_bytes"] is None else "device_bytes"
        line += f"  {middle(memory) / 2**20:8,.0f} MiB  compiled in {middle('compile_s'):5.1f} s"
        if peak and "flops_per_s" in measured[0]:
            line += f"  {middle('flops_per_s') / peak:6.1%} of peak"
        elif peak and base:
            flops_a_token = statistics.median(m["flops_per_s"] / m["tokens_per_s"] for m in base)
            line += f"  {flops_a_token * middle('tokens_per_s') / peak:6.1%} of peak"
        print(line, flush=True)
    if foreign:
        print(f"  other processes kept {statistics.median(foreign):.2f} cores busy meanwhile", flush=True)


if __name__ == "__main__":
    main()
