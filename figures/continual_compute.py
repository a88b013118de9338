"""Figures 1, 2 and 4: loss over compute, what is saved at equal loss, and the best sizes by both laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from analysis import laws, surface
from analysis.allocate import frontier as law_frontier
from analysis.continual import frontiers
from analysis.frontier import PowerLaw
from analysis.panels import BLUE, GREY, VERMILION, plain_log_ticks, sequential
from figures.continual_measured import Sides
from figures.drawing import axes, count, empty_panel, foot, key, mark, save, token_axis
from lab.errors import LabError

COLOUR = {"scratch": BLUE, "cpt": VERMILION}
NAME = {"scratch": "from scratch", "cpt": "continued"}
ROLES = ("scratch", "cpt")
FLOPS = "training compute, FLOPs"
LOSS = "target loss, nats per token"
# Over which compute the paper's frontiers were fitted: 50M to 5.5B at 20 tokens a parameter.
PAPER_SPAN = (3e17, 4e21)
TARGETS = (1, 4)


def flops_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(base=10))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(FLOPS)


def loss_axis(ax: Axes, label: str = LOSS) -> None:
    ax.set_yscale("log")
    plain_log_ticks(ax)
    ax.set_ylabel(label)


def figure_1(sides: Sides, stem: Path) -> Path:
    """Target loss over compute from scratch and continued, with the power laws of both frontiers; and one size."""
    figure, (left, middle, right) = axes(1, 3, (12.5, 4.4))
    _published_frontiers(left, sides)
    own = sides.own
    if own.curves:
        _measured_frontiers(middle, sides)
        _one_size(right, sides)
    else:
        for ax in (middle, right):
            empty_panel(ax, own.why("ladder"))
    middle.set_title("measured")
    right.set_title("measured, at one size")
    key(figure, [mark(NAME[r], COLOUR[r], "o", "-") for r in ROLES] + [mark("frontier, a power law", GREY, line="--")])
    foot(figure, sides.paper.notes["Figure 1"])
    return save(figure, stem, sides.provenance("figure_1", own.ladder))


def _published_frontiers(ax: Axes, sides: Sides) -> None:
    c = np.geomspace(*PAPER_SPAN, 50)
    for row in sides.paper.frontiers.to_dict("records"):
        ax.plot(c, row["coefficient"] * c ** row["exponent"], "--", color=COLOUR[row["role"]], lw=1.6)
        text = f"{row['coefficient']:.4g} C^{row['exponent']:g}"
        above = row["role"] == "scratch"
        at = c[30] if above else c[14]
        ax.annotate(text, (at, row["coefficient"] * at ** row["exponent"]), (6 if above else -6, 6 if above else -6),
                    textcoords="offset points", color=COLOUR[row["role"]], fontsize=8,
                    ha="left" if above else "right", va="bottom" if above else "top")  # fmt: skip
    flops_axis(ax)
    loss_axis(ax)
    ax.set_title("published")


def measured_frontiers(sides: Sides) -> dict[str, PowerLaw]:
    """The power law of each role's lower envelope."""
    found = {}
    for role, part in sides.own.ladder.groupby("role"):
        try:
            found[str(role)] = frontiers.frontier(part.C.to_numpy(), part.loss.to_numpy())
        except LabError:
            continue
    return found


def _measured_frontiers(ax: Axes, sides: Sides) -> None:
    for (role, _), curve in sides.own.curves.items():
        ax.plot(curve.flops, curve.loss, "-o", color=COLOUR[role], ms=3, lw=0.9, alpha=0.65)
    for role, power in measured_frontiers(sides).items():
        part = sides.own.ladder[sides.own.ladder.role == role]
        c = np.geomspace(part.C.min(), part.C.max(), 50)
        ax.plot(c, power(c), "--", color=COLOUR[role], lw=1.6)
    flops_axis(ax)
    loss_axis(ax)


