"""The laws of continual pre-training fitted to a ladder, and their errors in the form of arXiv:2407.02118, Table 3.

Stage one is Chinchilla through the runs from scratch. Stage two holds E, A and alpha there and fits B', beta' and gamma
to the continued runs; both are refitted for every resample of whole sizes (`analysis.twostage`). Beside it: all six
parameters free, beta' held at the scratch beta (so that gamma alone is new), the bounded law, in which a continued run
is worth D + k D^a N^b tokens and can never be worse than scratch, and the extended law on the scratch runs, where gamma
should be 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from analysis import laws
from analysis.compare import forward_folds
from analysis.fitting import fit
from analysis.intervals import Draws
from analysis.result import Fit
from analysis.table import Table
from analysis.table import table as make_table
from analysis.twostage import StagedFit, bootstrap_stages, fit_stages
from lab.errors import LabError

CARRY = ("E", "A", "alpha")
SCRATCH, CPT = "scratch", "cpt"
RESAMPLES = 1000
# E, A and alpha are three numbers of N alone.
LEAST_SIZES = 3
# Rows of both roles below the first cut of a forward comparison.
LEAST = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """Everything fitted to one ladder.

    Attributes:
      table: of the fits: role, N, D, loss, cluster, pretrained; one row a run.
      staged: the paper's two stages; `staged.first` is Chinchilla from scratch (`cpt` with gamma 0).
      draws: of both stages, or None where a stage is not identified.
      fits: the others by name: "free", "shared beta", "bounded", "extended on scratch", "chinchilla on cpt".
      refused: name -> why a form was not fitted, in words.
    """

    table: pd.DataFrame
    staged: StagedFit
    draws: tuple[Draws, Draws] | None
    fits: Mapping[str, Fit]
    refused: Mapping[str, str]

    @property
    def scratch(self) -> Fit:
        return self.staged.first

    @property
    def cpt(self) -> Fit:
        return self.staged.second

    def bounds(self, parameter: str) -> tuple[float, float] | None:
        """The 95 % interval of a parameter of either stage; None where it was held or there are no draws."""
        if self.draws is None:
            return None
        first, second = self.draws
        name = parameter.removesuffix("'")
        draws = second if parameter.endswith("'") or parameter == "gamma" else first
        if name not in draws.params:
            return None
        interval = draws.interval(name)
        return interval.low, interval.high


def joint(ladder: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> Joint:
    """Fits every form to a ladder.

    Args:
      ladder: rows of `analysis.continual.roles.ladder`.
      resamples: of the two-stage bootstrap; 0 for none.

    Raises:
      LabError: when either role has too few runs for the paper's two stages, or the ladder does not identify them; the
        direction that it says nothing about is named.
    """
    if (sizes := ladder.N.nunique()) < LEAST_SIZES:
        raise LabError(
            f"{sizes} size{'s' if sizes > 1 else ''} cannot tell E, A and alpha apart: a law of N needs {LEAST_SIZES}.",
            "Train more sizes.",
        )
    table = ladder[["role", "N", "D", "loss", "cluster"]].copy()
    table["pretrained"] = (table.role == CPT).astype(float)
    table = table.rename(columns={"cluster": "size"})
    staged = fit_stages(table, "cpt", stage="role", first=SCRATCH, second=CPT, carry=CARRY, cluster="size", seed=seed)
    for role, one in ((SCRATCH, staged.first), (CPT, staged.second)):
        if not one.identified:
            raise LabError(
                f"The runs do not identify the law ({role}, {one.status}): {one.flags[0].text}.",
                "`lab design check` says which runs would.",
            )
    held = {name: staged.first.params[name] for name in CARRY}
    parts = {role: table[table.role == role] for role in (SCRATCH, CPT)}
    wanted: dict[str, Callable[[], Fit]] = {
        "free": lambda: fit(parts[CPT], "cpt", cluster="size", seed=seed),
        "shared beta": lambda: fit(
            parts[CPT], "cpt", frozen={**held, "beta": staged.first.params["beta"]}, cluster="size", seed=seed
        ),
        "bounded": lambda: fit(table, "cpt-bounded", columns={"pretrained": "pretrained"}, cluster="size", seed=seed),
        "extended on scratch": lambda: fit(parts[SCRATCH], "cpt", frozen=held, cluster="size", seed=seed),
        "chinchilla on cpt": lambda: fit(parts[CPT], "cpt", frozen={**held, "gamma": 0.0}, cluster="size", seed=seed),
    }
    found, refused = {}, {}
    for name, make in wanted.items():
        try:
            found[name] = make()
        except LabError as error:
            refused[name] = str(error)
    draws = None
    if resamples and sizes == LEAST_SIZES:
        # A resample that leaves one out has no law: what is left are copies of the fit, without any spread.
        refused["two-stage intervals"] = f"{sizes} sizes leave nothing to resample"
    elif resamples:
        try:
            draws = bootstrap_stages(staged, resamples, seed)
        except LabError as error:
            refused["two-stage intervals"] = str(error)
    return Joint(table, staged, draws, found, refused)


def errors(fits: Joint) -> pd.DataFrame:
    """Fit errors as in Table 3 of the paper: the sum of Huber's function (corner 1e-3) of log-loss residuals.

    Returns a frame of law (`chinchilla`, `extended`), on (`scratch`, `cpt`), points, error, gamma (of the extended
    law), status; both laws hold E, A and alpha of the scratch fit on `cpt`, and the extended one on `scratch` too.
    """
    rows = [("chinchilla", SCRATCH, fits.scratch), ("extended", CPT, fits.cpt)]
    for law, on, name in (("chinchilla", CPT, "chinchilla on cpt"), ("extended", SCRATCH, "extended on scratch")):
        if name in fits.fits:
            rows.append((law, on, fits.fits[name]))
    return pd.DataFrame(
        {
            "law": law, "on": on, "points": one.n, "error": one.value,
            "gamma": one.params.get("gamma", float("nan")), "status": one.status,
        }
        for law, on, one in rows
    )  # fmt: skip


def gammas(fits: Joint) -> pd.DataFrame:
    """gamma by every way of fitting it, with its interval: two stages, all free, beta shared, and on scratch.

    Returns a frame of fit, beta, gamma, low, high (NaN where there is no interval), status.
    """
    rows = []
    for name, one in {"two stages": fits.cpt, **fits.fits}.items():
        if "gamma" not in one.params:
            continue
        low = high = float("nan")
        if name == "two stages":
            low, high = fits.bounds("gamma") or (low, high)
        elif one.identified:
            interval = one.intervals()["gamma"]
            low, high = interval.low, interval.high
        beta = one.params.get("beta", one.frozen.get("beta"))
        rows.append({"fit": name, "beta": beta, "gamma": one.params["gamma"], "low": low, "high": high,
                     "status": one.status})  # fmt: skip
    return pd.DataFrame(rows)


def forward(ladder: pd.DataFrame) -> pd.DataFrame:
    """How far each form misses continued runs beyond the compute it was fitted to, for every possible cut.

    At each cut both roles are refitted below it: `chinchilla` and `extended` in the paper's two stages, `bounded` at
    once. Returns a frame of form, fold, N, D, observed, predicted, miss (log of predicted over observed); `ranked`
    sums it up.

    Raises:
      LabError: when the ladder leaves nothing to predict.
    """
    frame = ladder[["role", "N", "D", "loss"]].reset_index(drop=True)
    frame["pretrained"] = (frame.role == CPT).astype(float)
    continued = (frame.role == CPT).to_numpy()
    folds = forward_folds((6 * frame.N * frame.D).to_numpy(), LEAST)
    tables = {role: make_table(part, laws.get("cpt")) for role, part in frame.groupby("role")}
    together = make_table(frame, laws.get("cpt-bounded"))
    rows = []
    for fold in folds:
        beyond = frame[fold.test & continued]
        if beyond.empty or min(np.sum(fold.train & continued), np.sum(fold.train & ~continued)) < LEAST // 2:
            continue
        x = {name: beyond[name].to_numpy(float) for name in ("N", "D", "pretrained")}
        first = fit(_inside(tables[SCRATCH], fold.train[~continued]), "cpt", frozen={"gamma": 0.0})
        held = {name: first.params[name] for name in CARRY}
        second = _inside(tables[CPT], fold.train[continued])
        made = {
            "chinchilla": fit(second, "cpt", frozen={**held, "gamma": 0.0}),
            "extended": fit(second, "cpt", frozen=held),
            "bounded": fit(_inside(together, fold.train), "cpt-bounded"),
        }
        for form, one in made.items():
            predicted, observed = one.predict(x), beyond.loss.to_numpy()
            rows.append(pd.DataFrame({"form": form, "fold": fold.name, "N": beyond.N, "D": beyond.D,
                                      "observed": observed, "predicted": predicted,
                                      "miss": np.log(predicted / observed)}))  # fmt: skip
    if not rows:
        raise LabError("No cut of this ladder leaves runs to fit and runs to predict.", "Add sizes or budgets.")
    return pd.concat(rows, ignore_index=True)


def _inside(table: Table, train: np.ndarray) -> Table:
    """The table with the other rows at weight 0: its shape stays, and with it the compiled code."""
    return dataclasses.replace(table, weight=table.weight * train[table.row])


def ranked(misses: pd.DataFrame) -> pd.DataFrame:
    """Of each form in `forward`: predictions, mean absolute and signed miss; least first."""
    groups = misses.groupby("form").miss
    found = pd.DataFrame({"predictions": groups.size(), "error": groups.apply(lambda m: m.abs().mean()),
                          "bias": groups.mean()})  # fmt: skip
    return found.sort_values("error").reset_index()
