"""A trained model with a larger vocabulary: the rows of pieces that it has never seen.

New rows of the embedding, and columns of the head, begin in one of three ways, by name:

- `random`: as those of a new model do.
- `mean`: the mean of all old ones.
- `composition`: the mean of the old pieces that spell the new one, by the tokenizer of the layout's first language.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lab.config import Extension
from lab.data.vocabulary import PAD, LanguageLayout


def extended(old: Any, fresh: Any, layout: LanguageLayout, how: Extension) -> Any:
    """The parameters of a model with the vocabulary of `layout`, whose first ids are those of `old`.

    Args:
      old: parameters of the trained model, with a leading run axis of 1; any array type.
      fresh: parameters as a new model of the larger vocabulary has them, likewise.
      layout: of the larger model.
      how: new rows begin.

    Returns:
      `old`, with the embedding and head of the larger vocabulary.
    """
    table_VxD = np.asarray(old["embed"]["tokens"])[0]
    head_VxD = np.asarray(old["head"]["kernel"])[0].T
    known = len(table_VxD)
    if how == "random":
        rows, columns = (
            np.asarray(fresh["embed"]["tokens"])[0, known:],
            np.asarray(fresh["head"]["kernel"])[0].T[known:],
        )
    else:
        weights_NxV = _weights(layout, known, how)
        rows, columns = weights_NxV @ table_VxD, weights_NxV @ head_VxD
    table = np.concatenate([table_VxD, rows.astype(table_VxD.dtype)])
    head = np.concatenate([head_VxD, columns.astype(head_VxD.dtype)])
    return {
        **old,
        "embed": {**old["embed"], "tokens": table[None]},
        "head": {**old["head"], "kernel": head.T[None]},
    }


def _weights(layout: LanguageLayout, known: int, how: Extension) -> np.ndarray:
    """[new, known]: of which old rows each new one is the mean."""
    weights = np.zeros((layout.v_total - known, known), np.float32)
    first = layout.languages[0]
    for row, piece in enumerate(layout.piece_bytes[known:]):
        ids = np.zeros(0, np.int64)
        if how == "composition":
            ids = layout.encode(first, piece.decode("utf-8", errors="replace"))
        if not len(ids):  # a piece without text, and `mean`
            ids = np.delete(np.arange(known), PAD)
        np.add.at(weights[row], ids, 1 / len(ids))
    return weights
