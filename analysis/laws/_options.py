"""Laws with options, by name: `atlas:sources=fr,de` is the law `atlas` with its field `sources` = ("fr", "de")."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from analysis.law import Law, Parameter, Variable
from lab.errors import LabError


def with_options(law: Law, text: str) -> Law:
    """`law` with the options of `text`, such as "sources=fr,de"; several are separated by colons.

    Raises:
      LabError: when the law has no such option, or its value is not a list of distinct plain names.
    """
    fields = {f.name for f in dataclasses.fields(law)} if dataclasses.is_dataclass(law) else set[str]()
    changes: dict[str, Any] = {}
    for part in text.split(":"):
        key, equals, value = part.partition("=")
        if key not in fields or not equals:
            known = f"It has: {', '.join(sorted(fields))}." if fields else "It has none."
            raise LabError(f"The law {law.name} has no option {part!r}.", f"{known} Write {law.name}:OPTION=A,B.")
        changes[key] = tuple(value.split(","))
    return dataclasses.replace(law, **changes)  # type: ignore[type-var]


def define(law: Any, name: str, variables: Iterable[Variable], parameters: Iterable[Parameter]) -> None:
    """Gives a frozen dataclass law, from its `__post_init__`, what other laws have as class attributes.

    Its name gets the options that differ from their defaults, so that `laws.get(law.name)` is this law again.

    Raises:
      LabError: when an option is not a tuple of distinct names that can be part of a column's name.
    """
    parts = [name]
    for field in dataclasses.fields(law):
        values = getattr(law, field.name)
        bad = [v for v in values if not re.fullmatch(r"\w[\w.-]*", v)]
        if bad or not values or len(set(values)) != len(values):
            listed = ", ".join(map(repr, values)) or "none"
            raise LabError(f"The {field.name} of {name} must be distinct plain names, not {listed}.")
        if values != field.default:
            parts.append(f"{field.name}={','.join(values)}")
    for attribute, value in (("name", ":".join(parts)), ("variables", variables), ("parameters", parameters)):
        object.__setattr__(law, attribute, value if isinstance(value, str) else tuple(value))
