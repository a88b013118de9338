"""The laws, one file a family; every module here that has a tuple `LAWS` adds its laws by name.

laws.get("chinchilla")   laws.get("atlas:sources=fr,de")   laws.load("./mylaw.py:MyLaw")   laws.names()
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

from analysis.law import Law
from analysis.laws._options import with_options
from lab.errors import LabError


@functools.cache
def registry() -> dict[str, Law]:
    """All laws of the package by name."""
    found: dict[str, Law] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        for law in getattr(importlib.import_module(f"{__name__}.{module}"), "LAWS", ()):
            if law.name in found:
                raise LabError(f"Two laws are called {law.name!r}.", "Rename one.")
            found[law.name] = law
    return found


def names() -> tuple[str, ...]:
    return tuple(registry())


def get(law: str | Law) -> Law:
    """The law of that name (with options, "atlas:sources=fr,de"), the law in `path.py:Class`, or the law itself.

    Raises:
      LabError: for an unknown name or option.
    """
    if isinstance(law, Law):
        return law
    if isinstance(law, type) and issubclass(law, Law):
        return law()
    if ".py:" in law or law.endswith(".py"):
        return load(law)
    law, _, options = law.partition(":")
    if law not in registry():
        near = difflib.get_close_matches(law, names(), 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise LabError(f"Unknown law {law!r}.", f"{hint}Known: {', '.join(names())}; or give ./file.py:Class.")
    return with_options(registry()[law], options) if options else registry()[law]


def load(spec: str) -> Law:
    """Loads a law from `path.py:Class` (the class may be left out when the file defines one law).

    Raises:
      LabError: when the file, the class or one of its attributes is missing.
    """
    file, _, wanted = spec.partition(":")
    path = Path(file)
    if not path.is_file():
        raise LabError(f"No law file {file!r}.", "Give ./file.py:Class.")
    module_spec = importlib.util.spec_from_file_location(f"_law_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise LabError(f"The law file {file!r} cannot be imported: {type(error).__name__}: {error}.") from error
    classes = {
        k: v
        for k, v in vars(module).items()
        if isinstance(v, type) and issubclass(v, Law) and v.__module__ == module_spec.name
    }
    if wanted and wanted not in classes:
        raise LabError(f"{file!r} defines no law {wanted!r}.", f"It defines: {', '.join(classes) or 'none'}.")
    if not wanted and len(classes) != 1:
        raise LabError(f"{file!r} defines {len(classes)} laws.", "Say which: ./file.py:Class.")
    law_class = classes[wanted] if wanted else next(iter(classes.values()))
    for attribute in ("name", "source", "variables", "parameters"):
        if not hasattr(law_class, attribute):
            raise LabError(f"The law {law_class.__name__} of {file!r} has no {attribute!r}.", "See analysis/law.py.")
    return law_class()
