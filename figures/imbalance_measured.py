"""The measured side of the imbalance study's figures, from its result table and the table of its probes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.teff import Measured, measure, readable, usable, variants
from figures.drawing import count
from figures.imbalance_sides import LADDERS, PROBES, RESULTS, Side, empty
from lab.errors import LabError
from lab.table import COLUMNS, read_table

KEYS = ["arm", "times", "size"]


@dataclasses.dataclass(frozen=True)
class Own:
    """What a result table holds.

    Attributes:
      table: all its rows.
      tuned: the side of the arms at tuned learning rates.  fixed: at the paper's rate; empty where none ran at it.
      excluded: rows that a rule excludes, or that have no perplexity.
    """

    table: pd.DataFrame
    tuned: Side
    fixed: Side
    excluded: pd.DataFrame

    @classmethod
    def nothing(cls) -> Own:
        """Where there is no table."""
        rows = pd.DataFrame(columns=list(COLUMNS))
        return cls(rows, Side("measured"), Side("measured at the paper's rate"), rows)


def measured(table: Path, probes: Path | None = None, again: str = "") -> Own:
    """Reads a result table of the study, and the table of its probes where there is one.

    Arms whose names end in `again` ran a second time, at the paper's learning rate.

    Raises:
      LabError: for a table that is not the study's, or is damaged.
    """
    rows = read_table(table)
    strange = [arm for arm in rows.arm.unique() if _parsed(arm.removesuffix(again)) is None]
    if strange:
        raise LabError(
            f"{table} has the arm {strange[0]!r}, which is none of the imbalance study.",
            "Give a table of `lab sweep collect imbalance`.",
        )
    kept = usable(rows)
    roles = _roles(kept)
    plain, second = variants(kept, again) if again else (kept, kept.iloc[:0])
    found = None if probes is None else pd.read_parquet(probes)
    return Own(
        table=rows,
        tuned=_side("measured", plain, roles, found),
        fixed=_side("measured at the paper's rate", second, roles, None),
        excluded=rows[~rows.index.isin(kept.index)],
    )


def _side(title: str, rows: pd.DataFrame, roles: Mapping[int, str], probes: pd.DataFrame | None) -> Side:
    if rows.empty:
        return Side(title)
    whole = readable(rows)  # under the arms' full names: each is a cell of noise of its own
    worth = measure(whole) if len(whole) else None
    rows = _with_cells(rows, roles)
    tokens = float((rows.tokens_seen / rows.times).median())
    return Side(
        title=title,
        sizes={role: count(n) for n, role in sorted(roles.items())},
        tokens=tokens,
        results=_results(rows, worth),
        ladders=_ladders(rows, tokens),
        laws={} if worth is None else {(roles[n], name): l.law for (name, n), l in worth.ladders.items() if n in roles},
        probes=empty(PROBES) if probes is None else _probes(probes, rows),
        remarks=() if worth is None else tuple(_remarks(worth, roles)),
    )


def _parsed(arm: str) -> tuple[str, float] | None:
    """What an arm trains, and its tokens in units of T; an arm's name is `<what>, <times> T, <size>`."""
    parts = arm.rsplit(", ", 2)
    if len(parts) != 3 or not parts[1].endswith(" T"):
        return None
    try:
        return parts[0], float(parts[1][:-2])
    except ValueError:
        return None


def _with_cells(rows: pd.DataFrame, roles: Mapping[int, str]) -> pd.DataFrame:
    """Rows under the names of cells: what is trained, tokens in units of T, and the size's role."""
    cells = {name: _parsed(name) or (name, np.nan) for name in rows.arm.unique()}
    return rows.assign(
        arm=[cells[name][0] for name in rows.arm],
        times=[cells[name][1] for name in rows.arm],
        size=rows.n_nonembedding.map(roles),
    )


