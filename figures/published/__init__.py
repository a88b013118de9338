"""Published numbers that figures show beside measured ones, as data with their source and evidence.

One JSON file a study. Every number in it is marked: P printed in the paper, N exact in the authors' notebook, D
digitised from their plots (with the error of reading, where one is known), R recovered by algebra from N.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

EXACT = ("P", "N")
RECOVERED = "R"
MEANINGS = {
    "P": "printed in the paper",
    "N": "exact, from the authors' notebook",
    "D": "digitised from the authors' plots",
    "R": "recovered by algebra from exact numbers",
}


@dataclasses.dataclass(frozen=True)
class Published:
    """The numbers of one paper. The frames' columns are the keys of the file's rows.

    Attributes:
      path: the file.
      paper: what was read, and where.
      tokens: T, the paper's standard budget.
      steps: of a run of T tokens.
      notes: by artefact, what a reader of its numbers must know.
      sizes: the paper's names of its sizes, by role: smaller, main, larger.
      laws: a, b, c of 1/PPL = c - a x^-b with x in T, one row a size and language.
      ladders: monolingual perplexities at x T, of the evidence D, and of N where there is such a number.
      results: perplexity and TEff, one row a run and language.
      probes: everything that was measured inside the models, one row a number.
    """

    path: Path
    paper: Mapping[str, str]
    tokens: int
    steps: int
    notes: Mapping[str, str]
    sizes: Mapping[str, str]
    laws: pd.DataFrame
    ladders: pd.DataFrame
    results: pd.DataFrame
    probes: pd.DataFrame


def imbalance() -> Published:
    """Language imbalance, arXiv:2404.07982: all that its figures 1 to 13 and tables 1 to 4 need."""
    path = Path(__file__).with_name("imbalance.json")
    form: dict[str, Any] = json.loads(path.read_text())
    return Published(
        path,
        form["paper"],
        form["T"],
        form["steps"],
        form["notes"],
        {row["size"]: row["name"] for row in form["sizes"]},
        *(pd.DataFrame(form[name]) for name in ("laws", "ladders", "results", "probes")),
    )
