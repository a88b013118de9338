"""Figures 1, 3 and 8: what a share of the tokens is worth for a clone, for a second language, and with anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from analysis.panels import GREY
from figures.drawing import axes, foot, key, mark, save
from figures.imbalance_drawing import (
    LANGUAGE,
    MARK_SIZE,
    NAME,
    absent,
    evidence,
    filled,
    named_share,
    partly,
    perplexity_axis,
    same_worths,
    series,
    share_axis,
    worth_axis,
)
from figures.imbalance_sides import Side, Sides, missing

CLONE = r"clone [\d.]+ %"
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
VOCABULARY = {"disjoint": ("s", ":"), "merged": ("o", "-")}
FROZEN = {"majority": ":", "random init": "-.", "fine-tuned in the clone": "--"}


def second_share(rows: pd.DataFrame) -> np.ndarray:
    """The second language's share of the tokens, from the share of the row's own language."""
    share = rows.share.to_numpy(float)
    return np.where(rows.language == "l1", 1 - share, share)


def figure_1_left(sides: Sides, stem: Path) -> Path:
    """Perplexity of a clone and of its original by the clone's share; dashed: alone on the same own tokens."""
    figure, panels = axes(1, 2, (10, 4.6))
    rows = [side.pick(CLONE, 1.0).query("share <= 0.5 or language == 'l1'") for side in sides.both]
    names = missing(rows[0], rows[1])
    for ax, side, shown in filled(panels, sides, rows, names):
        _alone(ax, side, "l1", 1 - np.linspace(0.05, 0.5, 60))
        _alone(ax, side, "clone1", np.linspace(0.05, 0.5, 60))
        for language, part in shown.groupby("language"):
            name = str(language)
            series(ax, second_share(part), part, "ppl", LANGUAGE[name], size=MARK_SIZE[name])
        _shares_and_perplexity(ax, SHARES, "clone's share of the tokens")
    law = mark("alone on as many own tokens (MLPE)", line="--")
    key(figure, [mark(NAME[n], LANGUAGE[n], "o") for n in ("l1", "clone1")] + [law, *evidence()])
    foot(figure, partly(names, rows[0].arm.nunique()))
    return save(figure, stem, sides.provenance("figure_1_left", *rows))


def _alone(ax: Axes, side: Side, language: str, x: np.ndarray, size: str = "main") -> None:
    """The perplexity that the language has alone on x T of its own tokens, over the second language's share."""
    ppl = side.law(size, language, x)
    if ppl is not None:
        ax.plot(1 - x if language == "l1" else x, ppl, "--", color=LANGUAGE[language], linewidth=1)


def _shares_and_perplexity(ax: Axes, shares: tuple[float, ...], label: str) -> None:
    share_axis(ax, shares, label)
    perplexity_axis(ax)
    ax.set_ylabel("perplexity")


def figure_1_right(sides: Sides, stem: Path) -> Path:
    """Accuracy of classification learned in the original only, in the original and in the clone."""
    figure, panels = axes(1, 2, (10, 4.4), sharey=True)
    rows = [side.probed("finetune", CLONE) for side in sides.both]
    names = missing(rows[0], rows[1])
    for ax, _, shown in filled(panels, sides, rows, names):
        for (language, condition), part in _mean_of_tasks(shown).groupby(["language", "condition"]):
            x = named_share(part)
            if condition == "model":
                series(ax, x, part, "value", LANGUAGE[str(language)], line="-")
            else:
                ax.plot(x, part.value, FROZEN.get(str(condition), "--"), color=LANGUAGE[str(language)], linewidth=1)
        share_axis(ax, SHARES, "clone's share of the tokens")
    panels[0].set_ylabel("accuracy, mean of the tasks")
    lines = [mark(name, line=dash) for name, dash in FROZEN.items()]
    key(figure, [mark(NAME[n], LANGUAGE[n], "o", "-") for n in ("l1", "clone1")] + lines)
    tasks = sorted(set(rows[1].place))
    foot(
        figure,
        sides.notes["Figure 1 right"],
        f"Measured: mean of {', '.join(tasks)}." if tasks else "",
        partly(names, rows[0].arm.nunique()),
    )
    return save(figure, stem, sides.provenance("figure_1_right", *rows))


