"""What commands that fit many laws have in common: they say how far they are, and compile each fit once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def fitting(root: Path, what: str) -> Iterator[Callable[[str], None]]:
    """Shows on stderr what is being done and for how long; gives the function to say so with.

    Compiled fits are kept below `root`, where training keeps its own: the next command begins at once.
    """
    import jax
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    jax.config.update("jax_compilation_cache_dir", str((root / "cache" / "xla").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda now: progress.update(task, description=now)
