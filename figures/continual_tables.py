"""Tables 1 to 4 of arXiv:2407.02118, published beside measured, and what the study adds to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.continual import joint, replay
from analysis.continual.joint import Joint
from analysis.law import Law
from analysis.laws import get
from figures.continual_measured import Sides, number
from figures.drawing import count
from figures.report import Rows
from figures.tables import NONE, Table, written
from lab.errors import LabError

ROLES = ("scratch", "cpt")
PARAMETERS = ("E", "A", "B", "alpha", "beta", "gamma")


def table_1(sides: Sides, stem: Path) -> Table:
    """The three sets of models: how each begins, on what data, and how many there are."""
    lines = []
    own = sides.own.rows
    done = own[own.status == "done"] if len(own) else own
    for row in sides.paper.sets.to_dict("records"):
        part = done[done.role == row["set"]] if len(done) else done
        runs = part.drop_duplicates("run_id") if len(part) else part
        lines.append([
            row["set"], row["begins"], row["data"],
            NONE if runs.empty else str(len(runs)),
            NONE if runs.empty else _span(runs.N),
            NONE if runs.empty else _span(runs.tokens_seen),
            NONE if runs.empty else ", ".join(sorted(set(runs.schedule))),
        ])  # fmt: skip
    head = ["set", "begins with", "data, published", "runs, measured", "parameters", "tokens", "schedule"]
    return written(Rows(head, lines, wrapped=(1, 2)), stem, sides.provenance("table_1", done))


def _span(values: pd.Series) -> str:
    return " to ".join(dict.fromkeys([count(float(values.min())), count(float(values.max()))]))


def table_2(sides: Sides, stem: Path) -> Table:
    """Coefficients of both laws, and the constants and exponents of their best sizes."""
    law, fits = get("cpt"), sides.own.joint
    lines = []
    for role in ROLES:
        printed = sides.paper.law(role)
        lines.append([f"published, {role}", *(number(printed[name]) for name in PARAMETERS), *_optimum(law, printed)])
    if fits is not None:
        for role, one in (("scratch", fits.scratch), ("cpt", fits.cpt)):
            p = one.params_of()
            cells = [_with_interval(fits, role, name, p[name]) for name in PARAMETERS]
            lines.append([f"measured, {role}", *cells, *_optimum(law, p)])
        free = fits.fits.get("free")
        if free is not None:
            p = free.params_of()
            lines.append(["measured, cpt, all free", *(number(p[name]) for name in PARAMETERS), *_optimum(law, p)])
    head = ["", *PARAMETERS, "N* = k C^a: k", "a", "D* = k C^b: k", "b"]
    return written(Rows(head, lines), stem, sides.provenance("table_2", sides.own.ladder))


def _with_interval(fits: Joint, role: str, name: str, value: float) -> str:
    """A coefficient with its two-stage interval; what the second stage holds has none there."""
    held = role == "cpt" and name in joint.CARRY
    if held or (role == "scratch" and name == "gamma"):
        return number(value)
    ends = fits.bounds(f"{name}'" if role == "cpt" else name)
    if ends is None:
        return number(value)
    low, high = (number(end, 3) if math.isfinite(end) else "open" for end in ends)
    return f"{number(value)} [{low}, {high}]"


def _optimum(law: Law, p: Mapping[str, float]) -> list[str]:
    """k and exponent of N* and of D*, from the closed form at two budgets (arXiv:2407.02118, eq. 2 and 5)."""
    try:
        low, high = (law.optimum(p, c) for c in (1e12, 1e24))
    except LabError:
        return ["no optimum", NONE, NONE, NONE]
    cells = []
    for name in ("N", "D"):
        slope = math.log(high[name] / low[name]) / math.log(1e12)
        cells += [number(low[name] / 1e12**slope, 3), f"{slope:.3f}"]
    return cells


def table_3(sides: Sides, stem: Path) -> Table:
    """Fit errors, sums of Huber's function with corner 1e-3, of both forms on both sets, and gamma."""
    fits = sides.own.joint
    printed = {(row["law"], row["on"]): row for row in sides.paper.errors.to_dict("records")}
    own = {} if fits is None else {(row["law"], row["on"]): row for row in joint.errors(fits).to_dict("records")}
    lines = []
    for (law, on), row in printed.items():
        mine = own.get((law, on))
        cells = [NONE] * 5
        if mine is not None:
            each = 1e3 * mine["error"] / mine["points"]
            gamma = NONE if pd.isna(mine["gamma"]) else f"{mine['gamma']:+.4f}"
            cells = [number(mine["error"], 3), str(mine["points"]), number(each, 3), gamma, str(mine["status"])]
        lines.append([f"{law}, {on}", number(row["error"]), NONE if pd.isna(row["gamma"]) else f"{row['gamma']:+.3f}",
                      *cells])  # fmt: skip
    head = ["law, set", "error, published", "gamma, published", "error, measured", "runs", "error a run, 1e-3",
            "gamma, measured", "fit"]  # fmt: skip
    return written(Rows(head, lines), stem, sides.provenance("table_3", sides.own.ladder))


