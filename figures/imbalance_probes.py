"""Figures 6, 7 and 11 to 13: how alike the two languages are inside the model."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from analysis.panels import GREY
from figures.drawing import axes, foot, key, mark, save
from figures.imbalance_drawing import MODEL, absent, evidence, filled, named_share, partly, series, share_axis
from figures.imbalance_sides import Sides, missing
from figures.imbalance_transfer import CLONE, SHARES

CONDITIONS = {"pairs": ("o", "-"), "all pairs": ("s", ":")}
BINS_A_DECADE = 4
# What the figures of gradients compare, and which row of a frame is a cell of a heat map.
GRADIENTS = {
    "figure_11": ("Figure 11", ("clone 50 %", "clone 10 %")),
    "figure_12": ("Figure 12", ("l2 50 %, merged", "l2 10 %, merged")),
    "figure_13": ("Figure 13", ("l2 50 %, disjoint", "l2 10 %, disjoint")),
}
MACRO = "all"
# The paper's number is of single sequences, to be read against random pairs; pooled halves against split halves.
CONTROLS = {"random pairs": "v", "pooled pairs": "s", "split halves": "^"}


def figure_6(sides: Sides, stem: Path) -> Path:
    """Cosine of a piece's embedding with its clone's, by the clone's share, in the decoder and in word2vec."""
    figure, grid = axes(2, 2, (10, 7.4))
    kinds = {"decoder": "{} embedding", "word2vec": "word2vec {}"}
    frames: list[pd.DataFrame] = []
    names: list[str] = []
    for line, side in zip(grid, sides.both, strict=True):
        for ax, end in zip(line, ("input", "output"), strict=True):
            ax.set_title(f"{side.title}: {end} embedding")
            before = len(frames)
            for model, probe in kinds.items():
                rows = side.probed(probe.format(end), CLONE)
                frames.append(rows := rows[rows.place == "all"])
                for condition, (marker, dash) in CONDITIONS.items():
                    part = rows[rows.condition == condition]
                    series(ax, named_share(part), part, "value", MODEL[model], marker, dash)
            if all(rows.empty for rows in frames[before:]):
                absent(ax, [])
            else:
                share_axis(ax, SHARES, "clone's share of the tokens")
                ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
                ax.set_ylabel("mean cosine")
    half = len(frames) // 2
    published, measured = pd.concat(frames[:half]), pd.concat(frames[half:])
    names = missing(published, measured)
    models = [mark(name, colour, "o", "-") for name, colour in MODEL.items()]
    what = {"pairs": "a piece and its clone", "all pairs": "all pairs (control)"}
    key(figure, [*models, *(mark(what[c], marker=m, line=d) for c, (m, d) in CONDITIONS.items()), *evidence()])
    unmeasured = sorted(set(published.probe) - set(measured.probe)) if len(measured) else []
    lack = f"Not measured: {', '.join(unmeasured)}." if unmeasured else ""
    foot(figure, sides.notes["Figure 6"], lack, partly(names, published.arm.nunique()))
    return save(figure, stem, sides.provenance("figure_6", published, measured))


def figure_7(sides: Sides, stem: Path) -> Path:
    """Cosine of input embeddings by how often a piece occurs, as a share of all training tokens."""
    figure, panels = axes(1, 2, (10, 4.6), sharex=True, sharey=True)
    colours = dict(zip(SHARES, mpl.colormaps["viridis"](np.linspace(0, 0.88, len(SHARES))), strict=True))
    frames: list[pd.DataFrame] = []
    for side in sides.both:
        rows = side.probed("input embedding", CLONE, "pairs")
        frames.append(rows := rows[rows.place != "all"])
    names = missing(frames[0], frames[1])
    for ax, side, rows in filled(panels, sides, frames, names):
        for _, part in rows.groupby("arm"):
            share = float(named_share(part)[0])
            middle = 10 ** (part.place.to_numpy(float) + 0.5 / BINS_A_DECADE) / side.tokens
            series(ax, middle, part, "value", colours.get(share, GREY), line="-")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=12))
        ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        ax.set_xlabel("occurrences of a piece by all training tokens")
    panels[0].set_ylabel("mean cosine with the clone")
    shown = sorted({float(s) for rows in frames if len(rows) for s in named_share(rows)})
    key(figure, [mark(f"clone {100 * s:g} %", colours.get(s, GREY), "o", "-") for s in shown] + evidence())
    foot(figure, f"Published: {sides.notes['Figure 7'][0].lower()}{sides.notes['Figure 7'][1:]}",
         partly(names, frames[0].arm.nunique()))  # fmt: skip
    return save(figure, stem, sides.provenance("figure_7", *frames))


