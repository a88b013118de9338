"""`lab fit` and its companions: laws on any table of (N, D, loss)."""

from __future__ import annotations

COMMANDS: dict[str, object] = {}