def _roles(rows: pd.DataFrame) -> dict[int, str]:
    """By n_nonembedding: the size with most arms is the main one, the next below and above are the side sizes."""
    if rows.empty:
        return {}
    arms = rows.groupby("n_nonembedding").arm.nunique()
    sizes = arms.index.to_numpy(int)
    main = int(sizes[arms.to_numpy().argmax()])
    below, above = sizes[sizes < main], sizes[sizes > main]
    return {
        main: "main",
        **({int(below.max()): "smaller"} if below.size else {}),
        **({int(above.min()): "larger"} if above.size else {}),
    }


def _results(rows: pd.DataFrame, worth: Measured | None) -> pd.DataFrame:
    """One row a cell and language, seeds together."""
    mixed = rows[rows.mixture.str.contains(" ")].assign(share=lambda t: t.tokens_language / t.tokens_seen)
    columns = ["run_id", "language", "teff", "bound", "teff_local", "bound_local", "misfit"]
    known = pd.DataFrame(columns=columns) if worth is None else worth.frame[columns]
    mixed = mixed.merge(known, on=["run_id", "language"], how="left")
    local = mixed.misfit.eq(True)
    mixed["worth"] = mixed.teff_local.where(local, mixed.teff).astype(float)
    mixed["kind"] = mixed.bound_local.where(local, mixed.bound)
    if mixed.empty:
        return empty(RESULTS)
    found = []
    for (arm, times, size, language), part in mixed.groupby([*KEYS, "language"], sort=False):
        bounds = [k for k in part.kind.dropna() if k != "exact"]
        found.append(
            {
                "arm": arm, "times": times, "size": size, "language": language, "share": part.share.mean(),
                **_of_seeds("ppl", part.ppl), **_of_seeds("teff", part.worth),
                "teff_kind": bounds[0] if bounds else "exact", "seeds": len(part), "runs": tuple(part.run_id),
            }
        )  # fmt: skip
    return pd.DataFrame(found)[RESULTS]


def _of_seeds(name: str, values: pd.Series) -> dict[str, object]:
    """Geometric mean, lowest and highest."""
    mean = float(np.exp(np.log(values.astype(float)).mean()))
    return {name: mean, f"{name}_low": values.min(), f"{name}_high": values.max(), f"{name}_exact": True}


def _ladders(rows: pd.DataFrame, tokens: float) -> pd.DataFrame:
    alone = rows[~rows.mixture.str.contains(" ")]
    found = [
        {"size": size, "language": language, "x": times, **_of_seeds("ppl", part.ppl), "runs": tuple(part.run_id)}
        for (size, language, times), part in alone.groupby(["size", "language", "times"], sort=True)
    ]
    return pd.DataFrame(found)[LADDERS] if found else empty(LADDERS)


def _probes(probes: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, place, language and condition at the runs' ends: mean of the seeds, lowest and highest."""
    cells = rows.drop_duplicates("run_id").set_index("run_id")[KEYS]
    probes = probes[probes["at"] == 1].drop(columns="arm").join(cells, on="run_id", how="inner")
    if probes.empty:
        return empty(PROBES)
    by = ["probe", *KEYS, "place", "language", "condition"]
    groups = probes.groupby(by, sort=False, dropna=False)
    found = groups.value.agg(["mean", "min", "max"]).set_axis(["value", "value_low", "value_high"], axis=1)
    found["runs"] = [tuple(sorted(set(part.run_id))) for _, part in groups]
    return found.reset_index().assign(value_exact=True, value_kind="exact")[PROBES]


def _remarks(worth: Measured, roles: Mapping[int, str]) -> list[str]:
    """By which curve TEff is read, and how well the token law fits."""
    said = []
    for (language, n), ladder in worth.ladders.items():
        if n not in roles:
            continue
        how = "by local interpolation, since the token law misfits" if ladder.misfit else "by the token law"
        said.append(
            f"{language} at the {roles[n]} size: TEff {how}; largest residual of the law on "
            f"{len(ladder.points)} budgets {ladder.worst_residual:.2%}."
        )
    return said
