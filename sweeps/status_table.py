"""Where a study stands, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.status import STATES, ArmStatus, RunStatus, State, by_arm

REASONS_SHOWN = 5
LOG_LINES_SHOWN = 8


def duration(seconds: float) -> str:
    """A length of time as people say it: 40 s, 12 min, 3.5 h, 2.1 d."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} d"


def status_table(study: str, runs: Sequence[RunStatus], footer: str = "") -> Table:
    """One line an arm, and a line for the whole study."""
    arms = by_arm(runs)
    shown = [s for s in STATES if s == "done" or any(s in a.states for a in arms)]
    table = Table(title=f"Study {escape(study)}", caption=escape(footer) or None)
    table.add_column("arm")
    for state in shown:
        table.add_column(state, justify="right", style={"failed": "red", "diverged": "yellow"}.get(state))
    table.add_column("progress")
    table.add_column("loss", justify="right")
    table.add_column("to go", justify="right")

    def line(name: str, states: dict[State, int], total: int, share: float, loss: str, to_go: float | None) -> None:
        counts = [f"{states.get('done', 0)}/{total}", *(str(states.get(s) or "") for s in shown if s != "done")]
        bar = ProgressBar(total=1.0, completed=share, width=20)
        table.add_row(escape(name), *counts, bar, loss, duration(to_go) if to_go else "")

    for arm in arms:
        line(arm.arm, arm.states, arm.runs, arm.share, _loss(arm), arm.to_go_s)
    table.add_section()
    flops = sum(r.flops for r in runs)
    states = {s: sum(a.states.get(s, 0) for a in arms) for s in STATES}
    share = sum(r.share * r.flops for r in runs) / flops
    left = [a.to_go_s for a in arms if a.to_go_s is not None]
    packs = len({r.pack for r in runs if r.state == "running"})
    line("all", states, len(runs), share, "", sum(left) / max(packs, 1) if len(left) == len(arms) else None)
    return table


def _loss(arm: ArmStatus) -> str:
    if arm.loss is not None:
        return f"{arm.loss:.3f}"
    return "" if arm.train_loss is None else f"({arm.train_loss:.3f})"


def reasons(runs: Sequence[RunStatus]) -> list[RenderableType]:
    """Why runs failed or diverged: each failed pack with its log's last lines, a line a diverged run."""
    shown: list[RenderableType] = []
    packs: dict[tuple[str | None, str | None], list[RunStatus]] = {}
    for run in runs:
        if run.state == "failed":
            packs.setdefault((run.pack, run.reason), []).append(run)
    for (pack, reason), members in list(packs.items())[:REASONS_SHOWN]:
        names = ", ".join(dict.fromkeys(m.arm for m in members))
        count = "1 run" if len(members) == 1 else f"{len(members)} runs"
        shown.append(Text(f"{count} failed ({names}): {reason}", style="red"))
        log = [line for line in members[0].log if reason is None or reason not in line][-LOG_LINES_SHOWN:]
        if log:
            shown.append(Text("\n".join(f"  {line}" for line in log), style="dim"))
            shown.append(Text(f"  The whole log is {pack}/log.txt"))
    diverged = [r for r in runs if r.state == "diverged"]
    shown += [Text(f"{r.arm} ({r.run_id}): {r.reason}", style="yellow") for r in diverged[:REASONS_SHOWN]]
    hidden = max(0, len(packs) - REASONS_SHOWN) + max(0, len(diverged) - REASONS_SHOWN)
    if hidden:
        shown.append(Text(f"... and {hidden} more: `lab sweep status --json` has them all."))
    if packs:
        shown.append(Text("`lab sweep run` goes on from their last checkpoint; `lab sweep retry` forgets them first."))
    return shown


def status_report(study: str, runs: Sequence[RunStatus], footer: str = "") -> Group:
    """The table, and below it why runs failed or diverged."""
    return Group(status_table(study, runs, footer), *reasons(runs))
