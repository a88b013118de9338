"""Every measured number of the imbalance study's figures, with the runs that it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator

from figures.imbalance_measured import Own
from figures.imbalance_sides import Side
from figures.numbers import Number


def numbers(own: Own) -> Iterator[Number]:
    """Perplexity and TEff of every arm and language, the ladders, and the probes."""
    for side in (own.tuned, own.fixed):
        yield from _of_side(side)


def _of_side(side: Side) -> Iterator[Number]:
    for row in side.results.to_dict("records"):
        what = f"{row['language']} of {row['arm']}, {row['times']:g} T, {row['size']} size, {side.title}"
        source = f"geometric mean of {row['seeds']} seeds; the interval is their lowest and highest"
        for column, name in (("ppl", "perplexity"), ("teff", "TEff")):
            if math.isfinite(row[column]):
                bound = "" if column == "ppl" or row["teff_kind"] == "exact" else f" ({row['teff_kind']})"
                ends = {"seeds": (float(row[f"{column}_low"]), float(row[f"{column}_high"]))}
                yield Number(f"{name} of {what}{bound}", float(row[column]), source, row["runs"], ends)
    for row in side.ladders.to_dict("records"):
        what = f"perplexity of {row['language']} alone, {row['x']:g} T, {row['size']} size, {side.title}"
        ends = {"seeds": (float(row["ppl_low"]), float(row["ppl_high"]))}
        yield Number(what, float(row["ppl"]), "geometric mean of seeds", row["runs"], ends)
    for row in side.probes.to_dict("records"):
        what = (
            f"{row['probe']} {row['place']} of {row['language']}, {row['condition']}, {row['arm']}, {row['times']:g} T"
        )
        ends = {"seeds": (float(row["value_low"]), float(row["value_high"]))}
        yield Number(f"{what}, {row['size']} size", float(row["value"]), "mean of seeds", row["runs"], ends)
