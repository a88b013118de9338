"""From a figure or a printed number back to its table, runs and configs."""

import json
import math
import shutil

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import figures.provenance
from figures.drawing import axes, save
from figures.numbers import Number, write_numbers
from figures.provenance import FORMATS, Provenance, read_provenance, runs_file
from figures.trace import printed, trace_figure, trace_number
from lab.cli import main
from lab.errors import LabError
from sweeps.collect import collect
from sweeps.exclusion import DEFAULT_RULES, parse


@pytest.fixture
def study(tmp_path):
    """Three runs, their table, and a figure of two of them."""
    root = tmp_path / "out"
    arms = [synthetic.arm(f"arm {k} (é)", languages=("aa", "bb"), seed_init=k) for k in range(3)]
    for k, a in enumerate(arms):
        synthetic.finish(a.run, root, loss=3.4567 + k)
    table = collect("made", arms, root, parse(DEFAULT_RULES)).path
    return root, table, [a.run.run_id for a in arms]


def drawn(table, stem, runs, function="figures.made.law"):
    figure, ax = axes()
    ax.plot([1, 2], [3, 4])
    save(figure, stem, Provenance.of(table, function, runs))
    return stem


@pytest.mark.parametrize("ending", FORMATS)
def test_a_figure_leads_to_the_rows_of_its_runs(study, ending):
    root, table, runs = study
    stem = drawn(table, root / "made" / "figures" / "law", runs[:2])
    (trace,) = trace_figure(stem.with_suffix(ending), root)
    assert trace.figure == "law" and trace.table == table
    assert trace.provenance == Provenance.of(table, "figures.made.law", runs[:2])
    assert set(trace.rows.run_id) == set(runs[:2]) and len(trace.rows) == 4


@given(
    st.builds(
        Provenance,
        table=st.text(),
        table_sha256=st.text(),
        function=st.sampled_from(["figures.made.law"]),
        revision=st.text(),
        n_runs=st.just(1),
        runs_sha256=st.text(),
        runs=st.tuples(st.text()),
    )
)
def test_any_text_survives_every_format(said):
    import io

    from matplotlib.figure import Figure

    figure = Figure((0.2, 0.2))
    read = {".png": figures.provenance._in_png, ".svg": figures.provenance._in_svg, ".pdf": figures.provenance._in_pdf}
    for ending in FORMATS:
        file = io.BytesIO()
        figure.savefig(file, format=ending[1:], metadata=said.metadata(ending))
        assert figures.provenance._parsed(read[ending](file.getvalue())) == said


def test_a_figure_drawn_again_is_the_same(study, tmp_path):
    _, table, runs = study
    first, again = (drawn(table, tmp_path / name / "law", runs) for name in ("first", "again"))
    for ending in (".png", ".pdf"):
        assert first.with_suffix(ending).read_bytes() == again.with_suffix(ending).read_bytes()


def test_a_figure_of_many_runs_lists_them_beside_itself(study, tmp_path, monkeypatch):
    root, table, runs = study
    monkeypatch.setattr(figures.provenance, "MOST_RUNS", 2)
    file = drawn(table, root / "made" / "law", runs).with_suffix(".svg")
    assert runs[0] not in file.read_text() and len(runs_file(file).read_text().split()) == 3
    assert set(read_provenance(file)["law"].runs) == set(runs)
    runs_file(file).write_text(runs[0] + "\n")
    with pytest.raises(LabError, match="is not the list of runs"):
        read_provenance(file)
    runs_file(file).unlink()
    with pytest.raises(LabError, match=r"3 runs, whose list .*law\.runs\.txt is missing"):
        read_provenance(file)


