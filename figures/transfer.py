"""What a mixed run's loss is worth in tokens of a language, with an interval over ladder and seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from analysis import Fit, bootstrap, fit
from analysis.equivalence import Estimate, transfer
from analysis.intervals import Draws

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class MonolingualLaw:
    """The token law of arXiv:2404.07982 through one language's monolingual ladder at one size."""

    language: str
    rows: pd.DataFrame
    fit: Fit
    draws: Draws

    def ppl(self, tokens: np.ndarray) -> np.ndarray:
        return np.exp(self.fit.predict({"D": tokens}))

    @property
    def worst_residual(self) -> float:
        """Largest |measured / law - 1| of the ladder's perplexities."""
        return float(np.max(np.abs(self.rows.ppl / self.ppl(self.rows.tokens_language.to_numpy()) - 1)))


def monolingual_law(rows: pd.DataFrame, language: str) -> MonolingualLaw:
    """Fits the token law to perplexity (sliding window) against tokens of one ladder."""
    table = pd.DataFrame({"D": rows.tokens_language, "loss": np.log(rows.ppl)})
    fitted = fit(table, "reciprocal-perplexity")
    return MonolingualLaw(language, rows, fitted, bootstrap(fitted, RESAMPLES, kind="residual"))


@dataclasses.dataclass(frozen=True)
class Worth:
    """One language of one mixture, seeds together.

    Attributes:
      tokens, other_tokens: of the language, and of all others, a run.
      share: of the language.
      ppl: geometric mean over seeds.
      mlte, teff: monolingual token equivalent and token efficiency.
      of_other: own tokens that one token of the other languages is worth, (MLTE - own tokens) / other tokens.
    """

    language: str
    mixture: str
    seeds: int
    tokens: float
    other_tokens: float
    ppl: float
    mlte: Estimate
    teff: Estimate
    of_other: Estimate

    @property
    def share(self) -> float:
        return self.tokens / (self.tokens + self.other_tokens)

    @property
    def partners(self) -> list[str]:
        """The mixture's other languages."""
        return [name for part in self.mixture.split() if (name := part.partition(":")[0]) != self.language]


def worth(law: MonolingualLaw, rows: pd.DataFrame, language: str) -> Worth:
    """Reads the rows (seeds of one mixture, one language) against the law.

    The interval is over residual resamples of the ladder and resamples of the seeds, drawn together.
    """
    losses = np.log(rows.ppl.to_numpy())
    loss = float(losses.mean())
    rng = np.random.default_rng(0)
    loss_draws = rng.choice(losses, (law.draws.resamples, len(losses))).mean(axis=1)
    tokens = float(rows.tokens_language.mean())
    other = float(rows.tokens_seen.mean()) - tokens
    ladder = law.rows.tokens_language
    got = transfer(
        law.fit.law,
        law.fit.params_of(),
        loss,
        tokens,
        draws=law.draws.params_of(),
        loss_draws=loss_draws,
        span=(float(ladder.min()), float(ladder.max())),
    )
    return Worth(
        language=language,
        mixture=str(rows.mixture.iloc[0]),
        seeds=len(rows),
        tokens=tokens,
        other_tokens=other,
        ppl=float(np.exp(loss)),
        mlte=got.mlte,
        teff=got.teff,
        of_other=got.transferred.map(lambda t: t / other),
    )
