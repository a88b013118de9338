"""Figures 3, 5 and 6 and the distance chart: accuracies, forgetting and replay, and transfer over distance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.continual import distance
from analysis.continual.names import setting
from analysis.panels import BLUE, GREEN, GREY, ORANGE, VERMILION, plain_log_ticks
from figures.continual_measured import Sides
from figures.drawing import axes, empty_panel, foot, key, mark, save

COLOUR = {"source": GREEN, "scratch": BLUE, "cpt": VERMILION, "joint": ORANGE}
NAME = {"source": "source model", "scratch": "from scratch", "cpt": "continued", "joint": "both from random"}
MAIN = "main target"


# Sizes of one body differ in the head by as much, where their vocabularies differ.
SAME_SIZE = 0.2


def _of_size(rows: pd.DataFrame, n: float) -> np.ndarray:
    """Which rows are of a size, whatever their vocabulary."""
    return np.isclose(rows["N"].to_numpy(float), n, rtol=SAME_SIZE)


def figure_3(sides: Sides, stem: Path) -> Path:
    """Accuracy in each target of the source's model, from scratch and continued, with chance."""
    own = sides.own
    rows = own.accuracies
    shown = rows[(rows.language == "target") & (rows.replay == 0)] if len(rows) else rows
    if len(shown):
        budget = shown[shown.role == "cpt"].groupby(["N", "tokens_seen"]).eval_hash.nunique().sort_values()
        n, tokens = budget.index[-1] if len(budget) else (float("nan"), float("nan"))
        keep = _of_size(shown, n) & ((shown.tokens_seen == tokens) | (shown.role == "source"))
        shown = _longest_source(shown[keep])
        settings = shown.name.map(setting)
        shown = shown[settings.isin(set(settings[shown.role != "source"]))]
    kinds = [(probe, place) for probe, place in _suites(shown)]
    figure, panels = axes(1, max(2, len(kinds)), (5.2 * max(2, len(kinds)), 4.4), squeeze=False)
    for ax, kind in zip(panels[0], kinds, strict=False):
        _bars(ax, shown[(shown.probe == kind[0]) & (shown.place == kind[1])], "target")
        ax.set_title(_title(*kind))
    for ax in panels[0][len(kinds) :]:
        empty_panel(ax, own.why("accuracies") if not kinds else "no further suite was measured")
    key(
        figure, [*(mark(NAME[r], COLOUR[r], "s") for r in ("source", "scratch", "cpt")), mark("chance", GREY, line=":")]
    )
    foot(figure, sides.paper.notes["Figure 3"])
    return save(figure, stem, sides.provenance("figure_3", shown))