def test_what_cannot_be_traced_is_named(study, tmp_path):
    root, table, runs = study
    stem = drawn(table, root / "made" / "figures" / "law", runs)
    with pytest.raises(LabError, match="There is no figure"):
        read_provenance(tmp_path / "none.png")
    with pytest.raises(LabError, match="is no figure"):
        read_provenance(table)
    bare = tmp_path / "bare.png"
    with Image.open(stem.with_suffix(".png")) as image:
        Image.frombytes(image.mode, image.size, image.tobytes()).save(bare)
    texts = {"broken.png": "no picture", "broken.svg": "<svg", "other.svg": "<svg/>", "other.pdf": "%PDF-1.4"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for file in (bare, *(tmp_path / name for name in texts)):
        with pytest.raises(LabError, match="does not say where it comes from"):
            read_provenance(file)
    moved = tmp_path / "elsewhere" / "law.png"
    moved.parent.mkdir()
    shutil.copy(stem.with_suffix(".png"), moved)
    with pytest.raises(LabError, match=r"results\.parquet .* not above it nor below"):
        trace_figure(moved, tmp_path / "nowhere")
    assert trace_figure(moved, root)[0].table == table  # found below the root
    assert trace_figure(moved, tmp_path / "nowhere", table)[0].table == table


def test_a_table_that_changed_since_is_refused_and_the_old_one_accepted(study, tmp_path):
    root, table, runs = study
    file = drawn(table, root / "made" / "figures" / "law", runs).with_suffix(".pdf")
    old = tmp_path / "old.parquet"
    shutil.copy(table, old)
    collect("made", [synthetic.arm("one", languages=("aa", "bb"))], root, parse(("none",)))
    with pytest.raises(LabError, match=r"has changed since .*law\.pdf was drawn"):
        trace_figure(file, root)
    with pytest.raises(LabError, match="has changed since"):
        trace_figure(file, root, table)
    assert len(trace_figure(file, root, old)[0].rows) == 6


@given(st.floats(1e-6, 1e12), st.integers(0, 6), st.sampled_from(["f", "g", "e"]))
def test_a_number_is_found_however_it_was_rounded(value, digits, kind):
    number = printed(f"{value:.{digits}{kind}}")
    assert number is not None and number.holds(value)
    beyond = 1.1 * (number.high - number.low) + 4 * math.ulp(value)
    assert not number.holds(value + beyond) and not number.holds(value - beyond)


def test_numbers_are_read_as_people_print_them():
    for text, value in (("150k", 150_300), ("1.2M", 1_199_616), ("1,024", 1024), ("25%", 0.2512), ("-.5", -0.52)):
        number = printed(text)
        assert number is not None and number.holds(value)
        assert not number.holds(value * 1.2)
    assert [printed(text) for text in ("law.png", "", "1.2.3", "k", "--3", "nan")] == [None] * 6
    assert not printed("1").holds(True)


def test_a_number_leads_to_its_rows_or_to_its_fit(study):
    root, table, runs = study
    (first, second) = trace_number(printed("4.457"), table)
    assert first.runs == second.runs == (runs[1],)
    assert {first.row["language"], second.row["language"]} == {"aa", "bb"}
    assert first.what == "loss" and first.value == 4.4567
    numbers = [
        Number("alpha of tied", 0.40512, "fit of tied to 3 runs", tuple(runs), {"bootstrap": (0.31, math.inf)}),
        Number("TEff", 9.5, "token law", (runs[0],)),
    ]
    write_numbers(table.parent / "numbers.json", table, numbers)
    (found,) = trace_number(printed("0.405"), table.parent)
    assert (found.what, found.source, found.runs) == ("alpha of tied", "fit of tied to 3 runs", tuple(sorted(runs)))
    (end,) = trace_number(printed("0.31"), table.parent / "report.html")
    assert end.what == "alpha of tied, intervals.bootstrap.0"
    fit = root / "fit.json"
    fit.write_text(json.dumps({"law": "tied", "n": 3, "table": "t.csv", "params": {"alpha": 0.40512}}))
    (fitted,) = trace_number(printed("0.405"), fit)
    assert (fitted.what, fitted.source) == ("params.alpha", "fit of tied to 3 points of t.csv")
    for where, named in (
        (table, "Nothing in .* rounds to 7.77"),
        (root, "neither numbers.json nor results.parquet"),
        (root / "none.parquet", "does not exist"),
        (root / "none.json", "does not exist"),
    ):
        with pytest.raises(LabError, match=named):
            trace_number(printed("7.77"), where)
    (root / "cut.json").write_text('{"a": 7.7')
    with pytest.raises(LabError, match="no JSON file"):
        trace_number(printed("7.77"), root / "cut.json")


def test_the_command_walks_to_the_configs(study, capsys):
    root, table, runs = study
    file = drawn(table, root / "made" / "figures" / "law", runs).with_suffix(".png")
    assert main(["trace", str(file), "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "drawn by figures.made.law" in out and "3 of 3 in" in out and runs[2] in out
    assert main(["trace", str(file), "--root", str(root), "--json"]) == 0
    form = json.loads(capsys.readouterr().out)
    assert form["configs"][runs[0]]["type"] == "RunConfig" and len(form["rows"]) == 6
    synthetic.edit(root / "runs" / runs[0] / "config.json", steps=41)
    assert main(["trace", "3.4567", "--in", str(table), "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "3.4567: loss in" in out and f"edited since: {runs[0]}" in out
    assert main(["trace", "3.4567", "--in", str(table), "--root", str(root / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["configs"] == {}
    assert main(["trace", "3.4567"]) == 1
    assert "--in" in capsys.readouterr().err
    assert main(["trace", "none.png"]) == 1
    assert "There is no figure none.png" in capsys.readouterr().err
