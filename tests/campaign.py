"""The fault campaign: training is killed again and again, and must end as if nothing had happened.

    python -m tests.campaign                 # 100 kills; 15 to 30 minutes on 2 CPU cores
    python -m tests.campaign --kills 10 --out /tmp/campaign.csv

A trial trains a pack of eight short runs on two slots (a trunk, two cooldown branches, a child that takes weights, runs
that are evaluated along the way and runs that refill a slot). Its process is killed with SIGKILL, started again, and so
on, until its kills are used up; then it may finish. Half of the kills come at times uniform over training, from
outside; half at named points, by the process itself: while a temporary file is being written, before it is renamed,
while a slot is refilled, in an evaluation, while a branch starts. Where each landed is logged.

At the end every run is compared with an uninterrupted training of the same pack: the chained hash of its consumed
examples (equal: none was lost, repeated or moved), its losses, and the bits of its parameters. The last resumption of
every fifth trial is on two devices instead of one: then examples must be the same, and losses agree to 1e-4.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results" / "campaign.csv"
POINTS = ("temporary write", "before rename", "refill", "evaluation", "branch start")
KILLS_A_TRIAL = 5
SAVE_EVERY_S = 0.15
TOLERANCE = 1e-4
COLUMNS = ("trial", "kill", "how", "phase", "dispatch", "refilled", "devices_after")


# --- the process that is killed ---------------------------------------------------------------------------------


class Phase:
    """What the training process is doing, in a file that outlives it."""

    def __init__(self, path: Path):
        if not path.exists():
            path.write_bytes(b" " * 256)
        with path.open("r+b") as f:
            self._map = mmap.mmap(f.fileno(), 256)

    def say(self, **facts: Any) -> None:
        self._map[:] = json.dumps(facts).encode().ljust(256)

    def read(self) -> dict[str, Any]:
        text = self._map[:].decode().strip()
        return json.loads(text) if text else {}


def train(root: Path, point: str, call: int) -> None:
    """Trains the pack below `root`, and kills itself at the `call`-th passage of `point` (never, for "none")."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from lab import lineage, records, slot, step
    from lab import train as training
    from lab.config import from_json
    from lab.pack import marks_of

    phase = Phase(root / "phase")
    now: dict[str, Any] = {"phase": "start", "dispatch": 0, "refilled": False}
    passages = 0

    def passing(name: str) -> None:
        nonlocal passages
        phase.say(**{**now, "phase": name})
        if name == point:
            passages += 1
            if passages == call:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched(owner: Any, name: str, label: str, when: Any = lambda *a, **k: True) -> None:
        original = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if when(*args, **kwargs):
                passing(label)
            return original(*args, **kwargs)

        setattr(owner, name, wrapper)

    refill, save = training.Trainer._refill, training.Trainer._save

    def watched_refill(self: Any, dispatch: int) -> None:
        now.update(dispatch=dispatch, refilled=now["refilled"] or (dispatch > 0 and dispatch in self.starts))
        phase.say(**{**now, "phase": "training"})
        refill(self, dispatch)

    def watched_save(self: Any, dispatch: int) -> None:
        phase.say(**{**now, "phase": "saving"})
        save(self, dispatch)

    training.Trainer._refill, training.Trainer._save = watched_refill, watched_save  # type: ignore[method-assign]
    watched(step, "insert", "refill", lambda program, state, slot, single: now["dispatch"] > 0)
    watched(slot, "evaluate", "evaluation")
    watched(lineage, "start", "branch start", lambda program, run, *rest: run.parent is not None)
    # Text files go through records.atomic_write, checkpoints through Orbax: both sync or write, and then rename.
    watched(records.os, "fsync", "temporary write")
    for name in ("rename", "replace"):
        watched(os, name, "before rename")
    for name in ("rename", "replace"):
        watched(Path, name, "before rename")

    class Silent:
        def progress(self, *_: Any) -> None: ...

        def finished(self, *_: Any) -> None: ...

    runs = [from_json(form) for form in json.loads((root / "data" / "runs.json").read_text())]
    marks = marks_of(runs, {run.run_id: 3 for run in runs[4:]})
    training.enable_compilation_cache(root.parent)
    plan = training.plan_pack(runs, 2, training.STEPS_PER_DISPATCH, marks)
    training.train(runs, training.Execution(root, 2, SAVE_EVERY_S), Silent(), plan)


# --- the campaign -----------------------------------------------------------------------------------------------


