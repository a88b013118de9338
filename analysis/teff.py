"""Token efficiency from a result table: what each language of each mixed run is worth in tokens of it alone.

    found = measure(table)                   # a frame of lab.table rows
    found.frame                              # one row for each run and language: ppl, mlpe, mlte, teff, bounds, ...
    found.ladder("l1", n_nonembedding)       # its monolingual reference: points, law, residuals, local curve

The monolingual runs of one language at one size are its *ladder*. Through it goes the token law of arXiv:2404.07982,

    1/PPL = -a x^-b + c,    MLTE = x(PPL),    TEff = MLTE / tokens of the language,    MLPE = PPL(tokens)

and beside it a *local* curve, a monotone interpolation of ln PPL in ln tokens, which has no form that could be wrong
but knows nothing outside the ladder. Where the law misfits the ladder (`Ladder.misfit`) believe the local curve.

A perplexity above the law's pole or at its ceiling 1/c has no equivalent: there the number is a bound, and says so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.batch import Batch, describe
from analysis.fitting import View, fit
from analysis.intervals import solve_checked, starts_of
from analysis.noise import moderated
from analysis.reference import KINDS, LocalCurve, TokenLaw
from analysis.result import Fit
from lab.errors import LabError

LEAST_BUDGETS = 4
# A law misfits where a residual exceeds this many standard errors of the point.
MISFIT = 2.0
# Rows that agree in these are of one size.
SIZE = ["family", "n_layers", "d_model", "n_nonembedding"]
# Evaluations that agree in these are of one text, in ids of their own or not.
TEXT = ["tokenizer_hash", "eval_hash"]


@dataclasses.dataclass(frozen=True, eq=False)
class Ladder:
    """The monolingual runs of one language at one size.

    Attributes:
      language: of the runs.
      rows: of the table.
      points: a row for each budget, rising: arm, tokens, ppl (geometric mean over seeds), seeds, residual (ln of
        measured over law), noise (standard error of ln ppl, NaN where nothing is known of it).
      fit: the token law through the points, weighted by their seeds.
    """

    language: str
    rows: pd.DataFrame
    points: pd.DataFrame
    fit: Fit

    @property
    def n_nonembedding(self) -> int:
        return int(self.rows.n_nonembedding.iloc[0])

    @functools.cached_property
    def law(self) -> TokenLaw:
        return TokenLaw.of(self.fit.params_of(), float(self.points.tokens.max()))

    @functools.cached_property
    def local(self) -> LocalCurve:
        return self.local_of(np.log(self.points.ppl.to_numpy())[:, None])

    @property
    def span(self) -> tuple[float, float]:
        """Least and most tokens of its runs."""
        return float(self.points.tokens.min()), float(self.points.tokens.max())

    @property
    def worst_residual(self) -> float:
        """Largest |measured / law - 1| of the points' perplexities."""
        return float(np.max(np.abs(np.expm1(self.points.residual))))

    @property
    def misfit(self) -> bool:
        """Whether a residual exceeds twice its noise, or nothing is known of the noise."""
        return not bool((self.points.residual.abs() <= MISFIT * self.points.noise).all())

    def law_of(self, log_ppl: np.ndarray) -> TokenLaw:
        """The law refitted to draws of the points' ln PPL [n, R]."""
        view = View.of(self.fit.problem, self.fit.table)
        starts = starts_of(self.fit, view)
        y = np.exp(-log_ppl.T)
        batch = Batch(y, view.w, np.broadcast_to(starts, (len(y), *starts.shape)), {})
        z, *_ = solve_checked(view, batch, 0)
        params, _ = describe(self.fit.problem, view.points, batch, z)
        return TokenLaw.of(params, self.law.reach)

    def local_of(self, log_ppl: np.ndarray) -> LocalCurve:
        """The local curve through draws of the points' ln PPL [n, R]."""
        return LocalCurve.through(self.points.tokens.to_numpy(), log_ppl, self.points.seeds.to_numpy(float))


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Every run of a table read against its ladders.

    Attributes:
      ladders: (language, n_nonembedding) -> ladder.
      frame: one row for each run and evaluation language:
        run_id, arm, language, reference (language of its ladder), alone (a monolingual run), seed, n_nonembedding,
        tokens_seen, tokens_language, share, ppl;
        mlpe, mlte, teff, bound ("exact", "at most", "at least") by the law;
        mlpe_local (NaN outside the ladder), mlte_local, teff_local, bound_local by the local curve;
        extrapolated (the law was asked outside the ladder's budgets), misfit (of the ladder's law).
    """

    ladders: Mapping[tuple[str, int], Ladder]
    frame: pd.DataFrame

    def ladder(self, language: str, n_nonembedding: int) -> Ladder:
        """The ladder that `language`, or the text it is a clone of, is read against at a size.

        Raises:
          LabError: when the table has none.
        """
        same = self.frame.loc[self.frame.language == language, "reference"]
        key = (str(same.iloc[0]) if len(same) else language, n_nonembedding)
        if key not in self.ladders:
            known = ", ".join(f"{lang} at {n:,} parameters" for lang, n in self.ladders)
            raise LabError(f"There is no ladder of {key[0]} at {n_nonembedding:,} parameters.", f"There is: {known}.")
        return self.ladders[key]


def measure(table: pd.DataFrame) -> Measured:
    """Reads every usable row of a result table against the ladder of its language and size.

    Args:
      table: rows of `lab.table`; see `variants` for one with two rules of learning rates, `readable` for one that is
        not whole yet.

    Raises:
      LabError: when a ladder is missing, naming the arms it would need and those that cannot be read without it.
    """
    rows = usable(table)
    found = ladders(rows)
    references = {str(language): reference_of(rows, str(language)) for language in rows.language.unique()}
    rows["reference"] = rows.language.map(references)
    parts = []
    for _, part in rows.groupby(["reference", "n_nonembedding"], sort=False):
        key = (str(part.reference.iloc[0]), int(part.n_nonembedding.iloc[0]))
        if key not in found:
            raise _missing(rows, *key, part)
        parts.append(_read(found[key], part))
    order = ["n_nonembedding", "arm", "language", "seed"]
    return Measured(found, pd.concat(parts).sort_values(order, ignore_index=True))


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that is not whole yet whose language has a ladder at their size."""
    rows = usable(table)
    found, kept = ladders(rows), []
    for language, part in rows.groupby("language"):
        try:
            reference = reference_of(rows, str(language))
        except LabError:
            continue
        kept.append(part[[(reference, n) in found for n in part.n_nonembedding]])
    return pd.concat(kept).sort_index() if kept else rows.iloc[:0]


