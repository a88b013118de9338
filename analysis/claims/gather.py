"""From a result table and a table of probes to evidence: means over seeds, their noise, and its joint draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims.estimands import LOSS, PPL, SCORES, Claim, LnTEff, ProbeValue, leaves
from analysis.claims.evidence import Evidence
from analysis.noise import moderated_within
from analysis.teff import ladders, reference_of, usable
from lab.errors import LabError

DRAWS = 4000
# By which a cell of unknown noise is moved.
STEP = 1e-3
PROBE_COLUMNS = ("run_id", "probe", "place", "language", "condition", "value", "at")


def gather(
    table: pd.DataFrame,
    claims: Sequence[Claim] = (),
    probes: pd.DataFrame | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Evidence:
    """Evidence from a result table and a table of probes.

    Args:
      table: rows of `lab.table`; one rule of learning rates (`analysis.teff.variants`).
      claims: whose measurements are wanted; ladders are only made where one of them reads TEff, or none is given.
      probes: rows of `lab.probes`, of which the columns `PROBE_COLUMNS` are read.
      draws: of the bootstrap.
      seed: of the draws.

    Raises:
      LabError: when no run is finished, a ladder has one seed twice, one evaluation set has different documents, or
        probes lack columns.
    """
    rows = usable(table)
    if rows.empty:
        raise LabError("The table has no finished run that a fit may use.", "Train some, or look at `exclusion`.")
    measured = _measurements(rows, claims, probes)
    groups = measured.groupby(["arm", "what", "language", "tokens_seen"], sort=False)
    cells = groups.agg(
        mean=("value", "mean"), seeds=("value", "size"), tokens=("tokens", "mean"),
        n_nonembedding=("n_nonembedding", "first"), parameters=("parameters", "first"),
        eval_hash=("eval_hash", "first"), bytes_per_token=("bytes_per_token", "first"), flops=("flops", "mean"),
        variance=("value", "var"),
    ).reset_index()  # fmt: skip
    references = {str(name): _reference(rows, str(name)) for name in rows.language.unique()}
    cells["reference"] = cells.language.map(references).fillna("")
    wanted = [leaf for claim in claims for leaf in leaves(claim.estimand)]
    found = ladders(rows) if not wanted or any(isinstance(leaf, LnTEff) for leaf in wanted) else {}
    noise = _noise(cells, measured, groups.ngroup().to_numpy())
    shifts, documents = _document_shifts(cells, rows, draws, seed)
    seeds = np.array(sorted(set(measured.seed)))
    weights = np.zeros((len(cells), len(seeds)))
    np.add.at(weights, (groups.ngroup().to_numpy(), np.searchsorted(seeds, measured.seed)), 1.0)
    weights /= weights.sum(axis=1, keepdims=True)
    weights[~cells.what.isin(SCORES).to_numpy()] = 0.0
    cells["variance"], cells["freedom"] = noise.variance, noise.freedom
    cells["error"] = np.sqrt(noise.variance / cells.seeds)
    rng = np.random.default_rng([seed, 1])
    known = np.isfinite(cells.error.to_numpy())[:, None]
    error = np.where(known, cells.error.to_numpy()[:, None], 0.0)
    arm = cells.groupby(["arm", "what"], sort=False).ngroup().to_numpy()
    run = rng.standard_normal((int(arm.max()) + 1, draws))[arm]
    own = rng.standard_normal((len(cells), draws))
    joint = error * (np.sqrt(noise.together) * run + np.sqrt(1 - noise.together) * own)
    joint += np.sqrt(noise.common) * weights @ rng.standard_normal((len(seeds), draws)) + shifts
    # A cell of unknown noise is moved all the same, to see which statistics rest on it.
    moved = np.diag(np.where(known, error, STEP)[:, 0])
    moves = np.concatenate([np.zeros((len(cells), 1)), moved, joint], axis=1)
    runs = {str(a): tuple(dict.fromkeys(part.run_id)) for a, part in measured.groupby("arm")}
    return Evidence(
        cells, weights, noise.common, noise.together, noise.total, found, documents, runs,
        cells["mean"].to_numpy()[:, None] + moves, shifts,
    )  # fmt: skip


def _measurements(rows: pd.DataFrame, claims: Sequence[Claim], probes: pd.DataFrame | None) -> pd.DataFrame:
    """Everything measured, one row for each run and language or probe."""
    found = pd.DataFrame(
        {
            "run_id": rows.run_id, "arm": rows.arm, "what": PPL, "language": rows.language, "seed": rows.seed_init,
            "value": np.log(rows.ppl.astype(float)), "tokens": rows.tokens_language.astype(float),
            "tokens_seen": rows.tokens_seen, "n_nonembedding": rows.n_nonembedding,
            "parameters": rows.n_nonembedding + rows.n_head, "eval_hash": rows.eval_hash,
            "bytes_per_token": rows.eval_bytes / rows.eval_tokens, "flops": rows.flops_exact.astype(float),
        }
    )  # fmt: skip
    if any(leaf.cell[0] == LOSS for claim in claims for leaf in leaves(claim.estimand)):
        plain = found.assign(what=LOSS, value=rows.loss.astype(float))
        found = pd.concat([found, plain], ignore_index=True)
    if probes is None:
        return found
    if missing := sorted(set(PROBE_COLUMNS) - set(probes.columns)):
        raise LabError(f"The table of probes lacks {', '.join(missing)}.", "Probe again with `lab probe`.")
    runs = rows.drop_duplicates("run_id").set_index("run_id")
    parts = [found]
    wanted = {leaf.what: leaf for c in claims for leaf in leaves(c.estimand) if isinstance(leaf, ProbeValue)}
    for what, leaf in wanted.items():
        values = leaf.values(probes)
        values = values[values.index.isin(runs.index)]
        of = runs.loc[values.index]
        parts.append(
            pd.DataFrame(
                {
                    "run_id": values.index, "arm": of.arm.to_numpy(), "what": what, "language": "",
                    "seed": of.seed_init.to_numpy(), "value": values.to_numpy(), "tokens": 0.0,
                    "tokens_seen": of.tokens_seen.to_numpy(), "n_nonembedding": 0, "parameters": 0,
                    "eval_hash": "", "bytes_per_token": np.nan, "flops": np.nan,
                }
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _reference(rows: pd.DataFrame, language: str) -> str:
    try:
        return reference_of(rows, language)
    except LabError:
        return ""


@dataclasses.dataclass(frozen=True, eq=False)
class _SeedNoise:
    """Noise of all cells: variance of one run's own effect [cells] and its freedom, see `Evidence` for the rest."""

    variance: np.ndarray
    freedom: np.ndarray
    common: float
    together: float
    total: int


