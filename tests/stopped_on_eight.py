"""Trains the run in ROOT/data/run.json on eight devices (data 2, fsdp 4), and is asked to stop in the middle."""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from lab.devices import prepare_process

prepare_process(host_devices=8, collectives=True)

from test_train import At  # noqa: E402

from lab.config import from_json  # noqa: E402
from lab.train import Execution, Stopped, train  # noqa: E402

root = Path(sys.argv[1])
run = from_json(json.loads((root / "run.json").read_text()))
try:
    train([run], Execution(root, 1, 1e9, data=2, fsdp=4), At(16, lambda: os.kill(os.getpid(), signal.SIGTERM)))
except Stopped:
    print("stopped")
