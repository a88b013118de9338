"""`lab design`: what a sweep can identify, and a sweep that can."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.commands.law_options import REFUSED, assumed_params, numbers, pairs, prepare_jax, print_json
from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.design import DesignReport


@dataclasses.dataclass(frozen=True)
class Check:
    """Say what a planned sweep can identify, before any compute is spent. Exit code 3 where it cannot."""

    runs: Path
    """The plan: a table with the law's variables, one row a run (losses, if any, are not read)."""
    law: str = "chinchilla"
    """Law: a name of `lab laws`, or ./file.py:Class."""
    n: str | None = None
    """Column of N, parameters."""
    d: str | None = None
    """Column of D, training tokens."""
    columns: tuple[str, ...] = ()
    """Other variables, as VARIABLE=COLUMN."""
    where: str | None = None
    """Keep only rows for which this pandas query holds."""
    group: str | None = None
    """Column of groups fitted at once."""
    shared: tuple[str, ...] = ()
    """Parameters that all groups share."""
    frozen: tuple[str, ...] = ()
    """Parameters known beforehand (from another sweep), by name."""
    params: str | None = None
    """Assumed parameters: E=1.69,A=406.4,... or a file written by `lab fit --json`; the published ones by default."""
    noise: float = 0.01
    """Standard deviation of log loss from run to run; .01 is 1 %."""
    target: str | None = None
    """Point to forecast, as N=3e8,D=6e9."""
    target_group: str | None = None
    """The group of that point."""
    json: bool = False
    """Print one JSON object and nothing else."""
    plot: Path | None = None
    """Draw plan, standard errors and the next best runs into this file."""

    def run(self) -> int:
        prepare_jax()
        from analysis import laws
        from analysis.design import check
        from analysis.plan import read_plan
        from lab.commands.law_options import read_rows

        law = laws.get(self.law)
        named = {k: v for k, v in (("N", self.n), ("D", self.d)) if v is not None} | pairs(self.columns, "columns")
        columns, group = read_plan(read_rows(self.runs, self.where), law, named, self.group)
        report = check(
            law, columns, assumed_params(law, self.params), self.noise,
            target=None if self.target is None else numbers((self.target,), "target"),
            group=group, target_group=self.target_group, frozen=self.frozen, shared=self.shared,
        )  # fmt: skip
        _show(report, columns, self.json, self.plot)
        return 0 if report.verdict == "identified" else REFUSED


@dataclasses.dataclass(frozen=True)
class Make:
    """Choose the runs that tell most about a law for a budget, and write them as CSV."""

    budget: float
    """Compute for the whole sweep, in FLOPs (6 N D a run)."""
    out: Path
    """CSV file to write: one row a run."""
    law: str = "chinchilla"
    """Law: a name of `lab laws`, or ./file.py:Class."""
    target: str | None = None
    """Point to forecast, as N=3e8,D=6e9; without it, all parameters count alike."""
    runs: int = 24
    """Number of runs at most."""
    sizes: tuple[float, float] | None = None
    """Smallest and largest N; by default up to what a quarter of the budget trains at D = 20 N."""
    ratios: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
    """D / N to choose from."""
    values: tuple[str, ...] = ()
    """Levels of the law's other variables, as U=1e8:1e9:1e10."""
    groups: tuple[str, ...] = ()
    """Arms in which every run could be made, for a joint fit."""
    target_group: str | None = None
    """The arm of the target."""
    shared: tuple[str, ...] = ()
    """Parameters that all arms share."""
    frozen: tuple[str, ...] = ()
    """Parameters known beforehand, by name."""
    params: str | None = None
    """Assumed parameters, as in `lab design check`."""
    noise: float = 0.01
    """Standard deviation of log loss from run to run."""
    json: bool = False
    """Print one JSON object and nothing else."""
    plot: Path | None = None
    """Draw plan and standard errors into this file."""

    def run(self) -> int:
        prepare_jax()
        import pandas as pd

        from analysis import laws
        from analysis.plan import make

        law = laws.get(self.law)
        levels = {}
        for name, text in pairs(self.values, "values").items():
            try:
                levels[name] = [float(v) for v in text.split(":")]
            except ValueError:
                raise LabError(f"--values {name}={text}: not numbers.", "Write U=1e8:1e9.") from None
        plan = make(
            law, self.budget, assumed_params(law, self.params), noise=self.noise, runs=self.runs, sizes=self.sizes,
            target=None if self.target is None else numbers((self.target,), "target"), ratios=self.ratios,
            values=levels, groups=self.groups, target_group=self.target_group, frozen=self.frozen, shared=self.shared,
        )  # fmt: skip
        frame = pd.DataFrame({**plan.columns, **({"group": plan.group} if self.groups else {})})
        self.out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(self.out, index=False, float_format="%.6g")
        _show(plan.report, dict(plan.columns), self.json, self.plot)
        if not self.json:
            print(f"{self.out}: {len(frame)} runs chosen from {plan.candidates}.")
        return 0 if plan.report.verdict == "identified" else REFUSED


def _show(report: DesignReport, columns: dict[str, Any], as_json: bool, plot: Path | None) -> None:
    if plot is not None:
        from analysis.plots import design_figure, save

        save(design_figure(report, columns), plot)
    if as_json:
        form = dataclasses.asdict(report) | {"verdict": report.verdict, "reasons": list(report.reasons)}
        print_json(form)
        return
    from lab.commands.law_tables import console, design_table

    show = console()
    show.print(design_table(report))
    if report.verdict != "identified":
        show.print(f"[bold red]Refused ({report.verdict}).[/bold red]")
        for reason in report.reasons:
            show.print(f"  {reason}.", markup=False)
    if report.next_runs:
        best = "; ".join(
            ", ".join(f"{k} = {v:.3g}" for k, v in c.x.items()) + (f" in {c.group}" if c.group else "")
            for c in report.next_runs
        )
        show.print(f"Best runs to add, per FLOP: {best}.", markup=False)


COMMANDS: dict[str, type] = {"check": Check, "make": Make}
