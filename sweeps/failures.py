"""Why a pack could not be trained, kept beside the pack until it can be: `packs/<id>/failed.json` and `log.txt`.

A pack is trained as one, so it fails as one: its runs without a result are the failed ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.errors import LabError
from lab.records import one_line_io_errors, read_json, write_json

LOG_LINES = 20

# To the packs' logs only: on the terminal a failure is one line.
_logger = logging.getLogger("lab.sweep")
_logger.propagate = False


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why the training of a pack ended.

    Attributes:
      reason: one line.
      when, where: UTC time, and host and process.
      log: the last lines of the pack's log.
    """

    reason: str
    when: str
    where: str
    log: tuple[str, ...]


def read_failure(pack: Path) -> Failure | None:
    """The failure that the pack in this folder has not overcome yet, or None."""
    file = pack / "failed.json"
    try:
        form = read_json(file)
        return Failure(form["reason"], form["when"], form["where"], tuple(form["log"]))
    except (LabError, KeyError, TypeError):
        return Failure(f"{file} cannot be read.", "", "", ()) if file.exists() else None


def attempt(pack: Path, work: Callable[[], None], passing: tuple[type[Exception], ...] = ()) -> Failure | None:
    """Does `work` on the pack in folder `pack`; an exception of it is recorded there and returned.

    A new attempt forgets the failure before it. What is logged meanwhile goes to the pack's `log.txt`.

    Args:
      pack: the pack's folder.
      work: trains the pack.
      passing: exceptions that say something else than that the pack failed; they are raised.

    Raises:
      LabError: when the failure cannot be written (a full disk).
    """
    with one_line_io_errors(pack):
        pack.mkdir(parents=True, exist_ok=True)
        (pack / "failed.json").unlink(missing_ok=True)
    with _logged_to(pack / "log.txt"):
        try:
            work()
        except passing:
            raise
        except Exception as error:
            mistake = isinstance(error, LabError)  # says itself what is wrong and where
            reason = str(error) if mistake else f"{type(error).__name__}: {error}"
            _logger.error("the pack failed: %s", reason, exc_info=not mistake)
        else:
            return None
    failure = Failure(
        reason=" ".join(reason.split()),
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        where=f"{platform.node()}, process {os.getpid()}",
        log=tail(pack / "log.txt"),
    )
    write_json(pack / "failed.json", dataclasses.asdict(failure))
    return failure


def tail(log: Path, lines: int = LOG_LINES) -> tuple[str, ...]:
    """The last lines of a text file; none where there is no file."""
    if not log.exists():
        return ()
    with log.open("rb") as f:
        f.seek(max(0, log.stat().st_size - 400 * lines))
        return tuple(f.read().decode(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def _logged_to(file: Path) -> Iterator[None]:
    """Sends what any library logs to `file`, which is made when there is something to write."""
    handler = logging.FileHandler(file, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = (logging.getLogger(), _logger)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