def _one_size(ax: Axes, sides: Sides) -> None:
    """Both curves of the largest size with a saving, and an arrow at equal loss."""
    saved = sides.own.saved
    exact = saved[saved.kind == "exact"] if len(saved) else saved
    both = [n for role, n in sides.own.curves if role == "cpt" and ("scratch", n) in sides.own.curves]
    if not both:
        empty_panel(ax, sides.own.why("savings"))
        return
    n = float(exact.N.max()) if len(exact) else max(both)
    for role in ROLES:
        curve = sides.own.curves[role, n]
        ax.plot(curve.flops, curve.loss, "-o", color=COLOUR[role], ms=3.5, lw=1.3)
    here = exact[n == exact.N]
    if len(here):
        row = here.iloc[len(here) // 2]
        end = row.C * row.scratch_tokens / row.D
        ax.annotate("", (row.C, row.loss), (end, row.loss), arrowprops={"arrowstyle": "->", "color": GREY})
        ax.annotate(f"{100 * row.saved:.0f} % fewer\nFLOPs", (end, row.loss), (5, 6), textcoords="offset points",
                    ha="left", fontsize=8, color=GREY)  # fmt: skip
    flops_axis(ax)
    loss_axis(ax)
    paper = 100 * sides.paper.fact("saved at 2B")
    ax.annotate(f"{count(n)} parameters; the paper's 2B\nsaves about {paper:.0f} %", (0.97, 0.97),
                xycoords="axes fraction", ha="right", va="top", fontsize=8, color=GREY)  # fmt: skip


def figure_2(sides: Sides, stem: Path) -> Path:
    """What is saved at equal loss over tokens and size: the share of FLOPs, and tokens effectively transferred."""
    figure, panels = axes(2, 2, (10, 7))
    _published_savings(panels[0, 0], sides)
    _published_transfer(panels[1, 0], sides)
    own = sides.own
    shown = own.saved[own.saved.kind == "exact"] if len(own.saved) else own.saved
    if shown.empty:
        why = own.why("savings") if own.saved.empty else "no scratch run reaches the loss of a continued one"
        for ax in panels[:, 1]:
            empty_panel(ax, why)
    else:
        cmap, norm = sequential(shown.N.to_numpy())
        for n, part in shown.groupby("N"):
            colour = cmap(norm(n))
            panels[0, 1].plot(part.D, 100 * part.saved, "-o", color=colour, ms=4, lw=1.2, label=count(float(str(n))))
            panels[1, 1].plot(part.D, part.transferred, "-o", color=colour, ms=4, lw=1.2)
        panels[0, 1].legend(title="parameters", fontsize=8, ncols=2)
        low = min(0.0, float(100 * shown.saved.min()) - 5)
        panels[0, 1].set(ylim=(low, 100), ylabel="FLOPs saved at equal loss, %")
        panels[1, 1].set_ylabel("tokens transferred, D_PT - D_CPT")
        panels[1, 1].yaxis.set_major_formatter(lambda v, _: count(v) if v > 0 else f"{v:.3g}")
        for ax in panels[:, 1]:
            token_axis(ax)
            ax.set_xlabel("target tokens of the continued run")
    panels[0, 1].set_title("measured")
    panels[1, 1].set_title("measured")
    masked = 0 if own.saved.empty else int((own.saved.kind != "exact").sum())
    note = f"{masked} continued runs are left out: no scratch run of their size reaches their loss." if masked else ""
    foot(figure, sides.paper.notes["Figure 2"], note)
    return save(figure, stem, sides.provenance("figure_2", shown))


def _published_savings(ax: Axes, sides: Sides) -> None:
    rows, paper = sides.paper.savings, sides.paper
    low, high = paper.fact("saved, least"), paper.fact("saved, most")
    ax.axhspan(100 * low, 100 * high, color="#E8EEF2", lw=0)
    ax.annotate("25 to 50 % (text)", (0.98, 100 * low + 1), xycoords=("axes fraction", "data"), fontsize=8, color=GREY,
                ha="right", va="bottom")  # fmt: skip
    ax.plot(rows.flops, 100 * rows.saved, "-o", color=VERMILION, markerfacecolor="white", ms=5)
    ax.annotate("by the two frontiers", (rows.flops.iloc[1], 100 * rows.saved.iloc[1]), (0, 7),
                textcoords="offset points", fontsize=8, color=VERMILION)  # fmt: skip
    flops_axis(ax)
    ax.set(ylim=(0, 100), ylabel="FLOPs saved at equal loss, %", title="published",
           xlabel="training compute from scratch, FLOPs")  # fmt: skip


def _published_transfer(ax: Axes, sides: Sides) -> None:
    scratch, own = (sides.paper.fact(name) for name in ("scratch tokens of 5.5B",
                                                        "continued tokens of 5.5B at the same loss"))  # fmt: skip
    ax.plot([own], [scratch - own], "o", color=VERMILION, ms=6)
    ax.annotate(f"5.5B: {count(own)} continued = {count(scratch)} from scratch", (own, scratch - own), (0, 8),
                textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    ax.set(xlim=(own / 5, own * 5), ylim=(0, 2 * (scratch - own)), title="published",
           ylabel="tokens transferred, D_PT - D_CPT", xlabel="target tokens of the continued run")  # fmt: skip
    ax.yaxis.set_major_formatter(lambda v, _: count(v) if v > 0 else "0")
    token_axis(ax)
    ax.set_xlabel("target tokens of the continued run")


def figure_4(sides: Sides, stem: Path) -> Path:
    """Contours of equal loss over compute and size by both laws, with their efficient frontiers."""
    figure, panels = axes(1, 2, (11, 4.8))
    paper = {role: sides.paper.law(role) for role in ROLES}
    _contours(panels[0], paper, (1e17, 1e23), None)
    panels[0].set_title("published coefficients")
    fits = sides.own.joint
    if fits is None:
        empty_panel(panels[1], sides.own.why("laws"))
    else:
        table = fits.table
        span = (6 * table.N * table.D).min() / 5, (6 * table.N * table.D).max() * 5
        _contours(panels[1], {"scratch": fits.scratch.params_of(), "cpt": fits.cpt.params_of()}, span, table)
    panels[1].set_title("measured")
    key(figure, [mark(f"{NAME[r]}: equal loss", COLOUR[r], line="-") for r in ROLES]
        + [mark(f"{NAME[r]}: best size", COLOUR[r], line="--") for r in ROLES])  # fmt: skip
    foot(figure, sides.paper.notes["Figure 4"])
    return save(figure, stem, sides.provenance("figure_4", sides.own.ladder))


def _contours(ax: Axes, params: dict[str, dict[str, float]], span: tuple[float, float], table: Any) -> None:
    law = laws.get("cpt")
    c = np.geomspace(*span, 80)
    best = {role: law_frontier(law, p, c) for role, p in params.items()}
    sizes = np.concatenate([b["N"][np.isfinite(b["N"])] for b in best.values()])
    sizes = np.concatenate([sizes, [] if table is None else table.N.to_numpy()])
    n = np.geomspace(sizes.min() / 4, sizes.max() * 4, 80)
    cc, nn = np.meshgrid(c, n)
    levels = None
    for role, p in params.items():
        loss = surface.loss(law, p, {"N": nn, "D": cc / (6 * nn)})
        if levels is None:
            ends = np.nanmin(best["scratch"]["loss"]), np.nanmax(best["scratch"]["loss"])
            levels = np.linspace(*ends, 9)[1:]
        lines = ax.contour(cc, nn, loss, levels=levels, colors=COLOUR[role], linewidths=0.8, alpha=0.55)
        if role == "scratch":
            for text in ax.clabel(lines, levels[::2], fmt="%.2f", fontsize=7, inline=False):
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85})
        ax.plot(c, best[role]["N"], "--", color=COLOUR[role], lw=1.8)
    if table is not None:
        ax.plot(6 * table.N * table.D, table.N, "o", ms=2.5, color=GREY, alpha=0.6, mec="none", zorder=0)
    flops_axis(ax)
    ax.set(yscale="log", ylim=(n[0], n[-1]), xlim=span, ylabel="parameters N")
    ax.yaxis.set_major_formatter(lambda v, _: count(v))
    ax.yaxis.set_minor_locator(NullLocator())


