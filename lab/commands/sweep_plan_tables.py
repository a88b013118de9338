"""How `lab sweep plan` shows a study's plan: tables for people, one JSON object for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lab.commands.law_options import number as digits
from lab.flops import count
from sweeps.plan import Group, idle_share

if TYPE_CHECKING:
    from sweeps.noise import Noise
    from sweeps.precision import LawPlan

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """Everything the command says.

    Attributes:
      over: runs that need no training any more.
      groups: programs with their cost; `timing` and `memory` say how it is known.
      money: at the price given.
      noise_source: where the noise comes from.
      seeds: least and most runs that differ in their seeds only.
      detectable: seeds -> smallest difference of log loss between two arms that shows.
    """

    study: str
    question: str
    runs: int
    over: int
    groups: tuple[Group, ...]
    timing: str
    memory: str
    money: float | None
    noise: Noise
    noise_source: str
    seeds: tuple[int, int]
    detectable: Mapping[int, float]
    laws: tuple[LawPlan, ...]

    @property
    def seconds(self) -> float | None:
        return total_seconds(self.groups)

    @property
    def idle_share(self) -> float:
        return idle_share(self.groups)

    @property
    def programs(self) -> int:
        return len({(g.shape, g.plan.slots) for g in self.groups})

    def sum(self, field: str) -> float:
        return sum(getattr(g, field) for g in self.groups)


def total_seconds(groups: tuple[Group, ...]) -> float | None:
    """None where a program does not fit."""
    known = [g.seconds for g in groups if g.seconds is not None]
    return sum(known) if len(known) == len(groups) else None


def form(plan: StudyPlan) -> dict[str, Any]:
    """The plan as JSON-ready values."""
    groups = []
    for g in plan.groups:
        own = dataclasses.asdict(g) | {"slots": g.plan.slots, "dispatches": g.plan.dispatches}
        del own["plan"]
        groups.append(own | {"idle_share": g.plan.idle_share, "state_bytes": g.state_bytes})
    laws = [dataclasses.asdict(p) | {"verdict": p.report.verdict, "reasons": list(p.report.reasons)} for p in plan.laws]
    shared = {
        f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.name not in ("groups", "laws", "noise")
    }
    totals = {k: plan.sum(k) for k in ("tokens", "evaluated", "flops_6nd", "flops_exact")}
    return {
        **shared,
        **totals,
        "seconds": plan.seconds,
        "idle_share": plan.idle_share,
        "programs": plan.programs,
        "groups": groups,
        "noise": dataclasses.asdict(plan.noise),
        "laws": laws,
    }


def show(plan: StudyPlan, console: Console) -> None:
    """Prints the plan."""

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    console.print(f"[bold]{plan.study}[/bold]: {plan.question}", soft_wrap=True)
    over = f"; {plan.over} of them are over already" if plan.over else ""
    packs = len(plan.groups)
    say(f"{plan.runs} runs in {packs} packs, of {plan.programs} compiled programs{over}.")
    console.print(_programs(plan))
    say(
        f"FLOPs of training: {plan.sum('flops_exact'):.3g} exactly, {plan.sum('flops_6nd'):.3g} by 6ND. "
        f"Evaluation reads {amount(plan.sum('evaluated'))} tokens."
    )
    time = "unknown" if plan.seconds is None else duration(plan.seconds)
    money = "" if plan.money is None else f", {plan.money:.2f} at the price given"
    say(f"Time: {time}{money}; {plan.timing}.")
    say(f"Memory: {plan.memory}.")
    _show_noise(plan, say)
    for law in plan.laws:
        _show_law(law, console, say)


def _programs(plan: StudyPlan) -> Table:
    names = ("model", "N", "vocab", "batch", "runs", "pack", "idle", "tokens", "FLOPs", "memory", "time")
    table = Table(*names, box=SIMPLE_HEAD, padding=0)
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    for g in plan.groups:
        model = g.shape.model
        table.add_row(
            f"d{model.d_model} L{model.n_layers}", amount(count(model).nonembedding), str(model.vocab),
            f"{g.shape.batch}x{model.context}", str(g.runs), str(g.plan.slots), f"{g.plan.idle_share:.0%}",
            amount(g.tokens), power(g.flops_exact), "" if g.peak_bytes is None else size(g.peak_bytes),
            "no room" if g.seconds is None else duration(g.seconds),
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "all", "", "", "", str(plan.runs), "", f"{plan.idle_share:.0%}", amount(plan.sum("tokens")),
        power(plan.sum("flops_exact")), "", "" if plan.seconds is None else duration(plan.seconds),
    )  # fmt: skip
    return table


def _show_noise(plan: StudyPlan, say: Say) -> None:
    noise = plan.noise
    slopes = [f"{v}^{s.value:+.2f} (+- {s.se:.2f})" for v, s in (("N", noise.n), ("D", noise.d)) if s is not None]
    middle = f" at N {amount(noise.centre[0])}, D {amount(noise.centre[1])}"
    changes = f"{middle}, changing as {' '.join(slopes)}" if slopes else ""
    say(f"Noise of log loss from seed to seed: {noise.sigma:.2%}{changes}; {plan.noise_source}.")
    how = "paired by seed" if noise.paired is not None else "as if seeds were not paired"
    effects = ", ".join(f"{v:.2%} with {n}" for n, v in plan.detectable.items())
    low, high = plan.seeds
    has = f"{low}" if low == high else f"{low} to {high}"
    say(
        f"Smallest difference of loss between two arms that shows (5 %, power .8, {how}): {effects} seeds; "
        f"the study has {has}."
    )


def _show_law(plan: LawPlan, console: Console, say: Say) -> None:
    where = f" where {plan.fit.where}" if plan.fit.where else ""
    say(f"Law {plan.fit.law}, {plan.report.runs} rows{where}: {plan.report.verdict}.")
    half = {e.label: e for e in plan.half.errors} if plan.half else {}
    table = Table("parameter", "assumed", "standard error", *(["with half the FLOPs"] if half else []), box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for e in plan.report.errors:
        table.add_row(e.label, digits(e.value), digits(e.se), *([digits(half[e.label].se)] if half else []))
    console.print(table)
    say("That is what this noise alone leaves open: what the law itself does not describe comes on top.")
    if half:
        arms = ", ".join(f"{n} of {arm}" for arm, n in plan.left_out.items())
        say(
            f"Half: {power(plan.half_flops)} of its {power(plan.flops)} FLOPs, leaving out one after another the run "
            f"whose loss costs least information for its FLOPs: {arms}."
        )
    for reason in plan.report.reasons:
        say(f"  Refused: {reason}.")
    if plan.report.verdict != "identified" and plan.report.next_runs:
        best = ", ".join(f"{k} = {v:.3g}" for k, v in plan.report.next_runs[0].x.items())
        say(f"  Best run to add, per FLOP: {best}.")


def amount(value: float) -> str:
    """Three digits: 512, 12.3k, 1.2M, 3.4B."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.0f}"


def power(value: float) -> str:
    """Two digits and a power of ten: 3.2e13."""
    return f"{value:.1e}".replace("e+", "e")


def size(n_bytes: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
