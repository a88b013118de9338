"""The continual study's figures from synthetic tables whose answers are known, and from no table at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_continual import MAIN, World, runs

from analysis.plots import STYLE
from figures.continual import FIGURES, TABLES
from figures.continual_measured import Own, Sides, measured
from figures.continual_tables import table_2, table_3, table_4
from figures.provenance import read_provenance, sha256
from figures.published import MEANINGS, continual
from figures.studies import Found, draw
from figures.trace import trace_figure
from lab.errors import LabError
from lab.table import table_of, write_table

ENDINGS = (".png", ".svg", ".pdf")
PAPER = continual()


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    """Pictures are looked at by people; tests ask whether they are there and of which runs."""
    kept = STYLE["savefig.dpi"]
    STYLE["savefig.dpi"] = 40
    yield
    STYLE["savefig.dpi"] = kept


def folder_of(root: Path, arms) -> Path:
    folder = root / "continual-nano"
    folder.mkdir()
    world = World(seeds=(0, 1))
    rows = world.rows(arms)
    write_table(folder / "results.parquet", table_of(rows))
    world.probe_table(world.table(arms)).to_parquet(folder / "probes.parquet")
    return folder


def drawn_from(folder: Path) -> str:
    return draw("continual", Found("continual-nano", folder / "results.parquet", folder / "probes.parquet"), folder)


@pytest.fixture(scope="module")
def one_size(tmp_path_factory):
    """A table that is not whole yet: one size, so that no law can be fitted."""
    folder = folder_of(tmp_path_factory.mktemp("one"), [r for r in runs() if r.size == MAIN and r.role != "joint"])
    return drawn_from(folder), folder


def test_without_a_table_the_published_side_stands_alone(tmp_path) -> None:
    text = draw("continual", Found("continual-nano"), tmp_path)
    assert "There is no table of this study yet" in text
    page = (tmp_path / "report.html").read_text()
    assert "arXiv:2407.02118" in page and "Nothing yet: there is no table." in page
    for function in FIGURES.values():
        assert (tmp_path / "figures" / f"{function.__name__}.png").exists()
    assert not (tmp_path / "numbers.json").exists()


def test_every_figure_says_which_runs_it_shows(one_size) -> None:
    _, folder = one_size
    table = folder / "results.parquet"
    for function in FIGURES.values():
        stem = folder / "figures" / function.__name__
        for ending in ENDINGS:
            (found,) = read_provenance(stem.with_suffix(ending)).values()
            assert found.table_sha256 == sha256(table) and found.function == f"figures.continual.{function.__name__}"
    shown = {name: trace_figure(folder / "figures" / f"{name}.png", folder)[0] for name in ("figure_1", "distances")}
    assert set(shown["figure_1"].rows.arm) == {f"{r}, {t:g}M, {MAIN}" for r in ("scratch", "cpt")
                                               for t in (0.75, 1.5, 3, 6, 12)}  # fmt: skip
    assert "cpt, Chinese, 3M, nano-4" in set(shown["distances"].rows.arm)
    for function in TABLES.values():
        (found,) = read_provenance(folder / "tables" / f"{function.__name__}.csv").values()
        assert found.table_sha256 == sha256(table)


def test_what_is_missing_is_said(one_size) -> None:
    text, folder = one_size
    page = (folder / "report.html").read_text()
    assert "not fitted" in page and "Not to be had, laws" in page
    assert "Saved at equal loss: " in text and "gamma" not in text
    names = {n["name"] for n in json.loads((folder / "numbers.json").read_text())["numbers"]}
    assert any("share saved at equal loss at 520k parameters" in name for name in names)
    own = measured(folder / "results.parquet", None, resamples=0)
    assert own.accuracies.empty and own.why("accuracies") == "there is no table of probes"
    assert own.joint is None and own.saved.kind.tolist()[:4] == ["exact"] * 4


def test_a_table_of_another_study_is_refused(tmp_path) -> None:
    rows = [{**one, "mixture": "l1:0.5 l2:0.5"} for one in World(seeds=(0,)).rows(list(runs())[:2])]
    write_table(tmp_path / "results.parquet", table_of(rows))
    with pytest.raises(LabError, match="it has two targets"):
        measured(tmp_path / "results.parquet")


def test_published_numbers_have_a_source_and_a_mark() -> None:
    frames = (PAPER.laws, PAPER.frontiers, PAPER.constants, PAPER.savings, PAPER.errors, PAPER.facts, PAPER.sets)
    for frame in frames:
        assert frame.evidence.isin(list(MEANINGS)).all() and frame["where"].str.len().gt(3).all()
    assert PAPER.fact("source loss after without replay, 1.4B") == 3.68
    assert set(PAPER.evidence) == {"P", "R"}


def test_tables_hold_the_printed_digits(tmp_path) -> None:
    sides = Sides(PAPER, Own.nothing(), PAPER.path)
    second, third, fourth = (t(sides, tmp_path / t.__name__).rows.rows for t in (table_2, table_3, table_4))
    assert second[1][:7] == ["published, cpt", "1.55", "420", "433.3", "0.4", "0.2", "0.08"]
    assert second[0][-3:] == ["0.429", "0.514", "0.571"] and second[1][-4:-2] == ["4.79", "0.385"]
    assert [row[1] for row in third] == ["0.009", "0.0108", "0.0094", "0.0093"] and third[3][2] == "+0.080"
    assert len(fourth) == 42 and fourth[0][0] == "49M" and fourth[0][-1] == "49.9M"
    with (tmp_path / "table_2.csv").open() as file:
        assert file.readline().startswith("# {")
        assert list(csv.reader(file))[2][0] == "published, cpt"


@pytest.mark.slow
def test_a_whole_table_gives_the_law_and_the_report(tmp_path) -> None:
    folder = folder_of(tmp_path, runs())
    text = drawn_from(folder)
    assert "gamma +0.04" in text and "+0.080 published" in text
    page = (folder / "report.html").read_text()
    assert "Table 3" in page and "measured, cpt, all free" in page and "Not to be had" not in page
    kept = json.loads((folder / "numbers.json").read_text())["numbers"]
    gamma = next(n for n in kept if n["name"] == "gamma of the law, cpt")
    assert np.isclose(gamma["value"], 0.045, atol=0.005) and gamma["intervals"]["cluster"][0] > 0