def accounting(sides: Sides, stem: Path) -> Path:
    """The frontier of continued runs with the parent free, and its cost divided among targets, beside scratch."""
    figure, (left, right) = axes(1, 2, (10, 4.4))
    own = sides.own
    if own.ladder.empty:
        for ax in (left, right):
            empty_panel(ax, own.why("ladder"))
    else:
        _accounted_runs(left, sides)
        _accounted_laws(right, sides)
    left.set_title("measured: runs")
    right.set_title("measured: best sizes by the laws")
    paid = [mark(_among(k), GREY, "s" if k == 1 else "^", "--" if k == 1 else ":") for k in TARGETS]
    free = [mark(NAME["scratch"], BLUE, "o", "-"), mark("continued, parent free", VERMILION, "o", "-")]
    key(figure, [*free, *paid])
    foot(figure, "The paper counts no compute of the parents; both accountings are shown.")
    return save(figure, stem, sides.provenance("accounting", own.ladder))


def _among(k: int) -> str:
    return "parent paid for" if k == 1 else f"parent paid for by {k} targets"


def _accounted_runs(ax: Axes, sides: Sides) -> None:
    ladder = sides.own.ladder
    plain, continued = (ladder[ladder.role == role] for role in ROLES)
    for part, colour, marker, line, k in (
        (plain, BLUE, "o", "-", float("inf")), (continued, VERMILION, "o", "-", float("inf")),
        *((continued, GREY, "s" if k == 1 else "^", "--" if k == 1 else ":", float(k)) for k in TARGETS),
    ):  # fmt: skip
        flops = frontiers.counted(part, k).to_numpy()
        on = frontiers.envelope(flops, part.loss.to_numpy())
        order = np.argsort(flops[on])
        ax.plot(flops[on][order], part.loss.to_numpy()[on][order], marker + line, color=colour, ms=3.5, lw=1.2)
    flops_axis(ax)
    loss_axis(ax)


def _accounted_laws(ax: Axes, sides: Sides) -> None:
    fits = sides.own.joint
    if fits is None:
        empty_panel(ax, sides.own.why("laws"))
        return
    law, ladder = laws.get("cpt"), sides.own.ladder
    c = np.geomspace(ladder.C.min(), ladder.C.max() * 10, 40)
    free = {
        role: frontiers.optima(law, one.params_of(), c) for role, one in (("scratch", fits.scratch), ("cpt", fits.cpt))
    }
    for role in ROLES:
        ax.plot(c, free[role]["loss"], "-", color=COLOUR[role], lw=1.5)
    for k in TARGETS:
        paid = frontiers.optima(law, fits.cpt.params_of(), c, frontiers.parents(sides.own.ladder, k))
        ax.plot(c, paid["loss"], "--" if k == 1 else ":", color=GREY, lw=1.5)
    flops_axis(ax)
    loss_axis(ax)