def _noise(cells: pd.DataFrame, measured: pd.DataFrame, cell: np.ndarray) -> _SeedNoise:
    """Parts the spread between seeds into what a seed does to all arms and what is a run's own.

    Plain losses have the perplexities' common effect: both are nats a token of the same runs.
    """
    freedom = cells.seeds.to_numpy() - 1.0
    variance, own_freedom = np.full(len(cells), np.nan), np.zeros(len(cells))
    total, common, together = 0, 0.0, 0.0
    for what, rows in cells.groupby("what").indices.items():
        language = cells.language.to_numpy()[rows]
        noise = moderated_within(cells.variance.to_numpy()[rows], freedom[rows], language)
        if what in SCORES and noise.total and noise.variance.max() > 0:
            part = measured[np.isin(cell, rows)].assign(cell=cell[np.isin(cell, rows)])
            part = part[freedom[part.cell] > 0]
            part["left"] = part.value - part.groupby("cell").value.transform("mean")
            scale = pd.Series(noise.variance * freedom[rows] / (freedom[rows] + 1), rows)
            part["scale"] = np.sqrt(part.cell.map(scale))
            shared, left = _common(part)
            if shared > 0:
                part["left"] = left
                own = (left**2).groupby(part.cell).sum().reindex(rows).to_numpy() / np.maximum(freedom[rows], 1)
                noise = moderated_within(own, freedom[rows], language)
                scale = pd.Series(noise.variance * freedom[rows] / (freedom[rows] + 1), rows)
                part["scale"] = np.sqrt(part.cell.map(scale))
            if what == PPL:
                total, common, together = noise.total, shared, _together(part)
        variance[rows], own_freedom[rows] = noise.variance, noise.freedom
    return _SeedNoise(variance, own_freedom, common, together, total)