def _longest_source(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the source's models, in each language and setting, the one that saw most."""
    tokens = rows.tokens_seen.where(rows.role == "source")
    most = tokens.groupby([rows.language, rows.name.map(setting)]).transform("max")
    return rows[(rows.role != "source") | (tokens == most)]


def _suites(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return sorted({(p, s) for p, s in zip(rows.probe, rows.place, strict=True)}) if len(rows) else []


def _title(probe: str, suite: str) -> str:
    return probe if suite == probe else f"{probe}: {suite}"


def _bars(ax: Axes, rows: pd.DataFrame, language: str) -> None:
    """Grouped bars: a group for each setting of the target, a bar for each role."""
    models = rows[rows.condition == "model"]
    of = {name: setting(name) or MAIN for name in models.name}
    groups = sorted(set(of.values()), key=lambda g: (g != MAIN, _natural(g)))
    places = {g: i for i, g in enumerate(groups)}
    ends = []
    for k, role in enumerate(("source", "scratch", "cpt")):
        for row in models[models.role == role].to_dict("records"):
            x = places[of[row["name"]]] + (k - 1) * 0.27
            value = 100 * row["value"]
            ax.bar(x, value, 0.25, color=COLOUR[role], alpha=0.85)
            ax.errorbar(x, value, [[value - 100 * row["low"]], [100 * row["high"] - value]], fmt="none", ecolor=GREY,
                        elinewidth=1, capsize=2)  # fmt: skip
            ends.append(value)
    chance = rows[rows.condition == "chance"]
    if len(chance):
        ax.axhline(100 * chance.value.mean(), color=GREY, ls=":", lw=1.2)
        ends.append(100 * chance.value.mean())
    ax.set_xticks(
        range(len(groups)), groups, rotation=30 if len(groups) > 3 else 0, ha="right" if len(groups) > 3 else "center"
    )
    ax.set(ylabel=f"accuracy in the {language}, %")
    if ends:
        ax.set_ylim(max(0, min(ends) - 12), min(100, max(ends) + 8))


def _natural(text: str) -> list[tuple[bool, float | str]]:
    """A key that sorts numbers within names by their value."""
    parts = re.split(r"(\d+\.?\d*)", text)
    return [(k % 2 == 1, float(part) if k % 2 else part) for k, part in enumerate(parts)]


def figure_5(sides: Sides, stem: Path) -> Path:
    """Loss in the source over FLOPs spent on it, and in the target over FLOPs spent on that, by share of replay."""
    figure, (left, right) = axes(1, 2, (11, 4.8))
    own = sides.own
    shown = own.replayed
    if len(shown):
        text = own.ladder.text.iloc[0] if len(own.ladder) else shown.text.iloc[0]
        shown = shown[(shown.text == text) & _of_size(shown, own.main_n) & (shown.setting == "")]
        if len(shown):
            shown = shown[np.isclose(shown.target_tokens, _budget(shown), rtol=0.02)]
    shares = sorted(set(shown.replay)) if len(shown) else []
    ends: list[Any] = []
    if not shares:
        for ax in (left, right):
            empty_panel(ax, own.why("replay"))
    else:
        colours = dict(zip(shares, _shades(len(shares)), strict=True))
        _source_panel(left, sides, shown, colours)
        target = shown[shown.language == "target"]
        for share, part in target.groupby("replay"):
            line = _mean_curve(part)
            right.plot(line.flops, line.loss, "o-" if len(line) == 1 else "-", color=colours[share], ms=5, lw=1.4)
            ends += [share] if len(line) == 1 else []
        right.set(xscale="log", yscale="log", xlabel="FLOPs spent on the target", ylabel="target loss, nats per token")
        plain_log_ticks(right)
        key(figure, [Line2D([], [], color=c, lw=2, label=f"replay {100 * s:g} %") for s, c in colours.items()])
    left.set_title("source")
    right.set_title("target")
    before, after = (sides.paper.fact(f"source loss {when}, 1.4B") for when in ("before", "after without replay"))
    text = (
        f"Published, at 1.4B: {before:.2f} nats before, {after:.2f} after without replay ({after / before - 1:+.0%})."
    )
    if ends:
        each = " and ".join(f"{100 * share:g} %" for share in ends)
        text += f" Runs with {each} of replay were evaluated at their ends alone: marks."
    foot(figure, sides.paper.notes["Figure 5"], text)
    return save(figure, stem, sides.provenance("figure_5", shown))


def _budget(rows: pd.DataFrame) -> float:
    """The target tokens at which most shares were run."""
    rounded = rows.assign(near=np.round(np.log(rows.target_tokens) / 0.02))
    best = rounded.groupby("near").replay.nunique().sort_values().index[-1]
    return float(rounded[rounded.near == best].target_tokens.median())


def _shades(k: int) -> list[tuple[float, float, float, float]]:
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](v) for v in np.linspace(0, 0.9, k)]


def _mean_curve(part: pd.DataFrame) -> pd.DataFrame:
    """Seeds together: the mean at each evaluation of a share's runs."""
    order = part.groupby("run_id").cumcount()
    return part.groupby(order)[["flops", "total", "loss"]].mean()


