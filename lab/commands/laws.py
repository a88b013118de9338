"""`lab fit` and its companions: laws on any table of (N, D, loss)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from lab.commands import allocate, design
from lab.commands.law_options import (
    REFUSED,
    TableOptions,
    draws_for,
    numbers,
    prepare_jax,
    print_json,
)
from lab.errors import LabError

if TYPE_CHECKING:
    from analysis.result import Fit as FitResult


@dataclasses.dataclass(frozen=True)
class Fit(TableOptions):
    """Fit a law to a table: parameters, intervals, and whether they may be believed.

    Exit code 3 where the table does not determine the parameters, or the solver did not finish.

    The first run of a law on a machine compiles for a second or more; compiled code is kept in the user's cache folder,
    and later runs of the same law and table size start at once.
    """

    interval: Literal["auto", "profile", "iid", "cluster", "residual", "none"] = "auto"
    """How intervals are made: auto takes the profile likelihood, whose measured coverage is best, and a bootstrap of
    1000 resamples for parameters that have no profile."""
    bootstrap: int | None = None
    """Refit that many resamples and take the intervals from them: of whole clusters where the table names any."""
    level: float = 0.95
    """Nominal coverage of the intervals."""
    json: bool = False
    """Print one JSON object and nothing else."""
    plot: Path | None = None
    """Draw curves, residuals, contours of equal loss and the intervals' cloud or profile into this file."""
    panels: tuple[Literal["fit", "residuals", "isoloss", "cloud", "profile"], ...] = ()
    """Which of them (all that apply by default)."""
    card: Path | None = None
    """Write the report card (what a reader needs to judge the fit) into this markdown file."""

    def run(self) -> int:
        prepare_jax()
        from analysis.fitting import fit

        frame = self.frame()
        result = fit(frame, self.law, **self.fit_options())
        intervals, draws, profiles, notes = self._intervals(result)
        if self.card is not None:
            from analysis.report_card import report_card

            self.card.parent.mkdir(parents=True, exist_ok=True)
            self.card.write_text(report_card(result, frame, intervals=intervals).markdown() + "\n")
        if self.plot is not None:
            from analysis.plots import PANELS, fit_figure, save

            source = f"{self.table.name}: {result.n} points, {result.objective.name}"
            save(fit_figure(result, draws, profiles, self.panels or PANELS, source), self.plot)
        if self.json:
            form = result.as_dict() | {"table": str(self.table)}
            ends = {k: _interval_form(v) for k, v in intervals.items()}
            print_json(form | {"intervals": ends, "flags": [*form["flags"], *notes]})
        else:
            _print_fit(result, intervals, [n["text"] for n in notes], self.card)
        return 0 if result.identified else REFUSED

    def _intervals(self, result: FitResult) -> tuple[dict[str, Any], Any, Any, list[dict[str, str]]]:
        """Intervals by label, draws, profiles and flags; none for a fit without any."""
        if self.interval == "none" and self.bootstrap is None:
            return {}, None, None, []
        if not result.identified:
            return {}, None, None, [{"kind": "note", "text": f"no intervals: the fit is {result.status}"}]
        from analysis.intervals import bootstrap

        if self.bootstrap is None and self.interval in ("auto", "profile"):
            from analysis.profile import profile

            profiles = profile(result, level=self.level)
            found = {k: p.interval for k, p in profiles.items()}
            notes: list[dict[str, str]] = []
            if self.interval == "auto" and len(found) < len(result.params):
                draws = bootstrap(result)
                found = {k: found[k] if k in found else draws.interval(k, self.level) for k in result.params}
                notes = [dataclasses.asdict(f) for f in draws.flags]
            return found, None, profiles, notes
        if self.interval == "profile":
            raise LabError("--interval profile needs no resamples.", "Leave --bootstrap out, or name another interval.")
        kind = None if self.interval in ("auto", "none") else self.interval
        draws = bootstrap(result, self.bootstrap or 1000, kind)  # type: ignore[arg-type]
        found = {k: draws.interval(k, self.level) for k in result.params}
        return found, draws.params, None, [dataclasses.asdict(f) for f in draws.flags]


