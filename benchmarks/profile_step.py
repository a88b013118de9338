"""Where the time of one training step on CPU goes, before and after: `python benchmarks/profile_step.py`.

First the plain forms against those of `lab.ops`, each line adding one: what XLA makes of the textbook step (memory
given back after each step, matmuls of three axes, `jax.nn.dot_product_attention`, cross-entropy by autodiff), then the
laboratory's. Every line is a process of its own; they take turns within this call. Then, for the first and the last of
them, the operations of a step by the part of the model they belong to, read back from a trace of `jax.profiler`.

Operations run side by side on the cores, so that their durations add up to more than the step.
"""

from __future__ import annotations

import argparse
import collections
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contest import Contender, contest, serve
from train_step import SHAPES

HERE = Path(__file__).resolve()
FORMS = ("plain JAX", "+ freed memory kept", "+ 2-D matmuls", "+ own attention", "+ fused loss", "+ narrow transposes")
# First match wins; looked for in the names that Flax and JAX give to operations.
PARTS = (
    ("attention, backward", r"transpose\(.*attn/(?![qkvo]/)"),
    ("attention, forward", r"attn/(?![qkvo]/)"),
    ("weight matmuls, backward", r"transpose\(.*(attn/[qkvo]|mlp/(in|out|gate))/"),
    ("weight matmuls, forward", r"(attn/[qkvo]|mlp/(in|out|gate))/"),
    ("activation", r"mlp/"),
    ("norms", r"norm"),
    ("embedding", r"embed"),
    ("optimiser", r"select_n|sqrt|div|integer_pow|pow$|/mul$|/add$|/sub$"),
)


def program(forms: int, shape: tuple[int, ...]) -> tuple[Any, Callable[[int], None]]:
    """The compiled step with the first `forms` improvements, and a function that makes n steps."""
    sys.path.insert(0, str(HERE.parent.parent))
    from lab.devices import prepare_process

    if forms >= 1:
        prepare_process()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from lab import ops
    from lab.config import ModelConfig, OptimConfig
    from lab.optim import hyper_of, stack
    from lab.sharding import make_mesh, put_batches
    from lab.step import Program, init_state, train_steps

    def matmul_3d(x: jax.Array, kernel: jax.Array, out_dtype: Any = None) -> jax.Array:
        return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=out_dtype)

    def matmul_2d(x: jax.Array, kernel: jax.Array, out_dtype: Any = None) -> jax.Array:
        return matmul_3d(x.reshape(-1, x.shape[-1]), kernel, out_dtype).reshape(*x.shape[:-1], kernel.shape[1])

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    def loss(h: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(h @ head)
        return -jnp.sum(weights * jnp.take_along_axis(logp, targets[:, None], axis=1)[:, 0])

    def untransposed(x: jax.Array, dy: jax.Array, dtype: Any) -> jax.Array:
        return jax.lax.dot_general(x, dy, (((0,), (0,)), ((), ())), preferred_element_type=dtype)

    patches: list[tuple[int, str, Any]] = [
        (2, "matmul", matmul_3d),
        (3, "causal_attention", attention),
        (4, "weighted_cross_entropy", loss),
        (5, "_weight_gradient", untransposed),
    ]
    for level, name, plain in patches:
        if forms < level:
            setattr(ops, name, plain)
    if forms in (2, 3, 4):
        ops.matmul = matmul_2d
    d, layers, heads, context, vocab, batch = shape
    built = Program(ModelConfig("gpt2", d, layers, heads, d // heads, 4 * d, vocab, context), make_mesh())
    hyper = stack([hyper_of(OptimConfig(1e-3, "constant"), 1_000_000)])
    tokens = np.random.default_rng(0).integers(1, vocab, (1, 1, batch, context + 1), np.int32)
    batches = put_batches(built.mesh, tokens)
    state = init_state(built, [0])
    executable = train_steps.lower(built, state, batches, hyper).compile()

    def steps(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state, metrics = executable(state, batches, hyper)
        jax.block_until_ready(metrics.loss)

    return executable, steps


def profile(forms: int, shape: tuple[int, ...], steps: int, top: int) -> None:
    """Prints the operations of a step by part of the model, and the longest ones."""
    executable, run = program(forms, shape)
    import jax

    named = _operations(executable.as_text())
    run(2)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(steps)
        file = next(Path(folder).rglob("*.xplane.pb"))
        data = jax.profiler.ProfileData.from_file(str(file))
    nanoseconds: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in named:
                    nanoseconds[event.name] += event.duration_ns
                    calls[event.name] += 1
    total = sum(nanoseconds.values())
    print(f"  operations add up to {total / steps / 1e6:.1f} ms a step, {sum(calls.values()) / steps:.0f} of them")
    parts: collections.Counter[str] = collections.Counter()
    for name, spent in nanoseconds.items():
        parts[_part(named[name][1])] += spent
    for part, spent in parts.most_common():
        print(f"  {spent / steps / 1e6:9.2f} ms {spent / total:5.0%}  {part}")
    print(f"  the {top} longest:")
    for name, spent in nanoseconds.most_common(top):
        result, origin = named[name]
        print(f"  {spent / steps / 1e6:9.2f} ms {spent / total:5.1%}  {result:<22} {_part(origin)}: {_short(origin)}")


def _operations(hlo: str) -> dict[str, tuple[str, str]]:
    """Instruction -> type of its result, and the name of what it came from."""
    found = {}
    for line in hlo.splitlines():
        head = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\S+?)(?:\{\S*)? ", line)
        if head and not re.search(r" (while|call|parameter|tuple)\(", line):
            origin = re.search(r'op_name="([^"]*)"', line)
            found[head[1]] = head[2], origin[1] if origin else ""
    return found


def _part(origin: str) -> str:
    outside = not re.search(r"layers|norm|_Decoder", origin)
    if outside and re.search(r"jvp\(\)|closed_call", origin) and not origin.endswith("select_n"):
        return "loss"
    return next((part for part, pattern in PARTS if re.search(pattern, origin)), "other")


def _short(origin: str) -> str:
    return "/".join(origin.split("/")[-2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="s1,s2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps of each form in each round")
    parser.add_argument("--top", type=int, default=12, help="operations listed")
    parser.add_argument("--serve", nargs=2, metavar=("FORMS", "SHAPE"), help=argparse.SUPPRESS)
    parser.add_argument("--operations", nargs=2, metavar=("FORMS", "SHAPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(program(int(args.serve[0]), SHAPES[args.serve[1]])[1])
        return
    if args.operations:
        profile(int(args.operations[0]), SHAPES[args.operations[1]], args.steps, args.top)
        return
    for shape in args.shapes.split(","):
        d, layers, heads, context, vocab, batch = SHAPES[shape]
        print(f"{shape}: d {d}, {layers} layers, {heads} heads, context {context}, vocabulary {vocab}, batch {batch}")
        command = [sys.executable, str(HERE)]
        forms = [Contender(name, [*command, "--serve", str(i), shape]) for i, name in enumerate(FORMS)]
        contest(forms, FORMS[0], args.rounds, args.steps, batch * context)
        for i in (0, len(FORMS) - 1):
            print(f"{shape}, {FORMS[i] if i == 0 else 'this laboratory'}, by part:")
            sizes = ["--steps", str(args.steps), "--top", str(args.top)]
            sys.stdout.flush()
            subprocess.run([*command, *sizes, "--operations", str(i), shape], check=True)


if __name__ == "__main__":
    main()