def _source_panel(ax: Axes, sides: Sides, shown: pd.DataFrame, colours: dict[float, tuple[float, ...]]) -> None:
    """Without replay no FLOPs are spent on the source: its end is a mark at the left edge."""
    source = shown[shown.language == "source"]
    if source.empty:
        empty_panel(ax, sides.own.why("forgetting"))
        return
    curves = {float(str(share)): _mean_curve(part) for share, part in source.groupby("replay")}
    spent = [float(line.flops[line.flops > 0].min()) for share, line in curves.items() if share > 0]
    edge = min(spent, default=2.0) / 2
    start = float(next(iter(curves.values())).loss.iloc[0])
    for share, line in curves.items():
        if share > 0:
            ax.plot(np.where(line.flops > 0, line.flops, edge), line.loss, "-", color=colours[share], lw=1.4)
        else:
            ax.plot([edge] * len(line), line.loss, "v", color=colours[share], ms=4.5, alpha=0.8)
    ax.axhline(start, color=GREY, lw=0.9, ls=":")
    ax.annotate("the parent's loss", (0.98, start), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                fontsize=8, color=GREY)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="FLOPs spent on the source (triangles: none)",
           ylabel="source loss, nats per token")  # fmt: skip
    plain_log_ticks(ax)


def figure_6(sides: Sides, stem: Path) -> Path:
    """Accuracy in source and target by share of replay, with both languages alone and with chance."""
    own, rows = sides.own, sides.own.accuracies
    shown = rows
    if len(rows):
        main = {name for name in rows.name if not setting(name)}
        shown = rows[rows.name.isin(main) & _of_size(rows, own.main_n)]
        shown = _longest_source(shown)
        shown = shown.assign(target_tokens=shown.tokens_seen * (1 - shown.replay))
        cpt = shown[shown.role == "cpt"]
        tokens = _budget(cpt) if len(cpt) else float("nan")
        cpt = cpt[np.isclose(cpt.target_tokens, tokens, rtol=0.02)]
        wanted = {"source": shown[shown.role == "source"].index, "cpt": cpt.index}
        alone = shown[shown.role == "scratch"]
        alone = alone[np.isclose(alone.target_tokens, tokens, rtol=0.02)]
        shown = shown.loc[[*wanted["source"], *alone.index, *wanted["cpt"]]]
    kinds = _suites(shown)
    figure, panels = axes(1, max(2, len(kinds)), (5.2 * max(2, len(kinds)), 4.4), squeeze=False)
    for ax, (probe, place) in zip(panels[0], kinds, strict=False):
        _by_share(ax, shown[(shown.probe == probe) & (shown.place == place)])
        ax.set_title(_title(probe, place))
    for ax in panels[0][len(kinds) :]:
        empty_panel(ax, own.why("accuracies") if not kinds else "no further suite was measured")
    key(figure, [mark("in the source", GREEN, "o", "-"), mark("in the target", VERMILION, "o", "-"),
                 mark("chance", GREY, line=":")])  # fmt: skip
    foot(figure, sides.paper.notes["Figure 6"])
    return save(figure, stem, sides.provenance("figure_6", shown))


def _by_share(ax: Axes, rows: pd.DataFrame) -> None:
    """Source alone, target alone, then continued runs by their replay."""
    models = rows[rows.condition == "model"]
    shares = sorted(set(models.replay[models.role == "cpt"]))
    ticks = ["source\nalone", "target\nalone", *(f"{100 * s:g}" for s in shares)]
    for language, colour in (("source", GREEN), ("target", VERMILION)):
        part = models[models.language == language]
        for x, role in ((0, "source"), (1, "scratch")):
            _point(ax, x, part[part.role == role], colour)
        cpt = part[part.role == "cpt"].groupby("replay")[["value", "low", "high"]].mean()
        at = np.array([2 + shares.index(float(str(s))) for s in cpt.index])
        ax.errorbar(at, 100 * cpt.value, [100 * (cpt.value - cpt.low), 100 * (cpt.high - cpt.value)], fmt="-o", ms=4.5,
                    color=colour, lw=1.3, capsize=2)  # fmt: skip
    chance = rows[rows.condition == "chance"]
    if len(chance):
        ax.axhline(100 * chance.value.mean(), color=GREY, ls=":", lw=1.2)
    ax.set_xticks(range(len(ticks)), ticks, fontsize=8)
    ax.axvline(1.5, color="#DDDDDD", lw=0.8)
    ax.set(ylabel="accuracy, %", xlabel="continued, by share of replay in %")