@dataclasses.dataclass(frozen=True)
class Compare(TableOptions):
    """Rank laws by how well they predict runs they have not seen."""

    laws: tuple[str, ...] = ("tied", "chinchilla", "skaling")
    """Laws to compare."""
    by: str = "forward"
    """forward: fit the smallest scales, predict the next; or a variable or column whose values are left out in turn."""
    hold_out_above: float | None = None
    """Keep runs of more FLOPs than this out of the comparison altogether."""
    open_test: bool = False
    """Predict those held-out runs with the winner. Works once: the ledger remembers."""
    ledger: Path = Path("ledger.jsonl")
    """File that remembers which held-out runs were looked at; keep it under version control."""
    json: bool = False
    """Print one JSON object and nothing else."""
    plot: Path | None = None
    """Draw error and bias, scale by scale, into this file."""

    def run(self) -> int:
        prepare_jax()
        from analysis import laws
        from analysis.compare import compare
        from analysis.table import table as make_table

        frame = self.frame()
        options = self.table_options()
        fitting = {"objective": self.objective, "delta": self.delta, "shared": self.shared}
        if self.open_test and self.hold_out_above is None:
            raise LabError("--open-test needs --hold-out-above FLOPS.", "Say which runs are the test.")
        dev = frame
        if self.hold_out_above is not None:
            from analysis.ledger import held_out

            whole = make_table(frame, laws.get(self.laws[0]), **_own(options, self.laws[0]))
            dev = frame.drop(index=whole.row[held_out(whole, self.hold_out_above)]).reset_index(drop=True)
        result = compare(dev, self.laws, by=self.by, **fitting, **options)  # type: ignore[arg-type]
        seen = None
        if self.open_test:
            from analysis.ledger import examine

            assert self.hold_out_above is not None
            winner = next(name for name in self.laws if laws.get(name).name == result.best.law)
            whole = make_table(frame, laws.get(winner), **_own(options, winner))
            seen = examine(self.ledger, whole, laws.get(winner), self.hold_out_above, **fitting)  # type: ignore[arg-type]
        if self.plot is not None:
            from analysis.plots import comparison_figure, save

            save(comparison_figure(result), self.plot)
        if self.json:
            form = {"by": result.by, "n": result.n, "folds": list(result.folds), "baselines": dict(result.baselines)}
            scores = [dataclasses.asdict(s) for s in result.scores]
            print_json(form | {"scores": scores, "test": None if seen is None else dataclasses.asdict(seen)})
            return 0
        from lab.commands.law_tables import comparison_table, console

        show = console()
        show.print(comparison_table(result))
        if seen is not None:
            show.print(
                f"Held-out test, opened now and not again: {seen.law} on {seen.rows} runs above "
                f"{self.hold_out_above:.3g} FLOPs: error {seen.mape:.2%}, bias {seen.bias:+.2%}."
            )
        return 0


@dataclasses.dataclass(frozen=True)
class Predict(TableOptions):
    """Fit a law and predict the loss of runs you have not trained, with two bands."""

    at: tuple[str, ...] = ()
    """Points, as N=1e9,D=2e10 (several may follow each other)."""
    of: str | None = None
    """The group whose loss is predicted, where there are several."""
    bootstrap: int = 1000
    """Resamples behind the bootstrap band; 0 for none."""
    level: float = 0.95
    """Nominal coverage of the bands."""
    json: bool = False
    """Print one JSON object and nothing else."""
    plot: Path | None = None
    """Draw runs, predictions and bands into this file."""

    def run(self) -> int:
        prepare_jax()
        from analysis.fitting import fit
        from analysis.forecast import misses, predict

        points = [numbers((text,), "at") for text in self.at]
        if not points:
            raise LabError("There is nothing to predict.", "Give points: --at N=1e9,D=2e10")
        if len({tuple(sorted(p)) for p in points}) > 1:
            raise LabError("All points must name the same variables.")
        result = fit(self.frame(), self.law, **self.fit_options())
        x = {k: [p[k] for p in points] for k in points[0]}
        draws = draws_for(result, self.bootstrap, self.of) if self.bootstrap else None
        note = ""
        try:
            past = misses(result, self.shared)
        except LabError as error:
            past, note = None, f"No conformal band: {error}"
        found = predict(result, x, draws=draws, past=past, group=self.of, level=self.level)  # type: ignore[arg-type]
        if self.plot is not None:
            from analysis.plots import forecast_figure, save

            save(forecast_figure(result, found), self.plot)
        if self.json:
            form = {"law": result.law.name, "status": result.status, "n": result.n, "note": note}
            print_json(form | {"predictions": [dataclasses.asdict(p) for p in found]})
            return 0
        from lab.commands.law_tables import console, prediction_table

        show = console()
        show.print(prediction_table(result, found, self.level))
        if note:
            show.print(note)
        return 0


