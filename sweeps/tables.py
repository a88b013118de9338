"""Where the tables of a study lie: below the root, of one's own runs, or in the repository, as they were published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.collect import table_path
from sweeps.study import Study, find_study, study_names

if TYPE_CHECKING:
    from figures.studies import Found


def committed(name: str) -> Path:
    """A table of that name in the repository, which may not exist."""
    return Path(__file__).parent / "results" / name


def found(study: Study[Any], root: Path, scale: str | None = None, table: Path | None = None) -> Found:
    """What there is of a study for its figures; own tables before committed ones, larger scales before smaller.

    Args:
      study: of them.
      root: folder of all results.
      scale: the only one to look at.
      table: the result table to take; without a scale, its name or its folder's says which.

    Raises:
      LabError: when the study has no such scale.
    """
    from figures.studies import Found

    scales = [study.scale(scale)] if scale is not None else list(reversed(study.scales))
    where: Path | None = table
    if table is not None:
        named = [s for s in scales if study.label(s) in (table.stem, table.absolute().parent.name)]
        chosen = named[0] if named else study.scale(scale)
    else:
        there = [(s, table_path(study.label(s), root)) for s in scales]
        there += [(s, committed(f"{study.label(s)}.parquet")) for s in scales]
        chosen, where = next(((s, path) for s, path in there if path.exists()), (study.scale(scale), None))
    label = study.label(chosen)
    probes = [] if where is None else [where.with_name("probes.parquet"), where.with_name(f"{label}-probes.parquet")]
    return Found(
        label=label,
        table=where,
        probes=next((path for path in probes if path.exists()), None),
        rates=_rates(study, chosen.name, root),
        claims=study.claims(chosen),
        again=study.again,
    )


def study_of(label: str) -> Study[Any] | None:
    """The study that a table's rows name, at any scale and with any seeds; None where it does not ship with the lab."""
    plain = label.partition("-seeds-")[0]
    studies = (find_study(name) for name in study_names())
    return next((study for study in studies if plain in map(study.label, study.scales)), None)


def _rates(study: Study[Any], scale: str, root: Path) -> Path | None:
    """The table of the sweep of learning rates that goes before the study: `<name>_rates`, at the same scale or, where
    there is none, its smallest."""
    name = f"{study.name}_rates"
    if name not in study_names():
        return None
    rates = find_study(name)
    labels = [rates.label(s) for s in sorted(rates.scales, key=lambda s: s.name != scale)]
    paths = (path for label in labels for path in (table_path(label, root), committed(f"{label}.parquet")))
    return next((path for path in paths if path.exists()), None)
