"""From a config to its identity: one canonical JSON form, and the hash of it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any


def canonical(value: Any) -> Any:
    """Returns a JSON-ready form of a config value in which every dataclass names its type.

    A field that is None is left out: what a run does not use leaves no trace in its identity, so that a field with
    None as its default can be added without changing the identity of any run before it.

    Raises:
      TypeError: for any type whose text form is not guaranteed to be stable.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if names := _field_names(type(value)):  # type: ignore[arg-type]
        fields = ((name, getattr(value, name)) for name in names)
        return {"type": type(value).__name__, **{k: canonical(v) for k, v in fields if v is not None}}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"A config cannot hold the number {value!r}: it has no stable JSON form.")
        return value
    if isinstance(value, (tuple, list)):
        return [canonical(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: canonical(v) for k, v in sorted(value.items())}
    raise TypeError(f"A config cannot hold a {type(value).__name__} ({value!r}): give it a frozen dataclass.")


@functools.cache
def _field_names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass; none of any other type."""
    return tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def canonical_json(value: Any) -> str:
    """One line of JSON, keys sorted: the text that is hashed."""
    return _line(canonical(value))


def fingerprint(value: Any, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical JSON of `value`."""
    return form_fingerprint(canonical(value), length)


def form_fingerprint(form: Any, length: int = 16) -> str:
    """The fingerprint of the value whose canonical form is `form`: of a `config.json` as it was read."""
    return hashlib.sha256(_line(form).encode()).hexdigest()[:length]


def _line(form: Any) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
