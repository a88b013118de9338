"""What the runs of a table are to each other: sources, runs from scratch, and runs that continue a source.

Roles follow from columns alone: whose weights a run began with (`parent` and `group`: a cooldown branch begins where
its trunk began), and what it reads (`mixture`). Names of arms are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from lab.errors import LabError

Role = Literal["source", "scratch", "joint", "cpt"]
SOURCE = "source"
READ = ("run_id", "arm", "language", "mixture", "parent", "parent_tokens", "group", "n_nonembedding", "n_head")
# One row a run of `points`; see there.
POINTS = [
    "run_id", "arm", "role", "replay", "text", "setting", "N", "D", "tokens_seen", "C", "flops_exact", "loss",
    "bits_per_byte", "target_bytes", "parent_run", "parent_N", "parent_D", "parent_C", "cluster", "seed",
]  # fmt: skip
# Runs that agree in these differ in their seeds alone.
CELL = ["role", "text", "setting", "replay", "N", "D", "parent_D"]


def shares(mixture: str, arm: str = "") -> dict[str, float]:
    """Language -> share of a mixture in the words of the table, `source:0.05 target:0.95`.

    Raises:
      LabError: for a mixture of several stages, or one that cannot be read.
    """
    if " -> " in mixture:
        raise LabError(
            f"The arm {arm!r} has a mixture in stages ({mixture}).", "Roles are read from one mixture a run."
        )
    try:
        return {name: float(share) for name, _, share in (part.rpartition(":") for part in mixture.split())}
    except ValueError:
        raise LabError(f"The arm {arm!r} has the mixture {mixture!r}, which cannot be read.") from None


def origins(table: pd.DataFrame) -> pd.Series:
    """By run_id, the run whose weights its trajectory began with; null for random parameters.

    A cooldown branch (a run of another run's `group`) began where its trunk began.

    Raises:
      LabError: when a branch's trunk is not in the table.
    """
    runs = table.drop_duplicates("run_id").set_index("run_id")
    trunks = runs.group.where(runs.group != runs.index)
    wanted = trunks.dropna()
    if len(lost := wanted[~wanted.isin(runs.index)]):
        raise LabError(
            f"The arm {runs.arm[lost.index[0]]!r} is a branch of run {lost.iloc[0]}, which is not in the table: what "
            "it began with is not known.",
            "Keep the trunks' rows: collect the whole study.",
        )
    own = runs.parent.astype(object).where(runs.parent.notna(), None)
    roots = trunks.where(trunks.notna(), pd.Series(runs.index, runs.index))
    return pd.Series(own.reindex(roots).to_numpy(), runs.index)


def trunks(table: pd.DataFrame) -> pd.Series:
    """By row, whether the run is one that others branch off, whose rate was never annealed."""
    branched = set(table.group[table.group != table.run_id])
    return table.run_id.isin(branched) & (table.schedule == "constant")


def roles(table: pd.DataFrame, source: str = SOURCE) -> pd.DataFrame:
    """The rows of a result table with what each run is.

    Args:
      table: rows of `lab.table`.
      source: the language that sources read.

    Returns:
      The rows, with further columns: `role` (source; scratch: the target alone from random parameters; joint: both from
      random parameters; cpt: continues another run's weights), `replay` (share of the source in a cpt run), `target`
      (language beside the source), `trunk`, `parent_run`, `parent_N` (tied count), `parent_D` (tokens it had seen),
      `parent_C` (its 6ND FLOPs up to there), and `N` (tied count, to which `flops_6nd` belongs).

    Raises:
      LabError: for missing columns, a mixture that cannot be read or has two targets, a missing trunk or parent, a
        parent of another size, and a run that starts from one that never read the source.
    """
    if missing := [name for name in READ if name not in table.columns]:
        raise LabError(f"The table lacks {', '.join(missing)}: roles cannot be told.", "Give a table of `lab collect`.")
    begun = origins(table)
    runs = table.drop_duplicates("run_id").set_index("run_id")
    found = pd.DataFrame([_role(run, runs, begun, source) for run in runs.index], index=runs.index)
    return table.assign(trunk=trunks(table)).join(found, on="run_id")


def _role(run: Any, runs: pd.DataFrame, begun: pd.Series, source: str) -> Mapping[str, Any]:
    row = runs.loc[run]
    arm, read = str(row.arm), shares(row.mixture, str(row.arm))
    others = [name for name in read if name != source]
    if len(others) > 1:
        raise LabError(
            f"The arm {arm!r} reads {' and '.join(others)} beside {source}: it has two targets.",
            f"Name the source: roles(table, source=...), or keep runs of {source} and one other language.",
        )
    target = others[0] if others else ""
    of_source = read.get(source, 0.0)
    size = int(row.n_nonembedding + row.n_head)
    shared = {"N": size, "target": target}
    parent = begun[run]
    if parent is None or pd.isna(parent):
        role: Role = "source" if of_source == 1 else "scratch" if of_source == 0 else "joint"
        return {**shared, "role": role, "replay": 0.0, "parent_run": None, "parent_N": None, "parent_D": None,
                "parent_C": None}  # fmt: skip
    if parent not in runs.index:
        raise LabError(
            f"The arm {arm!r} starts from run {parent}, which is not in the table.",
            "Keep the parents' rows: collect the whole study.",
        )
    above = runs.loc[parent]
    if shares(above.mixture, str(above.arm)).get(source, 0.0) == 0 and pd.isna(begun[parent]):
        raise LabError(
            f"The arm {arm!r} continues {above.arm!r}, which never read {source}.",
            f"Name the source language: roles(table, source=...) in place of {source!r}.",
        )
    of_parent = int(above.n_nonembedding + above.n_head)
    if int(above.n_nonembedding) != int(row.n_nonembedding):
        raise LabError(
            f"The arm {arm!r} has {int(row.n_nonembedding):,} parameters in its layers, its parent {above.arm!r} has "
            f"{int(above.n_nonembedding):,}.",
            "One of the two is another study's run.",
        )
    seen = row.parent_tokens if row.group == run else runs.parent_tokens[row.group]
    tokens = float(seen if pd.notna(seen) else above.tokens_seen)
    return {**shared, "role": "cpt", "replay": of_source, "parent_run": parent, "parent_N": of_parent,
            "parent_D": tokens, "parent_C": 6.0 * of_parent * tokens}  # fmt: skip


def points(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a finished run in its target language, trunks left out: what laws and savings are read from.

    Args:
      rows: of `roles`.

    Returns:
      The columns POINTS: `text` (hash of the evaluation set: runs of one text compare), `setting` (as the arm's name
      says it, for people), `N` (tied), `D` (tokens of the target, as realised), `C` (6ND of all tokens), `loss` (nats
      per token of the target), `target_bytes` (bytes of the target read, by the evaluation set's bytes a token), and
      `cluster`: a size with everything trained at it, the unit that intervals redraw.
    """
    from analysis.continual.names import setting

    kept = rows[(rows.status == "done") & rows.exclusion.isna() & rows.loss.notna() & ~rows.trunk]
    kept = kept[
        (kept.language == kept.target) & kept.role.isin(["scratch", "joint", "cpt"]) & (kept.tokens_language > 0)
    ]
    found = kept.assign(
        text=kept.eval_hash, setting=[setting(arm) for arm in kept.arm], D=kept.tokens_language.astype(float),
        C=kept.flops_6nd.astype(float), target_bytes=kept.tokens_language * kept.eval_bytes / kept.eval_tokens,
        cluster=kept.N.astype(str), seed=kept.seed_init,
    )  # fmt: skip
    numbers = ["N", "parent_N", "parent_D", "parent_C"]
    return found[POINTS].astype(dict.fromkeys(numbers, float)).reset_index(drop=True)


def main_text(runs: pd.DataFrame) -> str:
    """The target text with most sizes and budgets of continued runs: the one that laws are fitted to.

    Raises:
      LabError: when no text has runs both from scratch and continued.
    """
    both = set(runs.text[runs.role == "scratch"]) & set(runs.text[runs.role == "cpt"])
    if not both:
        raise LabError(
            "No target has runs from scratch as well as continued ones.",
            "Train both on the same text: without the anchor from scratch a continued run says nothing.",
        )
    cells = runs[runs.text.isin(both) & (runs.role == "cpt")].groupby("text")[["N", "D"]]
    return str(cells.apply(lambda part: len(part.drop_duplicates())).idxmax())


def averaged(runs: pd.DataFrame) -> pd.DataFrame:
    """Seeds together: one row a cell (CELL) of runs of `points`, with their means, `seeds`, and `runs` (their ids)."""
    means = ["loss", "bits_per_byte", "C", "flops_exact", "tokens_seen", "target_bytes", "parent_C"]
    rest: dict[str, Any] = {name: (name, "mean") for name in means}
    rest |= {"arm": ("arm", "first"), "seeds": ("run_id", "size"), "runs": ("run_id", tuple)}
    return runs.groupby(CELL, as_index=False, dropna=False).agg(**rest)


def ladder(runs: pd.DataFrame, text: str | None = None) -> pd.DataFrame:
    """The runs that laws are fitted to: from scratch, and continued without replay, on one text (`main_text`).

    Where a size has continued runs from several lengths of its parent, or under several settings, those of the length
    and setting with most budgets are kept: laws know nothing of the parent.
    """
    text = text or main_text(runs)
    kept = runs[(runs.text == text) & ((runs.role == "scratch") | ((runs.role == "cpt") & (runs.replay == 0)))]
    continued = kept[kept.role == "cpt"]
    budgets = continued.groupby(["N", "setting", "parent_D"]).D.nunique().reset_index()
    best = budgets.sort_values(["D", "setting", "parent_D"], ascending=[False, True, False]).drop_duplicates("N")
    chosen = continued.merge(best[["N", "setting", "parent_D"]], on=["N", "setting", "parent_D"])
    plain = kept[kept.role == "scratch"]
    names = plain.groupby("N").setting.agg(lambda s: s.mode().iloc[0])
    plain = plain[plain.setting == plain.N.map(names)]
    return pd.concat([plain, chosen], ignore_index=True)