def _missing(rows: pd.DataFrame, reference: str, n: int, part: pd.DataFrame) -> LabError:
    """The refusal of a size without a ladder."""
    alone = rows[rows.alone & (rows.language == reference)]
    here = sorted(set(alone.tokens_language[alone.n_nonembedding == n]))
    wanted = sorted(set(alone.tokens_language[alone.n_nonembedding != n]) - set(here))
    model = part.iloc[0]
    arms = sorted(set(part.arm[~part.alone]))
    lost = f"{', '.join(arms[:3])}{f' and {len(arms) - 3} more' if len(arms) > 3 else ''}"
    missing = f" (of other sizes there are {', '.join(f'{t:,}' for t in wanted)})" if wanted else ""
    return LabError(
        f"The arms with {reference} alone are missing at {n:,} parameters (depth {model.n_layers}, width "
        f"{model.d_model}): {len(here)} of at least {LEAST_BUDGETS} token budgets are there{missing}. Without them "
        f"TEff has no meaning for: {lost or 'the arms alone'}.",
        "Train them, or measure the rows of `readable(table)`.",
    )


def _read(ladder: Ladder, rows: pd.DataFrame) -> pd.DataFrame:
    """The frame of `Measured` for rows of one ladder."""
    log_ppl, tokens = np.log(rows.ppl.to_numpy(float)), rows.tokens_language.to_numpy(float)
    law = ladder.law.worth(log_ppl)
    local = [ladder.local.worth(y) for y in log_ppl]
    mlte_local = np.array([float(w.tokens[0]) for w in local])
    low, high = ladder.span
    return pd.DataFrame(
        {
            "run_id": rows.run_id, "arm": rows.arm, "language": rows.language, "reference": ladder.language,
            "alone": rows.alone, "seed": rows.seed_init, "n_nonembedding": rows.n_nonembedding,
            "tokens_seen": rows.tokens_seen, "tokens_language": rows.tokens_language,
            "share": rows.tokens_language / rows.tokens_seen, "ppl": rows.ppl,
            "mlpe": np.exp(ladder.law.log_ppl(tokens)), "mlte": law.tokens, "teff": law.tokens / tokens,
            "bound": [KINDS[int(k)] for k in law.bound],
            "mlpe_local": [float(np.exp(ladder.local.log_ppl(t)[0])) for t in tokens],
            "mlte_local": mlte_local, "teff_local": mlte_local / tokens,
            "bound_local": [KINDS[int(w.bound[0])] for w in local],
            "extrapolated": (law.tokens < low) | (law.tokens > high), "misfit": ladder.misfit,
        }
    )  # fmt: skip