def figure_11(sides: Sides, stem: Path) -> Path:
    """Clones: cosine of the two languages' gradients, for each parameter tensor."""
    return _gradients(sides, "figure_11", stem)


def figure_12(sides: Sides, stem: Path) -> Path:
    """English and French in a merged vocabulary: cosine of gradients for each parameter tensor."""
    return _gradients(sides, "figure_12", stem)


def figure_13(sides: Sides, stem: Path) -> Path:
    """English and French in disjoint vocabularies: cosine of gradients for each parameter tensor."""
    return _gradients(sides, "figure_13", stem)


def _gradients(sides: Sides, function: str, stem: Path) -> Path:
    name, arms = GRADIENTS[function]
    figure, (*maps, means) = axes(1, 3, (12.5, 5.6), width_ratios=(3, 3, 2.2))
    own, theirs = (side.probed("gradient", "|".join(arms)) for side in (sides.measured, sides.published))
    names = missing(theirs, own)
    image = None
    for ax, arm in zip(maps, arms, strict=True):
        cells = _cells(own[(own.arm == arm) & (own.condition == "pairs")])
        ax.set_title(f"measured: {arm}")
        if cells.empty:
            absent(ax, [n for n in names if n.startswith(arm)])
            continue
        image = _heat(ax, cells)
    if image is not None:
        figure.colorbar(image, ax=maps, shrink=0.5, label="cosine of gradients", location="left")
    _means(means, sides, arms)
    handles = [mark("published macro mean", GREY, "D"), mark("measured macro mean", MODEL["decoder"], "o")]
    words = {
        "random pairs": "random pairs (control)",
        "pooled pairs": "two languages, halves of the text",
        "split halves": "one language, halves of the text (ceiling of these)",
    }
    key(figure, handles + [mark(words[c], MODEL["decoder"], m, filled=False) for c, m in CONTROLS.items()])
    rounding = "The bias of the keys has no gradient but rounding." if own.place.str.contains("k.bias").any() else ""
    foot(figure, sides.notes[name], rounding, partly(names, len(arms)))
    return save(figure, stem, sides.provenance(function, own, theirs))


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Cosine by tensor (rows) and layer (columns), from places like `mlp.in.kernel/3`."""
    parts = rows.place.str.extract(r"^(?P<tensor>.+)/(?P<layer>\d+)$").dropna()
    frame = parts.astype({"layer": int}).assign(value=rows.value)
    return frame.pivot_table(index="tensor", columns="layer", values="value", sort=False).sort_index(axis=1)


def _macro(rows: pd.DataFrame) -> float:
    """Mean over all block tensors and layers, or the macro mean where it is given as such."""
    given = rows[rows.place == MACRO]
    if len(given):
        return float(given.value.mean())
    cells = _cells(rows)
    return float(np.nanmean(cells.to_numpy())) if cells.size else float("nan")


def _heat(ax: Axes, cells: pd.DataFrame) -> mpl.image.AxesImage:
    values = cells.to_numpy(float)
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        shade = "white" if abs(value) > 0.6 else "#222222"
        ax.text(j, i, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7, color=shade)
    ax.set_xticks(range(values.shape[1]), [str(c) for c in cells.columns])
    ax.set_yticks(range(values.shape[0]), [str(c) for c in cells.index], fontsize=7)
    ax.set_xlabel("layer")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image


def _means(ax: Axes, sides: Sides, arms: tuple[str, str]) -> None:
    """Macro means of both sides with the measured ceiling and control."""
    for x, arm in enumerate(arms):
        for side, marker, colour, shift in (
            (sides.published, "D", GREY, -0.14),
            (sides.measured, "o", MODEL["decoder"], 0.14),
        ):
            rows = side.probed("gradient", arm.replace("(", r"\("))
            value = _macro(rows[rows.condition == "pairs"])
            if np.isfinite(value):
                ax.plot(x + shift, value, marker, color=colour)
                ax.annotate(
                    f"{value:.3f}", (x + shift, value), (0, 7), textcoords="offset points", ha="center", fontsize=7.5
                )
            for condition, control in CONTROLS.items():
                level = _macro(rows[rows.condition == condition])
                if np.isfinite(level):
                    ax.plot(x + shift, level, control, color=colour, markerfacecolor="white")
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    ax.set_xticks(range(len(arms)), [arm.replace(", ", "\n") for arm in arms])
    ax.set(xlim=(-0.5, len(arms) - 0.5), title="macro mean", ylabel="cosine of gradients")
    ax.margins(y=0.12)
