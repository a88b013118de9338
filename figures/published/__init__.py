"""Published numbers that figures show beside measured ones, as data with their source and evidence.

One JSON file a study. Every number in it is marked: P printed in the paper, N exact in the authors' notebook, D
digitised from their plots (with the error of reading, where one is known), R recovered by algebra from exact numbers.
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


@dataclasses.dataclass(frozen=True)
class PublishedContinual:
    """The numbers of arXiv:2407.02118. The frames' columns are the keys of the file's rows.

    Attributes:
      path: the file.
      paper: what was read.
      notes: by artefact, what a reader of its numbers must know.
      laws: Table 2, a row a role: E, A, B, alpha, beta, gamma; N* = kN C^a, D* = kD C^b.
      frontiers: L = coefficient C^exponent, a row a role.
      constants: G of equations 2 and 5, a row a role.
      savings: share of FLOPs saved at equal loss, by the frontiers, at five budgets of the scratch run.
      errors: Table 3.
      facts: single numbers of the text, by name.
      sets: Table 1.
      architectures: Table 4: millions, width, ffn (as printed), heads, layers.
    """

    path: Path
    paper: Mapping[str, str]
    notes: Mapping[str, str]
    laws: pd.DataFrame
    frontiers: pd.DataFrame
    constants: pd.DataFrame
    savings: pd.DataFrame
    errors: pd.DataFrame
    facts: pd.DataFrame
    sets: pd.DataFrame
    architectures: pd.DataFrame

    def fact(self, name: str) -> float:
        """A single number of the text."""
        return float(self.facts.set_index("name").value[name])

    def law(self, role: str) -> dict[str, float]:
        """Parameters of the printed law of a role, in the names of the law `cpt`."""
        row = next(row for row in self.laws.to_dict("records") if row["role"] == role)
        return {name: float(row[name]) for name in ("E", "A", "B", "alpha", "beta", "gamma")}

    @property
    def evidence(self) -> pd.Series:
        """The mark of every number."""
        rows = (self.laws, self.frontiers, self.constants, self.savings, self.errors, self.facts, self.sets)
        return pd.concat([frame.evidence for frame in rows], ignore_index=True)


def continual() -> PublishedContinual:
    """Continual pre-training, arXiv:2407.02118: all that its figures 1 to 6 and tables 1 to 4 print."""
    path = Path(__file__).with_name("continual.json")
    form: dict[str, Any] = json.loads(path.read_text())
    frames = ("laws", "frontiers", "constants", "savings", "errors", "facts", "sets", "architectures")
    return PublishedContinual(path, form["paper"], form["notes"], *(pd.DataFrame(form[name]) for name in frames))
