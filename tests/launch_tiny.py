"""Run by test_launch in processes of its own: launches a study of tiny runs; says which runs it trained."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from lab.devices import prepare_process

root, devices = Path(sys.argv[1]), int(sys.argv[2])
prepare_process(host_devices=devices)

import tiny  # noqa: E402

import lab.data.prepare  # noqa: E402
from lab.data.prepare import open_prepared, stores_under  # noqa: E402
from lab.slot import ActiveRun  # noqa: E402
from sweeps.launch import run_study  # noqa: E402
from sweeps.study import Arm, DataSpec, Scale, Study  # noqa: E402

data = open_prepared(tuple(s.source for s in stores_under(root)), root)


def arms(_: object, scale: Scale) -> tuple[Arm, ...]:
    """Two shapes of two runs each."""
    shapes = [dataclasses.replace(tiny.run(data).model, d_model=width) for width in (16, 32)]
    runs = [tiny.run(data, steps=32 - 16 * seed, seed_init=seed, model=m) for m in shapes for seed in range(2)]
    return tuple(Arm(f"width {r.model.d_model}", r) for r in runs)


class Counted(ActiveRun):
    """Tells where a run begins to train from its start."""

    def start(self, program):
        with (root / "starts.txt").open("a") as f:
            f.write(f"{self.run.run_id}\n")
        return super().start(program)


if __name__ == "__main__":
    import lab.train

    lab.train.ActiveRun = Counted  # type: ignore[misc]
    lab.data.prepare.prepare = lambda *_: data  # type: ignore[assignment]
    scale = Scale("nano", DataSpec(("tiny:aa",), 300), "seconds")
    sys.exit(run_study(Study("tiny", "?", "a loss", (scale,), arms), scale, root))