def variants(table: pd.DataFrame, suffix: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The arms of a study, and those it ran a second time under another rule, which end in `suffix`; both by the
    plain name. A ladder holds one rule: part such a table before it is measured."""
    again = table.arm.str.endswith(suffix)
    second = table[again].copy()
    second["arm"] = second.arm.str.removesuffix(suffix)
    return table[~again], second


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are over, that no rule excludes, and that have a sliding-window perplexity; with `alone`."""
    kept = table[(table.status == "done") & table.exclusion.isna() & table.ppl.notna()].copy()
    kept["alone"] = ~kept.mixture.str.contains(" ")
    return kept


def noise_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Noise of one run's ln PPL by (arm, tokens_seen, language): `seeds`, and `variance` and `freedom` as moderated."""
    groups = np.log(rows.ppl).groupby([rows.arm, rows.tokens_seen, rows.language])
    found = pd.DataFrame({"seeds": groups.size(), "variance": groups.var()})
    noise = moderated(found.variance.to_numpy(), found.seeds.to_numpy() - 1)
    return found.assign(variance=noise.variance, freedom=noise.freedom)


def ladders(table: pd.DataFrame) -> dict[tuple[str, int], Ladder]:
    """The ladder of every (language, n_nonembedding) of which `table` has monolingual runs on 4 budgets or more.

    Raises:
      LabError: when a language has two runs of one seed on one budget.
    """
    rows = usable(table)
    noise = noise_of(rows)
    found: dict[tuple[str, int], Ladder] = {}
    for _, part in rows[rows.alone].groupby(["language", *SIZE]):
        if part.tokens_language.nunique() < LEAST_BUDGETS:
            continue
        key = language, _ = (str(part.language.iloc[0]), int(part.n_nonembedding.iloc[0]))
        _refuse_two_rules(part, language)
        if key in found:
            raise LabError(
                f"The ladder of {language} at {key[1]:,} parameters mixes models: {part.arm.iloc[0]!r} has another "
                f"depth, width or family than {found[key].rows.arm.iloc[0]!r}.",
                "Measure one family at a time.",
            )
        found[key] = _make(part, language, noise)
    return found


def _refuse_two_rules(part: pd.DataFrame, language: str) -> None:
    twice = part[part.duplicated(["tokens_language", "seed_init", "seed_data"], keep=False)]
    if len(twice):
        names = " and ".join(sorted(set(twice.arm))[:2])
        raise LabError(
            f"The ladder of {language} has seed {twice.seed_init.iloc[0]} twice at "
            f"{twice.tokens_language.iloc[0]:,} tokens: {names}.",
            "A ladder holds one rule of learning rates: keep the arms of one.",
        )


def _make(rows: pd.DataFrame, language: str, noise: pd.DataFrame) -> Ladder:
    groups = rows.assign(log_ppl=np.log(rows.ppl)).groupby("tokens_language")
    points = pd.DataFrame({"arm": groups.arm.first(), "log_ppl": groups.log_ppl.mean(), "seeds": groups.size()})
    points = points.reset_index(names="tokens")
    table = pd.DataFrame({"D": points.tokens.astype(float), "loss": points.log_ppl, "seeds": points.seeds})
    fitted = fit(table, "reciprocal-perplexity", weight="seeds")
    law = TokenLaw.of(fitted.params_of(), float(points.tokens.max()))
    points["ppl"] = np.exp(points.log_ppl)
    points["residual"] = points.log_ppl - law.log_ppl(points.tokens.to_numpy(float))
    cells = pd.MultiIndex.from_arrays([points.arm, points.tokens, [language] * len(points)])
    variance = noise.variance.reindex(cells).to_numpy()
    points["noise"] = np.sqrt(variance / points.seeds)
    return Ladder(language, rows, points[["arm", "tokens", "ppl", "seeds", "residual", "noise"]], fitted)


def reference_of(table: pd.DataFrame, language: str) -> str:
    """The language whose monolingual runs `language` is measured by: itself, or the one whose text it is a clone of.

    Raises:
      LabError: when there is none.
    """
    rows = usable(table)
    alone = rows[rows.alone]
    if (alone.language == language).any():
        return language
    text = rows.loc[rows.language == language, TEXT].drop_duplicates()
    same = alone.merge(text, on=TEXT).language.unique()
    if len(same) != 1:
        raise LabError(
            f"No monolingual runs say what tokens of {language} are worth: it has none of its own, and "
            f"{' and '.join(sorted(same)) if len(same) else 'no language alone'} has its text.",
            f"Train {language} alone, or keep rows of the other languages.",
        )
    return str(same[0])
