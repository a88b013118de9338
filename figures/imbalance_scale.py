"""Figures 2, 4, 5, 9 and 10: the same questions over tokens and model size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.panels import GREY
from figures.drawing import axes, foot, key, mark, save
from figures.imbalance_drawing import (
    HALF,
    LANGUAGE,
    MARK_SIZE,
    NAME,
    TENTH,
    absent,
    evidence,
    partly,
    perplexity_axis,
    same_worths,
    series,
    tokens_axis,
    worth_axis,
)
from figures.imbalance_sides import ROLES, Side, Sides, missing

CLONES = ("clone 50 %", "clone 10 %")
MERGED = ("l2 50 %, merged", "l2 10 %, merged")


def _both_mixtures(side: Side, arms: tuple[str, str], size: str | None = None) -> pd.DataFrame:
    return side.pick("|".join(arms), size=size)


def _line(ax: Axes, x: np.ndarray, rows: pd.DataFrame, column: str, arm: str, language: str) -> None:
    marker = TENTH if "10 %" in arm else HALF
    series(ax, x, rows, column, LANGUAGE[language], marker, "-", MARK_SIZE[language])


def _key(second: str) -> list[object]:
    mixtures = [mark("50/50", marker=HALF), mark("90/10", marker=TENTH)]
    return [*[mark(NAME[n], LANGUAGE[n], "s") for n in ("l1", second)], *mixtures, *evidence()]


def figure_2(sides: Sides, stem: Path) -> Path:
    """Clones: perplexity and TEff over tokens at the main size, and over size at T tokens."""
    return _tokens_and_size(sides, CLONES, "figure_2", stem)


def figure_4(sides: Sides, stem: Path) -> Path:
    """English and French in a merged vocabulary: perplexity and TEff over tokens, and over size."""
    return _tokens_and_size(sides, MERGED, "figure_4", stem)


def _tokens_and_size(sides: Sides, arms: tuple[str, str], function: str, stem: Path) -> Path:
    figure, grid = axes(2, 4, (12, 6.6))
    frames = [_both_mixtures(side, arms) for side in sides.both]
    frames = [rows[((rows["size"] == "main") & (rows.times >= 1)) | (rows.times == 1)] for rows in frames]
    names = missing(frames[0], frames[1])
    for line, side, rows in zip(grid, sides.both, frames, strict=True):
        by_tokens, by_size = rows[rows["size"] == "main"], rows[rows.times == 1]
        for ax, column, shown, along in (
            (line[0], "ppl", by_tokens, "tokens"),
            (line[1], "teff", by_tokens, "tokens"),
            (line[2], "ppl", by_size, "size"),
            (line[3], "teff", by_size, "size"),
        ):
            what = "perplexity" if column == "ppl" else "TEff"
            ax.set_title(f"{side.title}: {what}")
            if not np.isfinite(shown[column].astype(float)).any():
                absent(ax, names if ax is line[0] else [])
                continue
            for (arm, language), part in shown.groupby(["arm", "language"]):
                at = part.times if along == "tokens" else part["size"].map(ROLES.index)
                _line(ax, at.to_numpy(float), part, column, str(arm), str(language))
            _axes_of(ax, column)
            if along == "tokens":
                tokens_axis(ax)
                ax.set_xlim(0.85, 4.7)
                ax.xaxis.set_major_locator(FixedLocator([1, 2, 3, 4]))
            else:
                _size_axis(ax, side)
    for column_of_panels in (1, 3):
        same_worths([line[column_of_panels] for line in grid])
    key(figure, _key("clone1" if arms is CLONES else "l2"))
    foot(figure, partly(names, len(frames[0][["arm", "times", "size"]].drop_duplicates())))
    return save(figure, stem, sides.provenance(function, *frames))


def _axes_of(ax: Axes, column: str) -> None:
    if column == "ppl":
        perplexity_axis(ax)
    else:
        worth_axis(ax)


def _size_axis(ax: Axes, side: Side) -> None:
    ax.set_xlim(-0.4, 2.4)
    ax.xaxis.set_major_locator(FixedLocator([0, 1, 2]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda v, _: side.sizes.get(ROLES[int(v)], ""))
    ax.set_xlabel("model size")


def figure_9(sides: Sides, stem: Path) -> Path:
    """Clones: perplexity, MLTE and TEff for every size and budget."""
    return _every_size(sides, CLONES, "figure_9", stem)


def figure_10(sides: Sides, stem: Path) -> Path:
    """English and French, merged: perplexity, MLTE and TEff for every size and budget."""
    return _every_size(sides, MERGED, "figure_10", stem)


def _every_size(sides: Sides, arms: tuple[str, str], function: str, stem: Path) -> Path:
    figure, grid = axes(3, 6, (13, 8))
    frames = [_both_mixtures(side, arms) for side in sides.both]
    names = missing(frames[0], frames[1])
    for line, role in zip(grid, ROLES, strict=True):
        for at, (side, rows) in enumerate(zip(sides.both, frames, strict=True)):
            shown = rows[rows["size"] == role].assign(own=lambda t: t.share * t.times)
            for end in ("", "_low", "_high"):
                shown[f"mlte{end}"] = shown[f"teff{end}"] * shown.own
            shown = shown.assign(mlte_exact=shown.teff_exact, mlte_kind=shown.teff_kind)
            for ax, column in zip((line[at], line[at + 2], line[at + 4]), ("ppl", "mlte", "teff"), strict=True):
                what = {"ppl": "perplexity", "mlte": "MLTE, T", "teff": "TEff"}[column]
                ax.set_title(f"{what}\n{side.title}, {side.sizes.get(role, role)}", fontsize=9)
                if not np.isfinite(shown[column].astype(float)).any():
                    absent(ax, [], "not in the table")
                    continue
                for (arm, language), part in shown.groupby(["arm", "language"]):
                    x = (part.own if column == "mlte" else part.times).to_numpy(float)
                    _line(ax, x, part, column, str(arm), str(language))
                if column == "mlte":
                    _diagonal(ax)
                else:
                    _axes_of(ax, column)
                    tokens_axis(ax)
                    ax.set_xlim(0.35, 4.8)
                    ax.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4]))
        same_worths([line[4], line[5]])
    key(figure, [*_key("clone1" if arms is CLONES else "l2"), mark("own tokens = MLTE", line=":")])
    foot(figure, partly(names, len(frames[0][["arm", "times", "size"]].drop_duplicates())))
    return save(figure, stem, sides.provenance(function, *frames))


def _diagonal(ax: Axes) -> None:
    """MLTE over own tokens; on the diagonal a token is worth itself."""
    ax.plot([0.03, 5], [0.03, 5], ":", color=GREY, linewidth=1, zorder=0)
    ticks = FixedLocator([0.1, 0.2, 0.5, 1, 2, 4])
    ax.set(xscale="log", yscale="log", xlim=(0.04, 5), ylim=(0.04, 5), xlabel="own tokens, T")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(ticks)
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda v, _: f"{v:g}")


def figure_5(sides: Sides, stem: Path) -> Path:
    """One language alone: perplexity over tokens, with the law 1/PPL = c - a x^-b."""
    figure, grid = axes(3, 4, (12, 8.4))
    shown, lacking = [], []
    for line, role in zip(grid, ROLES, strict=True):
        for at, language in enumerate(("l1", "l2")):
            for ax, side in zip(line[2 * at : 2 * at + 2], sides.both, strict=True):
                rows = side.ladder(role, language)
                ax.set_title(f"{NAME[language]}, {side.sizes.get(role, role)}, {side.title}", fontsize=9)
                if rows.empty:
                    absent(ax, [], f"no runs on {language} alone\nat the {role} size")
                    lacking.append(f"{language} at the {role} size")
                    continue
                shown.append(rows)
                x = np.geomspace(rows.x.min() * 0.9, rows.x.max() * 1.15, 120)
                ppl = side.law(role, language, x)
                if ppl is not None:
                    dash = "--" if (role, language) in side.rough else "-"
                    ax.plot(x, ppl, dash, color=LANGUAGE[language], linewidth=1)
                series(ax, rows.x.to_numpy(float), rows, "ppl", LANGUAGE[language])
                perplexity_axis(ax)
                tokens_axis(ax)
                ax.set_xlim(0.042, 4.3)
    for ax in grid[:, 0]:
        ax.set_ylabel("perplexity")
    lines = [mark("law, recovered or fitted", line="-"), mark("law, read off the plot", line="--")]
    key(figure, [mark(NAME[n], LANGUAGE[n], "o") for n in ("l1", "l2")] + [*lines, *evidence()])
    lack = f"Not measured: ladders of {', '.join(lacking)}." if lacking else ""
    foot(figure, lack, " ".join(sides.measured.remarks))
    return save(figure, stem, sides.provenance("figure_5", *shown))
