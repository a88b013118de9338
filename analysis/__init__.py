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
    from analysis.intervals import intervals as intervals
    from analysis.law import Law as Law
    from analysis.law import Parameter as Parameter
    from analysis.law import Variable as Variable
    from analysis.objective import Objective as Objective
    from analysis.profile import profile as profile
    from analysis.result import Fit as Fit
    from analysis.table import Table as Table
    from analysis.table import read as read
    from analysis.table import table as table
    from analysis.twostage import fit_stages as fit_stages

_HOME = {
    "fit": "analysis.fitting",
    "fit_stages": "analysis.twostage",
    "bootstrap": "analysis.intervals",
    "intervals": "analysis.intervals",
    "profile": "analysis.profile",
    "Law": "analysis.law",
    "Parameter": "analysis.law",
    "Variable": "analysis.law",
    "Objective": "analysis.objective",
    "Fit": "analysis.result",
    "Table": "analysis.table",
    "read": "analysis.table",
    "table": "analysis.table",
}
__all__ = [*_HOME, "laws"]


def __getattr__(name: str) -> Any:
    if name == "laws":
        return importlib.import_module("analysis.laws")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        # `profile` and `table` are also submodules: binding here keeps the function in front of the module.
        globals()[name] = value
        return value
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