@dataclasses.dataclass(frozen=True)
class Audit(TableOptions):
    """Refit a law under every count of N and C that the table has, as one table."""

    n_columns: tuple[str, ...] = ("n_total", "n_nonembedding")
    """Columns that count parameters; the first is the reference."""
    c_columns: tuple[str, ...] = ("flops_6nd", "flops_exact")
    """Columns of training FLOPs, beside 6ND."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def run(self) -> int:
        prepare_jax()
        from analysis.audit import audit

        options = self.fit_options()
        options["columns"] = {k: v for k, v in options["columns"].items() if k != "N"}
        found = audit(self.frame(), self.law, n_columns=self.n_columns, c_columns=self.c_columns, **options)
        if self.json:
            print_json({"law": self.law, "conventions": [dataclasses.asdict(c) for c in found]})
            return 0
        from lab.commands.law_tables import audit_table, console

        console().print(audit_table(self.law, found))
        return 0


@dataclasses.dataclass(frozen=True)
class List:
    """List the laws: formula, variables, source, and where published values come from."""

    law: tyro.conf.Positional[str | None] = None
    """One law, with its parameters and published values."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def run(self) -> int:
        prepare_jax()
        from analysis import laws

        shown = [laws.get(self.law)] if self.law else [laws.get(name) for name in laws.names()]
        if self.json:
            print_json({"laws": [_law_form(law) for law in shown]})
            return 0
        from lab.commands.law_tables import console, law_table, laws_table

        console().print(law_table(shown[0]) if self.law else laws_table(shown))
        return 0


def _own(options: dict[str, Any], law: str) -> dict[str, Any]:
    """Table options with the columns that this law has."""
    from analysis import laws

    names = {v.name for v in laws.get(law).variables}
    return options | {"columns": {k: v for k, v in options["columns"].items() if k in names}}


def _law_form(law: Any) -> dict[str, Any]:
    return {
        "name": law.name,
        "formula": (law.__doc__ or "").strip().splitlines()[0] if law.__doc__ else "",
        "source": law.source,
        "variables": {v.name: v.unit for v in law.variables},
        "parameters": [p.name for p in law.parameters],
        "published": [{"source": p.source, "params": dict(p.params), "note": p.note} for p in law.published],
    }


def _interval_form(interval: Any) -> dict[str, Any]:
    return {
        "low": interval.low,
        "high": interval.high,
        "open_low": interval.open_low,
        "open_high": interval.open_high,
        "method": interval.method,
        "level": interval.level,
    }


def _print_fit(result: FitResult, intervals: dict[str, Any], notes: list[str], card: Path | None) -> None:
    from rich.markup import escape

    from lab.commands.law_tables import console, fit_table

    show = console()
    show.print(fit_table(result, intervals))
    for flag in result.flags:
        show.print(f"[bold]{flag.kind}[/bold]: {escape(flag.text)}")
    for note in (*notes, *result.table.notes):
        show.print(f"note: {note}", markup=False)
    for drop in result.dropped:
        show.print(f"dropped: {drop}", markup=False)
    show.print(f"Report card: {card}" if card else "What a reader needs to judge this fit: --card FILE.md", style="dim")


COMMANDS: dict[str, Any] = {
    "fit": Fit,
    "compare": Compare,
    "predict": Predict,
    "allocate": allocate.Allocate,
    "audit": Audit,
    "design": design.COMMANDS,
    "laws": List,
}
