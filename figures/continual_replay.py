"""What the paper leaves open, as charts: replay against size and length, and the parent's length at one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.continual import lengths
from analysis.panels import BLUE, GREY, sequential
from figures.continual_measured import Sides
from figures.drawing import axes, count, empty_panel, foot, key, mark, save, token_axis

LINES = ("-", "--", ":", "-.")
# Budgets closer than this are one: steps are whole.
SAME = 0.02


def _cells(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Seeds together, of the sizes and budgets at which several shares were replayed: N, D, replay, `value`, runs."""
    budget = np.round(np.log(rows.D.to_numpy(float)) / SAME)
    groups = rows.assign(budget=budget).groupby(["N", "budget", "replay"])
    cells = groups.agg(D=("D", "mean"), value=(value, "mean"), runs=("run_id", tuple)).reset_index()
    shares = cells.groupby(["N", "budget"]).replay.transform("nunique")
    return cells[shares >= 3]


def replay_by_size(sides: Sides, stem: Path) -> Path:
    """What the source forgets and what the target pays, over the share replayed, by size and target tokens."""
    figure, (left, right) = axes(1, 2, (11, 4.6))
    own = sides.own
    shown: list[pd.DataFrame] = []
    if own.ladder.empty or own.forgotten.empty:
        for ax in (left, right):
            empty_panel(ax, own.why("ladder" if own.ladder.empty else "forgetting"))
    else:
        text = own.ladder.text.iloc[0]
        forgotten = own.forgotten[(own.forgotten.text == text) & (own.forgotten.setting == "")]
        runs = own.runs[(own.runs.role == "cpt") & (own.runs.text == text) & (own.runs.setting == "")]
        rises, losses = _cells(forgotten, "rise"), _cells(runs, "loss")
        plain = losses[losses.replay == 0].set_index(["N", "budget"]).value
        before = [plain.get(key, np.nan) for key in zip(losses.N, losses.budget, strict=True)]
        costs = losses.assign(value=100 * (losses.value / before - 1))
        shown = [rises, costs]
        _by_share(left, rises, "loss in the source, after less before, nats")
        _by_share(right, costs[costs.value.notna()], "target loss above that without replay, %")
        budgets = _budgets(rises)
        key(figure, [Line2D([], [], color=GREY, ls=LINES[k % len(LINES)], label=f"{count(d)} target tokens")
                     for k, d in enumerate(budgets)])  # fmt: skip
    left.set_title("what is forgotten")
    right.set_title("what the target pays")
    foot(figure, "At equal tokens of the target, and so at its equal compute. The paper leaves open how the share that "
         "is enough depends on size and on length.")  # fmt: skip
    return save(figure, stem, sides.provenance("replay_by_size", *shown))


def _budgets(cells: pd.DataFrame) -> list[float]:
    """Target tokens, by what most sizes have first."""
    found = cells.groupby("budget").agg(sizes=("N", "nunique"), D=("D", "mean"))
    return [float(d) for d in found.sort_values(["sizes", "D"], ascending=False).D]


def _by_share(ax: Axes, cells: pd.DataFrame, label: str) -> None:
    if cells.empty:
        empty_panel(ax, "no size has three shares of replay at one budget")
        return
    cmap, norm = sequential(cells.N.to_numpy())
    shares = sorted(set(cells.replay))
    places = {share: k for k, share in enumerate(shares)}
    budgets = _budgets(cells)
    for (n, _), part in cells.groupby(["N", "budget"]):
        line = int(np.argmin(np.abs(np.log(np.array(budgets) / part.D.mean()))))
        main = line == 0
        ax.plot([places[r] for r in part.replay], part.value, "o", ls=LINES[line % len(LINES)], ms=4, lw=1.3,
                color=cmap(norm(n)), label=count(float(str(n))) if main else None)  # fmt: skip
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
    ax.set(xlabel="share of the source replayed, %", ylabel=label)
    ax.legend(title="parameters", fontsize=8)


def parents(sides: Sides, stem: Path) -> Path:
    """Target loss and tokens saved at one size, by how long its parent was trained."""
    figure, (left, right) = axes(1, 2, (10, 4.4))
    own = sides.own
    table = own.by_parent
    if table.empty:
        for ax in (left, right):
            empty_panel(ax, own.why("parents"))
    else:
        n = float(table.N.max())
        part = table[n == table.N]
        anchor = own.curves["scratch", n]
        left.plot(anchor.tokens, anchor.loss, "-o", color=BLUE, ms=4, lw=1.2)
        # Lengths are coloured as sizes elsewhere: light is more.
        cmap, norm = sequential(part.parent_D.to_numpy())
        handles = [mark("from scratch", BLUE, "o", "-")]
        for length, some in part.groupby("parent_D"):
            colour = cmap(norm(length))
            left.plot(some.D, some.loss, "-o", color=colour, ms=4, lw=1.2)
            exact = some[some.kind == "exact"]
            right.plot(exact.D, 100 * exact.saved, "-o", color=colour, ms=4, lw=1.2)
            handles.append(mark(f"parent of {count(float(str(length)))} tokens", colour, "o", "-"))
        right.axhline(0, color=GREY, lw=0.8)
        for ax, label in ((left, "target loss, nats per token"), (right, "tokens saved at equal loss, %")):
            token_axis(ax)
            ax.set(xlabel="target tokens", ylabel=label)
        left.set_title(f"{count(n)} parameters")
        key(figure, handles)
    foot(figure, "In the paper a parent's tokens are 20 N: how long it was trained and how large it is cannot be told "
         "apart. Here they vary at one size.")  # fmt: skip
    return save(figure, stem, sides.provenance("parents", table))


def parents_in_words(sides: Sides) -> str:
    """Savings by the parent's length at one size and budget, as a sentence; why not, where there are none."""
    table = sides.own.by_parent
    found = lengths.compared(table) if len(table) else table
    if found.empty:
        return f"Nothing tells the parent's length from its size: {sides.own.why('parents')}."
    sentences = []
    for n, part in found.groupby("N"):
        each = ", ".join(f"{100 * row['saved']:.0f} % from a parent of {count(row['parent_D'])} tokens"
                         for row in part.to_dict("records"))  # fmt: skip
        sentences.append(f"At {count(float(str(n)))} parameters and {count(float(part.D.iloc[0]))} tokens of the "
                         f"target, continuing saves {each}.")  # fmt: skip
    return " ".join(sentences)
