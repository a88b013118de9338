"""Mirrors of run directories for people who watch TensorBoard or Weights & Biases.

The run directory stays the truth: a mirror copies the lines of `metrics.jsonl` and `evaluations.jsonl` as they appear,
and can be deleted at any time. A run that is resumed is mirrored anew from its first line, so that what a kill took
back is in no mirror either.

    observer = mirrored(observer, root, ("tensorboard",))      # then: tensorboard --logdir <root>/tensorboard
    observer = mirrored(observer, root, ("wandb",))            # then: wandb sync <root>/wandb/offline-run-*

Both need the extra `track`.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from lab.config import to_json
from lab.errors import LabError
from lab.records import RunDir
from lab.train import Observer

TrackerName = Literal["tensorboard", "wandb"]
SYNC_EVERY_S = 10.0


class Tracker(Protocol):
    """Where the lines of one run go."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, root: Path, files: RunDir):
        from tensorboardX import SummaryWriter

        folder = root / "tensorboard" / files.run_id
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Offline: nothing leaves the machine until `wandb sync` is asked to send it."""

    def __init__(self, root: Path, files: RunDir):
        import wandb

        for folder in (root / "wandb").glob(f"offline-run-*-{files.run_id}"):
            shutil.rmtree(folder)
        root.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode="offline",
            dir=str(root),
            id=files.run_id,
            project="scaling-lab",
            config=to_json(files.read_config()),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step}, step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[TrackerName, Any] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


class _Mirror:
    """One run in one tracker, up to date as of the last `sync`."""

    def __init__(self, tracker: Tracker, files: RunDir):
        self.tracker, self.files = tracker, files
        self.copied = [0, 0]  # lines of each log
        self.synced_at = -SYNC_EVERY_S

    def sync(self) -> None:
        values: dict[int, dict[str, float]] = {}
        logs = (self.files.metrics.read(), self.files.evaluations.read())
        for log, copied in zip(logs, self.copied, strict=True):
            for line in log[copied:]:
                values.setdefault(line["step"], {}).update(_values(line))
        for step in sorted(values):
            self.tracker.write(step, values[step])
        self.copied = [len(log) for log in logs]
        self.synced_at = time.monotonic()


def _values(line: Mapping[str, Any]) -> dict[str, float]:
    if "language" in line:
        return {f"eval/{line['language']}/{k}": line[k] for k in ("loss", "bits_per_byte", "ppl")}
    return {"tokens": line["tokens"], **{f"train/{k}": line[k] for k in ("loss", "grad_norm", "lr")}}


class _Mirrored:
    """An observer that passes everything on, and keeps the mirrors of the runs it hears of."""

    def __init__(self, observer: Observer, root: Path, names: Sequence[TrackerName]):
        self._observer, self._root, self._names = observer, root, names
        self._mirrors: dict[str, list[_Mirror]] = {}

    def progress(self, run_id: str, steps_done: int, loss: float) -> None:
        self._observer.progress(run_id, steps_done, loss)
        for mirror in self._of(run_id):
            if time.monotonic() - mirror.synced_at >= SYNC_EVERY_S:
                mirror.sync()

    def finished(self, run_id: str, result: Mapping[str, Any]) -> None:
        self._observer.finished(run_id, result)
        for mirror in self._of(run_id):
            mirror.sync()
            mirror.tracker.close()
        self._mirrors.pop(run_id, None)

    def close(self) -> None:
        for mirrors in self._mirrors.values():
            for mirror in mirrors:
                mirror.sync()
                mirror.tracker.close()
        self._mirrors.clear()

    def _of(self, run_id: str) -> list[_Mirror]:
        if run_id not in self._mirrors:
            files = RunDir(self._root, run_id)
            self._mirrors[run_id] = [_Mirror(_TRACKERS[name](self._root, files), files) for name in self._names]
        return self._mirrors[run_id]


@contextlib.contextmanager
def mirrored(observer: Observer, root: Path, names: Sequence[TrackerName]) -> Iterator[Observer]:
    """An observer that mirrors the runs it hears of to the trackers in `names`, and is `observer` otherwise.

    Raises:
      LabError: when a tracker is not installed.
    """
    if not names:
        yield observer
        return
    try:
        if "tensorboard" in names:
            import tensorboardX  # noqa: F401
        if "wandb" in names:
            import wandb  # noqa: F401
    except ImportError as error:
        raise LabError(
            f"{error.name} is not installed.", 'Install the extra: pip install "scaling-lab[track]".'
        ) from None
    mirror = _Mirrored(observer, root, names)
    try:
        yield mirror
    finally:
        mirror.close()