def _point(ax: Axes, x: float, part: pd.DataFrame, colour: str) -> None:
    if len(part):
        value, low, high = (100 * float(part[name].mean()) for name in ("value", "low", "high"))
        ax.errorbar([x], [value], [[value - low], [high - value]], fmt="o", ms=4.5, color=colour, capsize=2)


def distances(sides: Sides, stem: Path) -> Path:
    """What pre-training gains a target over how far it lies from the source, by every measured distance."""
    own = sides.own
    figure, panels = axes(2, 3, (11.5, 7), sharey=True)
    flat = panels.ravel()
    shown = own.gains
    if len(shown) and len(own.distances):
        shown = shown[_of_size(shown, own.main_n)]
        budget = float(str(shown.drop_duplicates(["D", *distance.TARGET]).D.mode().iloc[0]))
        shown = distance.joined(shown[shown["D"] == budget], own.distances)
    else:
        shown = shown.iloc[:0]
    first = shown.drop_duplicates(distance.TARGET).sort_values("gain", ascending=False) if len(shown) else shown
    number = {target: k for k, target in enumerate(_target(first), 1)} if len(shown) else {}
    ranks = distance.order(shown) if len(shown) else pd.DataFrame(columns=["measure", "derived", "rho"])
    for ax, (measure, near) in zip(flat, distance.MEASURES.items(), strict=False):
        part = shown[shown.measure == measure] if len(shown) else shown
        if part.empty:
            empty_panel(ax, f"{measure}: " + (own.why("distances") if own.distances.empty else "not measured"))
            continue
        for derived, colour, marker in ((True, ORANGE, "s"), (False, BLUE, "o")):
            some = part[part.derived == derived]
            ax.plot(some.value, 100 * some.gain, marker, color=colour, ms=6)
        _numbers(ax, part, number)
        ax.axhline(0, color=GREY, lw=0.8)
        if near:
            ax.invert_xaxis()
        ax.set_xlabel(f"{measure} ({'reversed: ' if near else ''}farther to the right)")
        ax.margins(x=0.12, y=0.12)
        found = ranks[(ranks.measure == measure) & (ranks.derived == "all")]
        if len(found):
            ax.set_title(f"rank correlation {found.rho.iloc[0]:+.2f}", fontsize=9, fontweight="normal")
    for ax in panels[:, 0]:
        if len(shown):
            ax.set_ylabel("loss below scratch, %")
    _targets(flat[5], number)
    key(figure, [mark("derived: the source's own text, changed", ORANGE, "s"), mark("another language", BLUE, "o")])
    foot(figure, "At equal size and tokens of the target. A derived target's setting of the dial is its distance by "
         "construction; the rank correlation is 1 where closer targets always gain more.")  # fmt: skip
    return save(figure, stem, sides.provenance("distances", shown))


def _target(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The target of each row, as a key."""
    return [tuple(one) for one in rows[distance.TARGET].to_numpy()]


def _numbers(ax: Axes, part: pd.DataFrame, number: dict[tuple[Any, ...], int]) -> None:
    """The number of each target beside its mark; of marks that nearly meet, the second's on the other side."""
    seen: list[tuple[float, float]] = []
    span = max(float(np.ptp(part.value)), 1e-9), max(float(np.ptp(part.gain)), 1e-9)
    part = part.drop_duplicates(distance.TARGET).sort_values("gain", ascending=False)
    for target, row in zip(_target(part), part.to_dict("records"), strict=True):
        x, y = row["value"] / span[0], row["gain"] / span[1]
        close = any(abs(x - a) < 0.06 and abs(y - b) < 0.15 for a, b in seen)
        seen.append((x, y))
        ax.annotate(str(number[target]), (row["value"], 100 * row["gain"]), (-7 if close else 7, 0),
                    textcoords="offset points", fontsize=8, ha="right" if close else "left", va="center")  # fmt: skip


def _targets(ax: Axes, number: dict[tuple[Any, ...], int]) -> None:
    """Which number is which target, and what the paper prints of distance, in the last panel."""
    empty_panel(ax, "")
    lines = [f"{k}  {name or MAIN}" for (_, name), k in number.items()]
    lines += ["", "published: French gains most, Russian and", "Chinese less; no number is printed"]
    ax.text(0.04, 0.96, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8.5, color="#333333")
