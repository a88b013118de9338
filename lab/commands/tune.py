"""`lab tune`: a packed sweep of learning rates, the best one of each cell, and the rule through them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.rates import Optimum, RateFit
    from lab.config import OptimConfig
    from lab.recipes import Fitted


@dataclasses.dataclass(frozen=True)
class Tune:
    """Sweep learning rates over sizes and token budgets, and fit the rule LR = c N^p D^q to the best ones.

    Example: lab tune embedded:en --models nano-2 nano-4 --tokens 150k 1.2M --rates 5 --seeds 2
    The rule is written to ROOT/NAME/rates.json: use it with `lab train --recipe ROOT/NAME/rates.json`.
    Stopped or killed, the same command goes on; more rates, sizes or seeds train only what is new.
    """

    corpus: tyro.conf.Positional[str | None] = None
    """Corpus by name: embedded:en, text:FILE-or-FOLDER, tfds:NAME (see `lab data list`)."""
    models: tuple[str, ...] = ("nano-2", "nano-3", "nano-4")
    """Shapes: nano-4 and other presets; nano-LxD has L layers and width D."""
    tokens: tuple[str, ...] = ("300k", "1.2M")
    """Training tokens of each budget, e.g. 300k 1.2M."""
    rates: int = 5
    """Learning rates a cell, in a geometric grid."""
    ratio: float = 2.0
    """Factor between neighbouring rates."""
    centre: float | None = None
    """Middle of every grid; by default the rule of the recipe nano for the cell."""
    seeds: int = 1
    """Runs of each rate."""
    base_width: int | None = None
    """Train in muP relative to this width, so that the best rate transfers across widths of one depth."""
    vocab: int = 1024
    """Pieces of the vocabulary."""
    context: int = 128
    """Tokens a sequence."""
    batch: int = 4
    """Sequences a step."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Learning-rate schedule."""
    warmup: float = 0.25
    """Share of the run in which the rate rises."""
    weight_decay: float = 0.0
    """AdamW's decay."""
    clip: float | None = None
    """Largest gradient norm; not clipped by default."""
    table: Path | None = None
    """Train nothing: read the best rates from this result table of a sweep with this optimiser."""
    name: str = "tune"
    """Name of the study: of its table, its rule and its picture."""
    root: Path = Path("out")
    """Folder for everything the laboratory writes."""
    devices: int = max(1, min(2, os.cpu_count() or 1))
    """On a CPU, runs trained side by side, one a core. Accelerators are found by themselves."""

    def run(self) -> int:
        from lab.config import OptimConfig

        optim = OptimConfig(1.0, self.schedule, self.warmup, weight_decay=self.weight_decay, clip=self.clip)
        code = 0
        table = self.table
        if table is None:
            if self.corpus is None:
                raise LabError(
                    "Name a corpus to train on, or a --table of a sweep.", "For example: lab tune embedded:en"
                )
            from lab.devices import prepare_process

            prepare_process(host_devices=self.devices)
            code = self._train(self.corpus, optim)
            if code not in (0, 3):  # stopped, or runs failed: the launcher has said so
                return code
            table = self.root / self.name / "results.parquet"
        return self._report(table, optim) or code

    def _train(self, corpus: str, optim: OptimConfig) -> int:
        from lab.commands.train import language_names, parse_count
        from lab.recipes import recipe
        from sweeps.launch import run_study
        from sweeps.rates import RateSweep, study

        nano: Any = recipe("nano")
        sweep = RateSweep(
            models=self.models,
            tokens=tuple(parse_count(t) for t in self.tokens),
            rates=self.rates,
            ratio=self.ratio,
            centre=self.centre,
            start=nano.rule,
            seeds=self.seeds,
            vocab=self.vocab,
            context=self.context,
            batch=self.batch,
            optim=optim,
            base_width=self.base_width,
        )
        (language,) = language_names((corpus,))
        return run_study(*study(self.name, corpus, language, sweep), self.root)

    def _report(self, table: Path, optim: OptimConfig) -> int:
        from rich.console import Console

        from analysis.rates import fit_rule, optima
        from analysis.table import read
        from figures.rates import rates
        from lab.recipes import save

        console, folder = Console(), self.root / self.name
        frame = read(table)
        found = optima(frame)
        problem, fit = None, None
        try:
            fit = fit_rule(found)
        except LabError as error:
            problem = error
        console.print(_table(found, fit))
        picture = rates(found, fit.rule if fit else None, table, frame.run_id, folder / "rates")
        console.print(f"Picture: {picture}", soft_wrap=True)
        if fit is None:
            raise LabError(f"No rule: {problem}")
        for line in _sentences(fit):
            console.print(line, markup=False, soft_wrap=True)
        rule = fitted(fit, optim, table, frame.family.iloc[0], int(frame.batch_tokens.iloc[0]), self.base_width)
        save(rule, folder / "rates.json")
        console.print(f"Rule: {folder / 'rates.json'}", soft_wrap=True)
        return 0


