"""Run by test_distributed, twice at once: one of two processes that train one run together; prints JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from lab.devices import prepare_process

root, stop_at = Path(sys.argv[1]), int(sys.argv[2])
mesh = dict(zip(("data", "fsdp", "model"), map(int, sys.argv[3].split(",")), strict=True))
joining = (sys.argv[4], 2, int(sys.argv[5])) if len(sys.argv) > 4 else ()
prepare_process(host_devices=1, collectives=True)

import tiny  # noqa: E402

from lab import distributed  # noqa: E402

n = distributed.join(*joining)

import jax  # noqa: E402

from lab.data.prepare import open_prepared, stores_under  # noqa: E402
from lab.train import Execution, Stopped, train  # noqa: E402


class Observer:
    def progress(self, run_id, steps_done, loss):
        # One process is asked to stop; both must save and leave at the same step.
        if stop_at and steps_done >= stop_at and not distributed.leads():
            os.kill(os.getpid(), signal.SIGTERM)

    def finished(self, run_id, result):
        pass


data = open_prepared(tuple(s.source for s in stores_under(root)), root)
run = tiny.run(data, ("aa", "bb"))
stopped = False
try:
    train([run], Execution(root, 1, 1e9, **mesh), Observer())
except Stopped:
    stopped = True
print(
    json.dumps(
        {
            "processes": n,
            "process": jax.process_index(),
            "devices": jax.device_count(),
            "stopped": stopped,
            "run": run.run_id,
        }
    )
)