def make_runs(data: Any) -> list[Any]:
    """The runs of a trial: a trunk, two branches, a child that takes weights, four runs that are evaluated often."""
    import tiny

    from lab.config import OptimConfig, Parent

    constant, cooling = OptimConfig(1e-2, "constant", warmup=0.0), OptimConfig(1e-2, "wsd", warmup=0.0)
    trunk = tiny.run(data, ("aa", "bb"), steps=600, optim=constant)
    runs = [trunk]
    for total in (250, 700):
        parent = Parent(trunk.run_id, total * 4 // 5, "state")
        runs.append(dataclasses.replace(trunk, steps=total, optim=cooling, parent=parent))
    runs.append(dataclasses.replace(trunk, steps=150, parent=Parent(trunk.run_id, 400, "weights")))
    return runs + [tiny.run(data, ("aa", "bb"), steps=s, seed_init=s, seed_data=s) for s in (500, 350, 203, 97)]


def start(root: Path, point: str = "none", call: int = 0, devices: int = 1) -> subprocess.Popen[bytes]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.campaign", "--train", str(root), point, str(call)]
    log = (root / "log").open("ab")
    return subprocess.Popen(
        command, cwd=HERE.parent, env={**os.environ, "XLA_FLAGS": flags}, stdout=log, stderr=subprocess.STDOUT
    )


def fresh(folder: Path, data: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "data").symlink_to(data)
    Phase(folder / "phase")
    return folder


def wait_until_training(root: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not Phase(root / "phase").read():
        time.sleep(0.01)


def finish(root: Path, devices: int = 1) -> float:
    """Trains to the end; returns the seconds from the first dispatch on."""
    process = start(root, devices=devices)
    wait_until_training(root, process)
    began = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"Training failed:\n{(root / 'log').read_text()[-3000:]}")
    return time.monotonic() - began


def measured(root: Path) -> dict[str, dict[str, Any]]:
    """What each run ended with: examples, losses, curve, and the bytes of its kept parameters."""
    import numpy as np
    import orbax.checkpoint as ocp

    found = {}
    for file in sorted((root / "runs").glob("*/result.json")):
        result = json.loads(file.read_text())
        steps = sorted(
            (p for p in (file.parent / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
        )
        with ocp.StandardCheckpointer() as reader:
            leaves = [reader.restore(p.resolve() / "tree") for p in steps]
        found[file.parent.name] = {
            "examples": result["run"]["examples_hash"],
            "losses": [(e["language"], e["loss"], e["ppl"], *e["eval_curve_loss"]) for e in result["evaluations"]],
            "curve": result["run"]["curve_loss"],
            "parameters": [np.concatenate([x.ravel() for x in _leaves(tree["params"])]).tobytes() for tree in leaves],
            "kept": [p.name for p in steps],
        }
    return found


def _leaves(tree: Any) -> list[Any]:
    import jax
    import numpy as np

    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def trial(number: int, root: Path, kills: int, seconds: float, rng: random.Random) -> tuple[list[dict[str, Any]], int]:
    """Kills one training `kills` times and lets it end; returns what was logged, and the devices of the last start."""
    rows: list[dict[str, Any]] = []
    while len(rows) < kills:
        Phase(root / "phase")._map[:] = b" " * 256
        timed = len(rows) % 2 == number % 2
        point = rng.choice(POINTS)
        process = start(root) if timed else start(root, point, rng.randint(1, 3))
        if timed:
            wait_until_training(root, process)
            time.sleep(rng.uniform(0, seconds))
            process.kill()
        process.wait()
        if process.returncode == 0:
            break  # it got to its end first: there is nothing left to kill in this trial
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"Training failed by itself:\n{(root / 'log').read_text()[-3000:]}")
        facts = {"phase": "start", "dispatch": 0, "refilled": False} | Phase(root / "phase").read()
        rows.append({"trial": number, "kill": len(rows) + 1, "how": "time" if timed else point, **facts})
    devices = 2 if number % 5 == 4 else 1
    finish(root, devices)
    for row in rows:
        row["devices_after"] = devices if row is rows[-1] else 1
    return rows, devices


def agree(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    flat = [[x for e in side["losses"] for x in e[1:]] for side in (found, expected)]
    return all(abs(a - b) <= TOLERANCE * abs(b) for a, b in zip(*flat, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table goes")
    parser.add_argument("--train", nargs=3, metavar=("ROOT", "POINT", "CALL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(Path(args.train[0]), args.train[1], int(args.train[2]))
        return
    sys.path.insert(0, str(HERE))
    import tiny

    from lab.config import to_json

    rng = random.Random(args.seed)
    rows: list[dict[str, Any]] = []
    tally: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "corpus"
        runs = make_runs(tiny.prepared(data))
        (data / "data" / "runs.json").write_text(json.dumps([to_json(run) for run in runs]))
        whole = fresh(Path(scratch) / "whole", data / "data")
        finish(whole)  # compiles
        shutil.rmtree(whole)
        seconds = finish(fresh(whole, data / "data"))
        expected = measured(whole)
        print(f"{len(expected)} runs; an uninterrupted training takes {seconds:.1f} s after it began.", flush=True)
        number = 0
        while len(rows) < args.kills:
            root = fresh(Path(scratch) / f"trial{number}", data / "data")
            kills = min(KILLS_A_TRIAL, args.kills - len(rows))
            landed, devices = trial(number, root, kills, seconds, rng)
            rows += landed
            found = measured(root)
            for name, one in expected.items():
                tally["runs"] += 1
                tally["same examples"] += found[name]["examples"] == one["examples"]
                kind = "on one device" if devices == 1 else "ended on two devices"
                tally[f"runs {kind}"] += 1
                tally[f"bit-identical {kind}"] += found[name] == one
                tally[f"losses agree to {TOLERANCE:g} {kind}"] += agree(found[name], one)
            tally["trials"] += 1
            last = landed[-1] if landed else {"how": "none", "phase": "-", "dispatch": "-"}
            print(f"trial {number}: {len(landed)} kills, the last {last['how']} in {last['phase']}", flush=True)
            shutil.rmtree(root)
            number += 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    print(f"\n{len(rows)} kills, of which {sum(bool(r['refilled']) for r in rows)} after a slot was refilled:")
    for (how, where), n in sorted(collections.Counter((r["how"], r["phase"]) for r in rows).items()):
        print(f"  {n:4d}  at {how}, in {where}")
    for label, n in tally.items():
        print(f"{label}: {n}")
    exact = tally["bit-identical on one device"] == tally["runs on one device"]
    close = tally[f"losses agree to {TOLERANCE:g} ended on two devices"] == tally["runs ended on two devices"]
    sys.exit(0 if tally["same examples"] == tally["runs"] and exact and close else 1)


if __name__ == "__main__":
    main()