def fitted(
    fit: RateFit, optim: OptimConfig, table: Path, family: Any, batch_tokens: int, base_width: int | None
) -> Fitted:
    """The recipe that a fit becomes: in muP where the sweep was.

    Raises:
      LabError: for a muP sweep over several depths.
    """
    from lab.recipes import BestRate, Fitted, MuP

    cells = tuple(
        BestRate(o.cell.n, o.cell.d, o.rate, o.edge, float(r), bool(f))
        for o, r, f in zip(fit.optima, fit.residual, fit.fitted, strict=True)
    )
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    shared = (fit.rule, optim, family, batch_tokens, table.name, digest, cells)
    if base_width is None:
        return Fitted(*shared)
    depths = {o.cell.n_layers for o in fit.optima}
    if len(depths) > 1:
        raise LabError(f"muP transfers across widths, and these shapes have depths {sorted(depths)}.")
    return MuP(*shared, base_width=base_width, n_layers=depths.pop())


def _table(found: tuple[Optimum, ...], fit: RateFit | None) -> Any:
    """One line a cell; in yellow where the best rate is only bounded."""
    from rich.box import SIMPLE
    from rich.table import Table

    from figures.drawing import count

    caption = "loss: nats per token; lower, higher: how much worse the next rates are; costs: of the rule's rate"
    table = Table(title="Best peak learning rates", caption=caption, box=SIMPLE, show_edge=False)
    for heading in ("N", "D", "best", "seeds", "loss", "lower", "higher", "rule", "costs"):
        table.add_column(heading, justify="right")

    def worse(by: float, loss: float) -> str:
        return "" if math.isnan(by) else f"+{by / loss:.2%}"

    for i, o in enumerate(found):
        flag = {"low": "≤ ", "high": "≥ ", "diverges": "~ "}.get(o.edge or "", "")
        table.add_row(
            count(o.cell.n),
            count(o.cell.d),
            f"{flag}{o.rate:.2g}",
            "" if math.isnan(o.spread) else f"±{o.spread:.0%}",
            f"{o.loss:.4f}",
            worse(o.worse_below, o.loss),
            "diverges" if o.edge == "diverges" else worse(o.worse_above, o.loss),
            f"{fit.rule.rate(o.cell.n, o.cell.d):.2g}" if fit else "",
            worse(float(fit.regret[i]), o.loss) if fit else "",
            style="yellow" if o.edge else None,
        )
    return table


def _sentences(fit: RateFit) -> list[str]:
    rule = fit.rule
    residuals = fit.residual[fit.fitted]
    lines = [
        f"LR = {rule.c:.4g} N^{rule.p:.3f} D^{rule.q:.3f}, for N {rule.n_range[0]:.3g} to {rule.n_range[1]:.3g} "
        f"without embedding and head and D {rule.d_range[0]:.3g} to {rule.d_range[1]:.3g}.",
        f"Best rates differ from it by {abs(residuals).max():.0%} at most (ln), "
        f"{float((residuals**2).mean() ** 0.5):.0%} on average.",
        *fit.notes,
    ]
    for o, wrong in zip(fit.optima, fit.contradicted, strict=True):
        if wrong:
            side = "at least" if o.edge == "high" else "at most"
            lines.append(f"Against the rule: at N {o.cell.n:,}, D {o.cell.d:,} the best rate is {side} {o.rate:.3g}.")
    return lines
