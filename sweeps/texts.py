"""The text of a study: one group of corpora, or several by name, each with tokenizers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lab.records import locked

if TYPE_CHECKING:
    from lab.data.prepare import Prepared
    from lab.data.store import TokenStore
    from sweeps.study import Data

Text: TypeAlias = "Prepared | Mapping[str, Prepared]"


def prepare_text(data: Data, root: Path) -> Text:
    """Prepares what is missing of a scale's text; one process at a time does so.

    Raises:
      LabError: when a corpus is missing, or cannot be prepared as asked.
    """
    from lab.data.prepare import prepare

    with locked(root / "data", wait=True):
        if not isinstance(data, Mapping):
            return prepare(data.corpora, data.vocab, data.joint, root, data.tokenizer_from)
        return {
            name: prepare(group.corpora, group.vocab, group.joint, root, group.tokenizer_from)
            for name, group in data.items()
        }


def stores(text: Text) -> dict[str, TokenStore]:
    """All token stores, by fingerprint."""
    groups = text.values() if isinstance(text, Mapping) else (text,)
    return {store.fingerprint: store for group in groups for store in group.stores.values()}
