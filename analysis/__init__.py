"""Tables in, numbers out: laws, fits, intervals, comparison, design and allocation.

    from analysis import fit, laws

Names are loaded on first use, so that `import analysis` costs nothing. JAX does the numerics in float64 inside a
scoped context: the caller's precision is never changed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis import laws as laws
    from analysis.fitting import fit as fit
    from analysis.intervals import bootstrap as bootstrap
    from analysis.law import Law as Law
    from analysis.law import Parameter as Parameter
    from analysis.law import Variable as Variable
    from analysis.objective import Objective as Objective
    from analysis.result import Fit as Fit
    from analysis.table import Table as Table
    from analysis.table import read as read
    from analysis.twostage import fit_stages as fit_stages

_HOME = {
    "fit": "analysis.fitting",
    "fit_stages": "analysis.twostage",
    "bootstrap": "analysis.intervals",
    "Law": "analysis.law",
    "Parameter": "analysis.law",
    "Variable": "analysis.law",
    "Objective": "analysis.objective",
    "Fit": "analysis.result",
    "Table": "analysis.table",
    "read": "analysis.table",
}
__all__ = [*_HOME, "laws"]


def __getattr__(name: str) -> Any:
    if name == "laws":
        return importlib.import_module("analysis.laws")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