def _mean_of_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """Unweighted mean over the tasks of each arm, language and condition."""
    ends = rows.groupby(["arm", "language", "condition"], sort=False)[["value", "value_low", "value_high"]].mean()
    return ends.reset_index().assign(value_exact=True)


def figure_3(sides: Sides, stem: Path) -> Path:
    """Two real languages by the second one's share, in disjoint and in merged vocabularies."""
    figure, grid = axes(2, 2, (10, 8))
    pattern = r"l2 [\d.]+ %, (disjoint|merged)"
    rows = [side.pick(pattern, 1.0) for side in sides.both]
    names = missing(rows[0], rows[1])
    shares = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    for (left, right), side, shown in zip(grid, sides.both, rows, strict=True):
        left.set_title(f"{side.title}: perplexity")
        right.set_title(f"{side.title}: TEff")
        if shown.empty:
            absent(left, names)
            absent(right, [])
            continue
        for language in ("l1", "l2"):
            _alone(left, side, language, np.linspace(0.05, 0.95, 90))
        for (own, vocabulary), part in shown.groupby(["language", shown.arm.str.rpartition(", ")[2]]):
            marker, dash = VOCABULARY[str(vocabulary)]
            for ax, column in ((left, "ppl"), (right, "teff")):
                series(ax, second_share(part), part, column, LANGUAGE[str(own)], marker, dash)
        _shares_and_perplexity(left, shares, "share of l2")
        worth_axis(right)
        share_axis(right, shares, "share of l2")
        right.set_ylabel("TEff")
    same_worths(grid[:, 1])
    lines = [mark(f"{name} vocabulary", marker=m, line=d) for name, (m, d) in VOCABULARY.items()]
    law = mark("alone (MLPE)", line="--")
    key(figure, [mark(NAME[n], LANGUAGE[n], "o") for n in ("l1", "l2")] + [*lines, law, *evidence()])
    foot(figure, partly(names, rows[0].arm.nunique()))
    return save(figure, stem, sides.provenance("figure_3", *rows))


def figure_8(sides: Sides, stem: Path) -> Path:
    """Perplexity of the original beside a clone at 50 % that shares a part of its ids; lines: alone on more tokens."""
    figure, panels = axes(1, 2, (10, 4.6))
    rows = [_anchored(side) for side in sides.both]
    names = missing(rows[0], rows[1])
    for ax, side, shown in filled(panels, sides, rows, names):
        for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            ppl = side.law("main", "l1", np.array(share))
            if ppl is not None:
                ax.axhline(float(ppl), color=GREY, linewidth=0.7, linestyle="--", zorder=0)
                ax.annotate(
                    f"alone, {share:g} T", (1, float(ppl)), (4, 0), xycoords=("axes fraction", "data"),
                    textcoords="offset points", va="center", fontsize=7.5, color=GREY,
                )  # fmt: skip
        series(ax, shown.anchored.to_numpy(float), shown, "ppl", LANGUAGE["l1"], line="-")
        ax.set_xticks([0, 0.1, 0.25, 0.5, 0.8, 0.9, 1])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}")
        ax.set(xlabel="ids that the clone shares, %", ylabel="perplexity of l1")
    key(figure, [mark(NAME["l1"], LANGUAGE["l1"], "o", "-"), *evidence()])
    foot(figure, partly(names, len(rows[0])))
    return save(figure, stem, sides.provenance("figure_8", *rows))


def _anchored(side: Side) -> pd.DataFrame:
    """The first language beside a clone at 50 %, by the share of ids in common; all in common is the language alone."""
    rows = side.pick(r"clone 50 %(, [\d.]+ % anchored)?", 1.0).query("language == 'l1'")
    shared = rows.arm.str.extract(r"([\d.]+) % anchored", expand=False).astype(float).fillna(0) / 100
    alone = side.ladder("main", "l1").query("x == 1").assign(arm="l1", times=1.0)
    rows = pd.concat([rows.assign(anchored=shared), alone.assign(anchored=1.0)]) if len(rows) else rows
    return rows.assign(anchored=rows.anchored if len(rows) else [])
