"""What a continued run forgets of its source, and what replaying a share of it does: curves, and a law of forgetting.

FLOPs of a language are the run's FLOPs times the language's share of its tokens, as in arXiv:2407.02118, Figure 5.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from analysis.continual.names import setting
from analysis.continual.roles import SOURCE
from analysis.fitting import fit
from analysis.result import Fit
from lab.errors import LabError


def replayed(rows: pd.DataFrame, source: str = SOURCE) -> pd.DataFrame:
    """Loss along every continued run in both of its languages, by FLOPs of that language.

    Args:
      rows: of `analysis.continual.roles.roles`.

    Returns a frame of run_id, arm, setting, N, replay, text, target_tokens (of the whole run), language (`source` or
    `target`), flops (of that language so far), total (FLOPs so far), loss; ordered along each run. The point at 0 is
    the parent's loss in the source, where it was evaluated. A cooldown branch begins with its trunk's curve.
    """
    trunk = rows[rows.trunk].set_index(["run_id", "language"])
    done = rows[(rows.role == "cpt") & (rows.status == "done") & rows.exclusion.isna() & ~rows.trunk]
    starts = rows[(rows.language == source) & rows.loss.notna()].set_index("run_id").loss
    text = rows[rows.language == rows.target].drop_duplicates("run_id").set_index("run_id")
    found = []
    for row in done.to_dict("records"):
        run, mine = row["run_id"], row["language"] == source
        loss = np.asarray(row["eval_curve_loss"], float)
        tokens = np.asarray(row["eval_curve_tokens"], float)
        if (before := (row["group"], row["language"])) in trunk.index and len(tokens):
            earlier = np.asarray(trunk.eval_curve_tokens[before], float)
            shared = earlier < tokens[0]
            tokens = np.concatenate([earlier[shared], tokens])
            loss = np.concatenate([np.asarray(trunk.eval_curve_loss[before], float)[shared], loss])
        total = tokens / row["tokens_seen"] * row["flops_6nd"]
        if mine and row["parent_run"] in starts.index:
            total, loss = np.concatenate([[0.0], total]), np.concatenate([[starts[row["parent_run"]]], loss])
        found.append(pd.DataFrame({
            "run_id": run, "arm": row["arm"], "setting": setting(row["arm"]), "N": float(row["N"]),
            "replay": row["replay"],
            "text": text.eval_hash[run], "target_tokens": float(text.tokens_language[run]),
            "language": "source" if mine else "target",
            "flops": total * row["tokens_language"] / row["tokens_seen"], "total": total, "loss": loss,
        }))  # fmt: skip
    columns = ["run_id", "arm", "setting", "N", "replay", "text", "target_tokens", "language", "flops", "total", "loss"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def forgetting(rows: pd.DataFrame, source: str = SOURCE) -> pd.DataFrame:
    """What each continued run forgot: its loss in the source beside its parent's.

    Returns a frame of run_id, arm, setting, N, D (tokens of the target), replay, text, L0 (the parent's loss), loss (at
    the end), peak (the highest on the way), rise (loss - L0), ends_below (loss < L0), parent_D.

    Raises:
      LabError: when continued runs were not evaluated in the source, or their parents were not.
    """
    done = rows[(rows.role == "cpt") & (rows.status == "done") & rows.exclusion.isna() & ~rows.trunk]
    own = done[done.language == source].set_index("run_id")
    target = done[done.language == done.target].set_index("run_id")
    before = rows[(rows.language == source) & rows.loss.notna()].drop_duplicates("run_id").set_index("run_id").loss
    known = own[own.parent_run.isin(before.index)]
    if known.empty:
        raise LabError(
            f"No continued run and its parent were both evaluated in {source}: nothing says what was forgotten.",
            f"Give the mixtures a component {source} with share 0, so that it is evaluated.",
        )
    start = known.parent_run.map(before).astype(float)
    peak = [max([first, *map(float, curve)]) for first, curve in zip(start, known.eval_curve_loss, strict=True)]
    return pd.DataFrame({
        "run_id": known.index, "arm": known.arm, "setting": [setting(a) for a in known.arm],
        "N": known.N.astype(float), "seed": known.seed_init,
        "D": target.tokens_language.reindex(known.index).astype(float), "replay": known.replay,
        "text": target.eval_hash.reindex(known.index), "L0": start, "loss": known.loss, "peak": peak,
        "rise": known.loss - start, "ends_below": known.loss < start, "parent_D": known.parent_D.astype(float),
    }).reset_index(drop=True)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class ForgettingLaw:
    """L = L0 + A D^beta / ((1 + B p) N)^alpha (Bethune et al., arXiv:2502.06042) on the losses in the source.

    Attributes:
      fit: None where it is refused.
      refused: why, in words; empty otherwise.
      left_out: runs that ended below their parent's loss, which the form cannot have.
    """

    fit: Fit | None
    refused: str
    left_out: int


def forgetting_law(found: pd.DataFrame) -> ForgettingLaw:
    """Fits the law to runs of `forgetting` with a rise above 0; refused where the runs do not identify it."""
    above = found[found.rise > 0]
    left = len(found) - len(above)
    table = pd.DataFrame({"N": above.N, "D": above.D, "p": above.replay, "L0": above.L0, "loss": above.loss,
                          "size": above.N.astype(str)})  # fmt: skip
    try:
        one = fit(table, "bethune-pretraining", cluster="size")
    except LabError as error:
        return ForgettingLaw(None, str(error), left)
    if not one.identified:
        return ForgettingLaw(None, "; ".join(flag.text for flag in one.flags), left)
    return ForgettingLaw(one, "", left)
