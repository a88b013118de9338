"""A grid of 16 small runs, from the start of the process to the last row: this laboratory against a PyTorch script.

    python benchmarks/grid.py --torch-python /tmp/benchenv/bin/python

Both sides train the same 16 runs (two shapes, two budgets, four seeds) on the same prepared text, read from the same
memory-mapped ids in shuffled windows; both evaluate each run on the same tokens, once plainly and once by sliding
windows, keep a checkpoint of its parameters and write its row. The laboratory does it as `lab sweep run` does, with an
empty compilation cache; the PyTorch script trains one run after another in one process, eagerly, with fused AdamW.
Each side's process starts anew in every round, and the sides take turns.

The interpreter given as `--torch-python` needs only PyTorch and NumPy. `--smoke` shrinks the grid to seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contest import Cost, print_cost, ratios, run_process

HERE = Path(__file__).resolve()
CORPUS, VOCAB, CONTEXT, BATCH = "embedded:en", 1024, 128, 8
PEAK_LR, WARMUP, FINAL_LR = 8e-3, 0.1, 0.01
EVAL_WINDOWS = 32
LOG_EVERY = 8


def laboratory(grid: dict[str, Any], root: Path, devices: int) -> None:
    """The public path: what `lab sweep run` does with a study."""
    sys.path.insert(0, str(HERE.parent.parent))
    from lab.devices import prepare_process

    prepare_process(host_devices=devices)
    from lab.config import Component, LayoutConfig, MixtureConfig, OptimConfig, RunConfig, Stage
    from lab.data.prepare import Prepared
    from lab.presets import preset
    from sweeps.launch import run_study
    from sweeps.study import Arm, DataSpec, Scale, Study

    def arms(prepared: Prepared, _: Scale) -> tuple[Arm, ...]:
        layout = LayoutConfig.joint(("en",), prepared.tokenizer(CORPUS).hash)
        mixture = MixtureConfig((Component("en", prepared.source(CORPUS)),), layout, (Stage(1.0, (1.0,)),))
        optim = OptimConfig(PEAK_LR, "cosine", warmup=WARMUP, final_lr=FINAL_LR)
        return tuple(
            Arm(shape, RunConfig(preset(shape, VOCAB, CONTEXT), optim, mixture, steps, BATCH, seed, seed))
            for shape in grid["shapes"]
            for steps in grid["steps"]
            for seed in range(grid["seeds"])
        )

    scale = Scale("nano", DataSpec((CORPUS,), VOCAB), "a benchmark")
    study = Study("grid", "How long does a grid take?", "Less than PyTorch takes.", (scale,), arms)
    code = run_study(study, scale, root)
    if code:
        raise SystemExit(code)
    from lab.table import read_table

    table = read_table(root / "grid" / "results.parquet")
    rows = [{"shape": r.arm, "loss": r.loss, "ppl": r.ppl} for r in table.itertuples()]
    print(json.dumps(rows))
    print_cost()


def pytorch(grid: dict[str, Any], out: Path) -> None:
    import numpy as np
    import torch
    from torch_decoder import Decoder, adamw

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    text = np.memmap(grid["train"], dtype=grid["dtype"], mode="r")
    held_out = torch.from_numpy(np.load(grid["eval"]).astype(np.int64))
    offsets = np.arange(CONTEXT + 1)

    def batches(steps: int, seed: int) -> Iterator[torch.Tensor]:
        order = np.random.default_rng(seed).permutation((len(text) - 1) // CONTEXT)
        for step in range(steps):
            windows = order[np.arange(step * BATCH, (step + 1) * BATCH) % len(order)]
            yield torch.from_numpy(text[windows[:, None] * CONTEXT + offsets].astype(np.int64))

    @torch.inference_mode()
    def nats(decoder: Decoder, stride: int) -> float:
        """Mean nats of the last `stride` targets of windows that start every `stride` tokens."""
        windows = held_out.unfold(0, CONTEXT + 1, stride)
        total = 0.0
        for part in windows.split(EVAL_WINDOWS):
            total += decoder(part[:, :-1], part[:, -stride:], reduction="sum").item()
        return total / (len(windows) * stride)

    rows = []
    for shape in grid["shapes"]:
        layers = int(shape.removeprefix("nano-"))
        for steps in grid["steps"]:
            for seed in range(grid["seeds"]):
                torch.manual_seed(seed)
                decoder = Decoder(16 * layers, layers, layers, VOCAB, CONTEXT)
                optimizer = adamw(decoder, PEAK_LR)
                log = []
                for step, tokens in enumerate(batches(steps, seed), start=1):
                    fall = 0.5 * (1 + math.cos(math.pi * step / steps))
                    warm = min(1.0, step / max(1, round(WARMUP * steps)))
                    optimizer.param_groups[0]["lr"] = PEAK_LR * warm * (FINAL_LR + (1 - FINAL_LR) * fall)
                    loss = decoder(tokens[:, :-1], tokens[:, 1:])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    if step % LOG_EVERY == 0:
                        log.append({"step": step, "loss": loss.item()})
                torch.save(decoder.state_dict(), out / f"{shape}-{steps}-{seed}.pt")
                rows.append(
                    {"shape": shape, "loss": nats(decoder, CONTEXT), "ppl": math.exp(nats(decoder, CONTEXT // 4))}
                )
                (out / f"{shape}-{steps}-{seed}.json").write_text(json.dumps({**rows[-1], "log": log}))
    print(json.dumps(rows))
    print_cost()


def prepared(work: Path) -> dict[str, Any]:
    """Prepares the text once, and says where PyTorch finds the same ids."""
    sys.path.insert(0, str(HERE.parent.parent))
    import numpy as np

    from lab.data.evalset import evaluation_set
    from lab.data.prepare import prepare

    store = prepare((CORPUS,), VOCAB, False, work).store(CORPUS)
    held_out = evaluation_set(store)
    np.save(work / "eval.npy", held_out.ids)
    ids = store.ids("train")
    assert store.folder is not None
    print(f"{CORPUS}: {len(ids):,} tokens to train on, {held_out.n_tokens:,} to evaluate on")
    return {"train": str(store.folder / "train.ids"), "dtype": ids.dtype.str, "eval": str(work / "eval.npy")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", default="150000,450000", help="budgets of the runs")
    parser.add_argument("--shapes", default="nano-3,nano-4", help="0.2 and 0.3 million parameters")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--devices", type=int, default=2, help="runs that the laboratory trains side by side")
    parser.add_argument("--smoke", action="store_true", help="2 tiny runs, one round")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side, folder = args.side[0], Path(args.side[1])
        grid = json.loads((folder / "grid.json").read_text())
        pytorch(grid, folder) if side == "pytorch" else laboratory(grid, folder, args.devices)
        return
    steps = [int(tokens) // (BATCH * CONTEXT) for tokens in args.tokens.split(",")]
    grid = {"shapes": args.shapes.split(","), "steps": steps, "seeds": args.seeds}
    if args.smoke:
        grid, args.rounds = {"shapes": ["nano-1"], "steps": [20], "seeds": 2}, 1
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        grid |= prepared(work)
        n = len(grid["shapes"]) * len(grid["steps"]) * grid["seeds"]
        print(f"{n} runs: {', '.join(grid['shapes'])}; {grid['steps']} steps of {BATCH} x {CONTEXT}", flush=True)
        pythons = {"PyTorch": args.torch_python, "this laboratory": sys.executable}
        costs: dict[str, list[Cost]] = {side: [] for side in pythons}
        losses: dict[str, list[dict[str, Any]]] = {}
        for r in range(args.rounds):
            for side in list(pythons)[:: 1 if r % 2 == 0 else -1]:
                folder = work / f"{side.split()[-1].lower()}-{r}"
                folder.mkdir()
                (folder / "data").symlink_to(work / "data")
                (folder / "grid.json").write_text(json.dumps(grid))
                command = [pythons[side], str(HERE), "--devices", str(args.devices)]
                command += ["--side", side.split()[-1].lower(), str(folder)]
                cost, out = run_process(command)
                losses[side] = json.loads(out.splitlines()[-2])
                assert len(losses[side]) == n
                costs[side].append(cost)
                print(
                    f"  round {r + 1}, {side:<16} {cost.wall_s:7.1f} s {cost.cpu_s:7.1f} CPU s"
                    f"   {cost.peak_bytes / 2**20:6.0f} MiB   (others kept {cost.foreign:.2f} cores busy)",
                    flush=True,
                )
    theirs, ours = costs["PyTorch"], costs["this laboratory"]
    print(f"wall-clock ratio {ratios([c.wall_s for c in theirs], [c.wall_s for c in ours])}")
    print(f"CPU-time ratio   {ratios([c.cpu_s for c in theirs], [c.cpu_s for c in ours])}")
    for shape in grid["shapes"]:
        both = {side: [row for row in rows if row["shape"] == shape] for side, rows in losses.items()}
        means = {
            side: [statistics.mean(row[k] for row in rows) for k in ("loss", "ppl")] for side, rows in both.items()
        }
        found = [f"{side} {loss:.3f} nats, perplexity {ppl:.1f}" for side, (loss, ppl) in means.items()]
        print(f"{shape}, means over its runs: {'; '.join(found)}")


if __name__ == "__main__":
    main()
