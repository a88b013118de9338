"""Folders that exist whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `folder` when the block ends without an exception.

    Whatever goes wrong, `folder` is left as it was and the temporary one is removed.

    Raises:
      LabError: when the disk is full or cannot be written.
    """
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    try:
        _remove_leftovers(folder)
        new.mkdir(parents=True)
        yield new
        # A reader that opened the old folder keeps its files; only a damaged or outdated one is ever replaced.
        old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if error.errno in _FULL:
            raise LabError(
                f"No space is left on the disk to write {folder}.", "Free some space and start again; nothing is lost."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise LabError(f"{folder} cannot be written: {error.strerror}.", "Choose another --root.") from error
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left of earlier attempts."""
    for left in [*folder.parent.glob(f".{folder.name}.new-*"), *folder.parent.glob(f".{folder.name}.old-*")]:
        process = int(left.name.rpartition("-")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            continue
        else:
            if process == os.getpid():
                shutil.rmtree(left, ignore_errors=True)
