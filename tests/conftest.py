"""What many tests start from: a tiny corpus, and fresh folders that share its token stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from lab.data.prepare import Prepared

# No test asserts wall time: machines are busy.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    """The folder of the tiny corpus (`tiny.py`), and what was prepared there. Nothing writes to it afterwards."""
    import tiny

    root = tmp_path_factory.mktemp("tiny")
    return root / "data", tiny.prepared(root)


@pytest.fixture(scope="session")
def data(stores: tuple[Path, Prepared]) -> Prepared:
    return stores[1]


@pytest.fixture
def root(stores: tuple[Path, Prepared], tmp_path: Path) -> Path:
    """A fresh folder for results that shares the tiny corpus."""
    (tmp_path / "data").symlink_to(stores[0])
    return tmp_path
