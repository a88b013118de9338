"""The paper's own numbers made again: TEff from its perplexities, tokens and laws, and its laws from its points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis import fit
from analysis.reference import TokenLaw
from figures.imbalance_sides import reference
from figures.published import RECOVERED, Published

# What the digits of the recovered a, b, c leave of TEff; and what reading a plot leaves of a law.
TEFF_AGREES = 3e-6
LAW_AGREES = 5e-3
DIGITS = 5e-7  # half a unit of the last of the six decimals that the notebook prints


def recomputed(found: Published) -> pd.DataFrame:
    """MLTE and TEff of every run whose perplexity is exact, from its perplexity, its tokens and (a, b, c).

    Returns a frame of arm, times, language, ppl, own (tokens of the language, in T), mlte (in T), teff, printed, error
    (relative difference of the two TEff), allowed (what recovery and the printed digits leave of it).
    """
    rows = found.results[(found.results.ppl_evidence == "N") & (found.results["size"] == "main")].copy()
    laws = {row["language"]: row for row in found.laws[found.laws["size"] == "main"].to_dict("records")}
    rows["own"] = rows.share * rows.steps / found.steps
    mlte = []
    for ppl, language in zip(rows.ppl, rows.language, strict=True):
        law = _law(laws[reference(language)], found.tokens)
        mlte.append(float(law.worth(np.log(ppl)).tokens) / found.tokens)
    rows = rows.assign(mlte=mlte, printed=rows.teff)
    rows["teff"] = rows.mlte / rows.own
    rows["error"] = rows.teff / rows.printed - 1
    rows["allowed"] = np.maximum(TEFF_AGREES, DIGITS / rows.printed)
    columns = ["arm", "times", "language", "ppl", "own", "mlte", "teff", "printed", "error", "allowed"]
    return rows[columns].reset_index(drop=True)


def _law(row: Mapping[Any, Any], tokens: float) -> TokenLaw:
    return TokenLaw.of({name: float(row[name]) for name in "abc"}, tokens)


def refitted(found: Published) -> pd.DataFrame:
    """The law fitted to the digitised monolingual points of each size and language, beside the paper's law.

    Returns a frame of size, language, points, a, b, c, evidence (of the paper's law), apart (largest relative
    difference of the two laws' perplexities between the first and the last point).
    """
    found_rows = []
    for law in found.laws.to_dict("records"):
        rows = found.ladders[(found.ladders["size"] == law["size"]) & (found.ladders.language == law["language"])]
        rows = rows[rows.evidence == "D"]
        tokens = rows.x.to_numpy(float) * found.tokens
        again = fit(pd.DataFrame({"D": tokens, "loss": np.log(rows.ppl)}), "reciprocal-perplexity").params
        x = np.geomspace(tokens.min(), tokens.max(), 400)
        apart = np.expm1(_law(again, found.tokens).log_ppl(x) - _law(law, found.tokens).log_ppl(x))
        found_rows.append(
            {
                "size": law["size"], "language": law["language"], "points": len(rows),
                **{name: again[name] for name in "abc"},
                "evidence": law["evidence"], "apart": float(np.max(np.abs(apart))),
            }
        )  # fmt: skip
    return pd.DataFrame(found_rows)


def regenerated(found: Published) -> str:
    """Both checks as text for the terminal."""
    return "\n".join(
        [
            "TEff from published perplexity, tokens and (a, b, c):",
            recomputed(found).to_string(index=False, float_format=lambda v: f"{v:.7g}"),
            "",
            "Laws fitted to the digitised points, beside the paper's:",
            refitted(found).to_string(index=False, float_format=lambda v: f"{v:.4g}"),
        ]
    )


def verdict(found: Published) -> str:
    """What both checks say, in a paragraph."""
    worths, laws = recomputed(found), refitted(found)
    exact = laws[laws.evidence == RECOVERED]
    whole = worths[worths.allowed == TEFF_AGREES]  # the others are printed with fewer digits than that
    return (
        f"The paper's own numbers come back: {len(worths)} TEff recomputed from its perplexities, tokens and (a, b, c) "
        f"agree with the printed ones to {whole.error.abs().max():.1g}, relative; the laws fitted to "
        f"{' and '.join(map(str, exact.points))} digitised monolingual points lie within "
        f"{exact.apart.max():.2%} of the recovered ones."
    )