def table_4(sides: Sides, stem: Path) -> Table:
    """The paper's 42 shapes with the sizes that their rule gives, and below them the measured ones."""
    vocabulary = sides.paper.fact("vocabulary")
    lines = [
        [f"{row['millions']}M", str(row["width"]), str(row["ffn"]), str(row["heads"]), str(row["layers"]),
         f"{(16 * row['layers'] * row['width'] ** 2 + vocabulary * row['width']) / 1e6:.1f}M"]
        for row in sides.paper.architectures.to_dict("records")
    ]  # fmt: skip
    own = sides.own.rows
    if len(own):
        shapes = own[own.role.isin(["scratch", "cpt"])].drop_duplicates(["N", "d_model", "n_layers"]).sort_values("N")
        lines += [
            [f"measured {count(float(row['N']))}", str(row["d_model"]), NONE, NONE, str(row["n_layers"]), NONE]
            for row in shapes.to_dict("records")
        ]
    head = ["size", "width", "ffn column", "heads", "layers", "16 L d² + 32,000 d"]
    return written(Rows(head, lines), stem, sides.provenance("table_4", own))


def table_gamma(sides: Sides, stem: Path) -> Table:
    """gamma by every way of fitting it, and how the forms predict larger continued runs."""
    fits, misses = sides.own.joint, sides.own.misses
    lines = []
    if fits is not None:
        for row in joint.gammas(fits).to_dict("records"):
            ends = NONE if pd.isna(row["low"]) else f"[{row['low']:+.4f}, {row['high']:+.4f}]"
            lines.append(["gamma", row["fit"], f"{row['gamma']:+.4f}", ends, row["status"]])
        lines += [["not fitted", name, NONE, NONE, why] for name, why in fits.refused.items()]
        bounded = fits.fits.get("bounded")
        if bounded is not None:
            p = bounded.params
            form = f"D + {number(p['k'], 3)} D^{p['a']:.3f} N^{p['b']:.3f}"
            lines.append(["tokens a continued run is worth", "bounded", form, NONE, bounded.status])
    if misses is not None:
        lines += [
            ["miss of larger runs", row["form"], f"{row['error']:.2%}", NONE, f"{row['predictions']} predictions"]
            for row in joint.ranked(misses).to_dict("records")
        ]
    head = ["what", "fit", "value", "95 % interval", "remark"]
    return written(Rows(head, lines, wrapped=(4,)), stem, sides.provenance("table_gamma", sides.own.ladder))


def table_forgetting(sides: Sides, stem: Path) -> Table:
    """What continued runs forget of the source, by size and replay, on the main target."""
    own = sides.own
    found = own.forgotten
    lines = []
    if len(found):
        text = own.ladder.text.iloc[0] if len(own.ladder) else found.text.iloc[0]
        found = found[(found.text == text) & (found.setting == "")]
        for (n, share, d), part in found.groupby(["N", "replay", found.D.round(-3)]):
            lines.append([
                count(float(n)), f"{100 * float(share):g} %", count(float(d)), f"{part.L0.mean():.3f}",
                f"{part.peak.mean():.3f}", f"{part.loss.mean():.3f}", f"{part.rise.mean():+.3f}",
            ])  # fmt: skip
    head = ["parameters", "replay", "target tokens", "before", "highest", "after", "rise, nats"]
    return written(Rows(head, lines), stem, sides.provenance("table_forgetting", found))


def forgetting_words(sides: Sides) -> str:
    """The fitted law of forgetting in words, or why there is none."""
    if sides.own.forgotten.empty:
        return f"No law of forgetting: {sides.own.why('forgetting')}."
    law = replay.forgetting_law(sides.own.forgotten)
    if law.fit is None:
        return f"The law of forgetting (Bethune et al., arXiv:2502.06042) is refused: {law.refused.rstrip('.')}."
    p = law.fit.params
    return (
        f"Law of forgetting (Bethune et al., arXiv:2502.06042), {law.fit.status}: L0 + {number(p['A'], 3)} "
        f"D^{p['beta']:.3f} / ((1 + {number(p['B'], 3)} p) N)^{p['alpha']:.3f}; {law.left_out} runs that ended below "
        "their parents' loss are outside its form."
    )


def table_parents(sides: Sides, stem: Path) -> Table:
    """Losses and savings at one size by the parent's length, budgets of the target as rows."""
    table = sides.own.by_parent
    lines = [
        [count(row["N"]), count(row["parent_D"]), count(row["D"]), f"{row['loss']:.4f}",
         f"{100 * row['saved']:.0f} %" if row["kind"] == "exact" else f"scratch tokens {row['kind']} "
         + count(row["scratch_tokens"])]
        for row in table.to_dict("records")
    ]  # fmt: skip
    head = ["parameters", "tokens of the parent", "target tokens", "loss", "saved at equal loss"]
    return written(Rows(head, lines), stem, sides.provenance("table_parents", table))


def table_vocabulary(sides: Sides, stem: Path) -> Table:
    """Continued runs in every vocabulary, by bytes of the target: bits a byte, and over the joint vocabulary's."""
    table = sides.own.vocabularies
    rows = sides.own.rows
    pieces: dict[str, int] = dict(zip(rows.run_id, rows.v_total, strict=True)) if len(table) else {}
    lines = [
        [count(row["target_bytes"]), row["setting"] or "joint", str(int(pieces[row["runs"][0]])),
         f"{row['flops_exact']:.3g}", f"{row['bits_per_byte']:.4f}", _change(row["at_bytes"]),
         _change(row["at_flops"]), str(row["seeds"])]
        for row in table.to_dict("records")
    ]  # fmt: skip
    head = ["target bytes", "vocabulary", "pieces", "exact FLOPs", "bits a byte", "over joint, equal bytes",
            "over joint, equal FLOPs", "seeds"]  # fmt: skip
    return written(Rows(head, lines), stem, sides.provenance("table_vocabulary", table))


def _change(log_ratio: float) -> str:
    return "beyond its budgets" if math.isnan(log_ratio) else f"{100 * math.expm1(log_ratio):+.2f} %"