def _common(part: pd.DataFrame) -> tuple[float, pd.Series]:
    """Variance of what a seed does to all arms alike, by moments, and the residuals without it."""
    weight = 1 / part.scale**2
    arms, seeds = part.cell.nunique(), part.seed.nunique()
    if arms < 3 or seeds < 2:
        return 0.0, part.left
    effect = (part.left * weight).groupby(part.seed).sum() / weight.groupby(part.seed).sum()
    chance = float((1 / weight.groupby(part.seed).sum()).sum())
    variance = max(0.0, float((effect**2).sum()) - chance) / (seeds - 1)
    # What the common effect took from each cell's residuals by chance is given back.
    return variance, (part.left - part.seed.map(effect)) * np.sqrt(arms / (arms - 1))


def _together(part: pd.DataFrame) -> float:
    """Correlation of one run's residuals between its languages."""
    r = part.assign(r=part.left / part.scale).groupby("run_id").r
    pairs = float((r.size() * (r.size() - 1)).sum())
    if pairs == 0:
        return 0.0
    products = float((r.sum() ** 2 - r.apply(lambda v: (v**2).sum())).sum())
    return float(np.clip(products / pairs, 0.0, 1.0))


def _document_shifts(
    cells: pd.DataFrame, rows: pd.DataFrame, draws: int, seed: int
) -> tuple[np.ndarray, dict[str, int]]:
    """Change of each cell's plain loss [cells, draws] under resampled documents; documents of each evaluation set.

    A text that several vocabularies cut into tokens has one draw of its documents, and their sizes in one of them:
    so losses a byte are paired by document, as losses a token are within a vocabulary.
    """
    shifts, counts = np.zeros((len(cells), draws)), {}
    where: dict[tuple[Any, ...], list[int]] = {}
    for i, c in enumerate(cells.itertuples()):
        if c.what in SCORES:
            where.setdefault((c.arm, c.language, c.tokens_seen), []).append(i)
    texts: dict[tuple[Any, ...], tuple[int, np.ndarray]] = {}
    for number, (text, part) in enumerate(sorted(rows.groupby("eval_hash"), key=lambda item: str(item[0]))):
        part = part[part.document_nats.notna() & part.document_tokens.notna()]
        targets = {tuple(t) for t in part.document_tokens}
        if len(targets) > 1:
            raise LabError(
                f"Evaluation set {text} has {len(targets)} different lists of documents.",
                "Runs scored on other documents are no pair: keep the runs of one version.",
            )
        if not targets or len(next(iter(targets))) < 2:
            continue
        own = np.array(next(iter(targets)), float)
        counts[str(text)] = len(own)
        same_text = (min(part.language), len(own), int(part.eval_bytes.iloc[0]))
        number, weighs = texts.setdefault(same_text, (number, own))
        sizes = weighs * (own.sum() / weighs.sum())
        rng = np.random.default_rng([seed, 2, number])
        drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), draws).astype(float)
        keys, nats = [], []
        for _, same in part.groupby(["arm", "language", "tokens_seen"]):
            first = same.iloc[0]
            mean = np.mean(np.stack([np.asarray(n, float) for n in same.document_nats]), axis=0)
            for key in where[first.arm, first.language, first.tokens_seen]:
                keys.append(key)
                nats.append(mean)
        stacked = np.stack(nats)
        base = stacked.sum(axis=1, keepdims=True) / sizes.sum()
        shifts[keys] = (stacked @ drawn.T) / (drawn @ sizes) - base
    return shifts, counts
