"""The imbalance study's figures from synthetic tables whose answers are known, and from no table at all."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from synthetic_imbalance import SCALE, World, arms
from test_records import row

from analysis.plots import STYLE
from figures import drawing
from figures.imbalance import FIGURES, TABLES
from figures.imbalance_drawing import condensed
from figures.imbalance_measured import measured
from figures.imbalance_sides import ROLES, Sides, missing, published_side
from figures.imbalance_tables import table_1, table_2
from figures.imbalance_transfer import figure_3
from figures.provenance import read_provenance, sha256
from figures.published import imbalance
from figures.studies import Found, draw
from figures.trace import trace_figure
from lab.errors import LabError
from lab.probe_table import COLUMNS as PROBE_COLUMNS
from lab.table import read_arrow, table_of, write_table
from sweeps.imbalance import STUDY

ENDINGS = (".png", ".svg", ".pdf")
WORTH = {
    ("clone 10 %, 1 T, nano-4", "clone1"): 2.1,
    ("clone 50 %, 1 T, nano-4", "clone1"): 0.9,
    ("l2 10 %, merged, 1 T, nano-4", "l2"): 1.3,
}
FORGOTTEN = ("clone 0 % -> 100 %, 1 T, nano-4", "l1")  # worse than any number of tokens alone
RUNS = arms()


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    """Pictures are looked at by people; tests ask whether they are there and of which runs."""
    kept = STYLE["savefig.dpi"]
    STYLE["savefig.dpi"] = 40
    yield
    STYLE["savefig.dpi"] = kept


def rows_of(frame):
    """Whole rows of a result table: what the synthetic world leaves out is filled in."""
    keep = set(row())
    filled = {"exclusion": None, "epochs": 0.5, "curve_tokens": [1, 2], "curve_loss": [5.0, 4.0]}
    return [row(**{**filled, **{k: v for k, v in one.items() if k in keep}}) for one in frame.to_dict("records")]


def probes_of(frame, layers=4):
    """Rows of every probe for a few arms, in the columns of `lab.probes`."""
    found = []
    shown = frame[frame.arm.str.fullmatch(r"(clone [\d.]+ %|l2 (10|50) %, (merged|disjoint)), 1 T, nano-4")]
    for run in shown.drop_duplicates("run_id").to_dict("records"):
        second = "l2" if run["arm"].startswith("l2") else "clone1"

        def add(probe, place, condition, value, language=None, run=run, second=second):
            shared = {name: run[name] for name in ("run_id", "study", "arm", "seed_init")}
            one = {"probe": probe, "place": str(place), "language": language or second, "condition": condition}
            found.append({**shared, **one, "value": value + 0.001 * run["seed_init"], "n": 10, "replicate": 0,
                          "pair": f"l1 {second}", "text": "tiny", "at": 1.0})  # fmt: skip

        for layer in range(1, layers + 1):
            add("hidden state", layer, "pairs", 0.2 * layer)
            add("hidden state", layer, "random pairs", 0.1)
            for tensor in ("attn.q.kernel", "mlp.in.kernel"):
                for condition, value in (("pairs", 0.3), ("random pairs", 0.05), ("split halves", 0.9),
                                         ("pooled pairs", 0.6)):  # fmt: skip
                    add("gradient", f"{tensor}/{layer}", condition, value)
        for condition, value in (("pairs", 0.3), ("random pairs", 0.05), ("split halves", 0.9), ("pooled pairs", 0.6)):
            add("gradient", "all", condition, value)
        if second == "l2":
            continue
        for model in ("{} embedding", "word2vec {}"):
            for end in ("input", "output"):
                add(model.format(end), "all", "pairs", 0.4)
                add(model.format(end), "all", "all pairs", 0.1)
        for edge in (2, 2.25, 3.5):
            add("input embedding", edge, "pairs", 0.1 * edge)
        for task in ("CoLA", "SST-2"):
            for language, model in (("l1", 0.8), ("clone1", 0.7)):
                add("finetune", task, "model", model, language)
                add("finetune", task, "majority", 0.6, language)
                add("finetune", task, "random init", 0.62, language)
            add("finetune", task, "fine-tuned in the clone", 0.79, "clone1")
    return pd.DataFrame(found, columns=list(PROBE_COLUMNS))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imbalance") / "imbalance-nano"
    folder.mkdir()
    frame = World(teff=WORTH, log_ppl={FORGOTTEN: 25.0}).table(RUNS)
    # A run that was begun and is not over has a row without a result.
    nothing = dict.fromkeys(("loss", "ppl", "device", "wall_s", "flops_exact", "epochs", "tokens_language"))
    begun = row(run_id="begun", arm="l1, 1 T, nano-4", language="l1", mixture="l1:1", **nothing)
    rows = [*rows_of(frame), {**begun, "status": "incomplete", "exclusion": "incomplete"}]
    write_table(folder / "results.parquet", table_of(rows))
    probes_of(frame).to_parquet(folder / "probes.parquet")
    return folder


@pytest.fixture(scope="module")
def drawn(world):
    found = Found("imbalance-nano", world / "results.parquet", world / "probes.parquet", None,
                  STUDY.claims(SCALE), STUDY.again)  # fmt: skip
    return draw("imbalance", found, world), world


@pytest.fixture(scope="module")
def own(world):
    return measured(world / "results.parquet", world / "probes.parquet", STUDY.again)


def partial(path, keep):
    """The table of some rows only."""
    rows = [r for r in read_arrow(path).to_pylist() if keep(r)]
    write_table(path.parent / "less.parquet", table_of(rows))
    return path.parent / "less.parquet"


def test_measured_worths_are_those_that_were_put_in(own):
    results = own.tuned.results.set_index(["arm", "times", "size", "language"])
    for (arm, language), worth in WORTH.items():
        what, times, _ = arm.rsplit(", ", 2)
        got = results.loc[(what, float(times[:-2]), "main", language)]
        assert got.seeds == 3 and len(got.runs) == 3
        assert got.teff == pytest.approx(worth, rel=0.1) and got.teff_low < got.teff < got.teff_high
        assert got.teff_kind == "exact"
    assert results.loc[("clone 0 % -> 100 %", 1.0, "main", "l1")].teff_kind == "at most"
    assert set(own.tuned.sizes) == set(ROLES) and own.tuned.tokens == pytest.approx(SCALE.tokens, rel=1e-3)
    # The arms at the paper's rate are a side of their own, with ladders of their own.
    assert set(own.fixed.results.arm) == {"clone 50 %", "clone 10 %"}
    assert len(own.fixed.ladder("main", "l1")) == len(SCALE.ladder)
    assert not own.tuned.results.arm.str.contains("rate").any()


def test_the_measured_law_is_the_one_of_the_ladder(own):
    x = np.array([0.1, 0.5, 1.0])
    truth = [np.exp(World().law("en", 64, v * SCALE.tokens)) for v in x]
    assert own.tuned.law("main", "clone1", x) == pytest.approx(truth, rel=0.02)
    assert own.tuned.law("main", "l2", x) is not None


def test_where_the_law_misfits_its_ladder_teff_is_read_from_the_local_curve(tmp_path):
    bent = World(teff=WORTH, bend=0.15).table(RUNS, [a.name for a in RUNS if a.order == 1])
    write_table(tmp_path / "results.parquet", table_of(rows_of(bent)))
    side = measured(tmp_path / "results.parquet").tuned
    got = side.pick("clone 10 %").set_index("language").loc["clone1"]
    assert got.teff == pytest.approx(2.1, rel=0.15)
    (remark,) = side.remarks
    assert "local interpolation" in remark and "8 budgets" in remark


def test_every_figure_and_table_is_drawn_of_its_runs(drawn):
    text, folder = drawn
    table = folder / "results.parquet"
    for function in FIGURES.values():
        seen = set()
        for ending in ENDINGS:
            (one,) = read_provenance(folder / "figures" / f"{function.__name__}{ending}").values()
            assert one.function == f"figures.imbalance.{function.__name__}" and one.table_sha256 == sha256(table)
            assert one.n_runs > 0, function.__name__
            seen.add(one.runs)
        assert len(seen) == 1
    for function in TABLES.values():
        file = folder / "tables" / f"{function.__name__}.csv"
        (one,) = read_provenance(file).values()
        assert one.n_runs > 0 and one.table_sha256 == sha256(table)
        widths = {len(line) for line in csv.reader(file.read_text().splitlines()[1:])}
        assert len(widths) == 1
    (figure_8,) = trace_figure(folder / "figures" / "figure_8.png", folder, table)
    assert figure_8.rows.arm.str.contains("clone 50 %|^l1, 1 T").all()
    assert "Claims: " in text and "TEff of a clone at 10 % of the tokens: 2" in text


def test_the_report_holds_all_of_them_and_no_nan(drawn):
    _, folder = drawn
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES)
    words = re.sub(r"<[^>]*>", " ", re.sub(r"base64,[^\"]*", "", page))
    assert not re.search(r"\bnan\b", words, re.IGNORECASE)
    assert "<h2>Verdicts</h2>" in page and words.count("reproduced") > 1
    for name in (*FIGURES, *TABLES):
        assert f"{name}. " in words, name
    assert "heat maps' cells were not obtained" in json.dumps(imbalance().notes)


def test_numbers_of_the_report_are_written_with_their_runs(drawn):
    _, folder = drawn
    form = json.loads((folder / "numbers.json").read_text())
    names = {n["name"]: n for n in form["numbers"]}
    one = names["TEff of clone1 of clone 10 %, 1 T, main size, measured"]
    assert one["value"] == pytest.approx(2.1, rel=0.1) and len(one["runs"]) == 3
    low, high = one["intervals"]["seeds"]
    assert low < one["value"] < high


def test_tables_show_measured_beside_published(drawn, own):
    _, folder = drawn
    lines = list(csv.reader((folder / "tables" / "table_1.csv").read_text().splitlines()[1:]))
    head, cells = lines[0], {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    assert len(cells) == 13 and head[0] == "row"
    assert cells["5"]["arm"] == "clone 10 %" and cells["5"]["TEff clone1 published"] == "2.076"
    assert float(cells["5"]["TEff clone1 measured"].split()[0]) == pytest.approx(2.1, rel=0.1)
    assert cells["8"]["TEff l1 published"] == "≤ 0.04727"
    assert cells["1"]["TEff l1 published"] == "1" and cells["1"]["PPL clone1 published"] == "–"
    lines = list(csv.reader((folder / "tables" / "table_2.csv").read_text().splitlines()[1:]))
    layers = {line[0]: line[1:] for line in lines}
    assert layers["published: difference"][0] == "0.31" and len(layers["layer"]) == 12
    assert layers["measured: clone 10 %"][:5] == ["0.20", "0.40", "0.60", "0.80", "–"]


def test_without_a_table_the_published_side_is_drawn_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "FORMATS", (".png",))
    text = draw("imbalance", Found("imbalance-nano"), tmp_path)
    assert "no table of this study yet" in text and "not measured yet, 2.076 published" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES) and "<h2>Verdicts</h2>" not in page
    assert not (tmp_path / "numbers.json").exists()
    (one,) = read_provenance(tmp_path / "figures" / "figure_2.png").values()
    assert one.table == "imbalance.json" and one.n_runs == 0


def test_a_partial_table_names_what_it_lacks(world, tmp_path):
    def keep(one):
        what = one["arm"].rpartition(", nano-4")[0]
        return what.startswith("l1, ") or what in ("clone 50 %, 1 T", "l2 50 %, merged, 1 T")

    path = partial(world / "results.parquet", keep)
    paper = imbalance()
    some = measured(path, None, STUDY.again).tuned
    sides = Sides(published_side(paper), some, path, paper)
    names = missing(sides.published.pick(r"clone [\d.]+ %", 1.0), some.pick(r"clone [\d.]+ %", 1.0))
    assert "clone 10 %, 1 T" in names and "clone 50 %, 1 T" not in names
    # French has no ladder here: its perplexity is shown, its TEff is not.
    french = some.results[some.results.language == "l2"].iloc[0]
    assert np.isfinite(french.ppl) and np.isnan(french.teff)
    assert some.law("main", "l2", np.array([1.0])) is None
    picture = figure_3(sides, tmp_path / "figure_3")
    assert "l2 5, 10, 20, 30, 40, 60, 70, 80, 90, 95 %, merged, 1 T" in words_of(picture.with_suffix(".svg"))
    cells = {line[0]: line for line in table_1(sides, tmp_path / "table_1").rows.rows}
    assert cells["5"][4::2] == ["–", "–", "–", "–"] and "–" not in cells["4"][4::2]
    assert [line[0] for line in table_2(sides, tmp_path / "table_2").rows.rows].count("measured: clone 10 %") == 1


def words_of(svg):
    """The comments that matplotlib leaves above each text that it draws as outlines."""
    return " ".join(re.findall(r"<!--(.*?)-->", svg.read_text(), re.DOTALL)).replace("\n", " ").replace("  ", " ")


def test_names_of_arms_are_condensed():
    names = ["clone 10 %, 1 T", "clone 5 %, 1 T", "clone 10 %, 2 T", "clone 10 % -> 90 %, 1 T", "l1, 3 T"]
    assert condensed(names) == ["clone 5, 10 %, 1 T", "clone 10 %, 2 T", "clone 10 % -> 90 %, 1 T", "l1, 3 T"]


def test_a_table_of_another_study_is_refused(tmp_path):
    write_table(tmp_path / "other.parquet", table_of([row(arm="English alone", exclusion=None)]))
    with pytest.raises(LabError, match="none of the imbalance study"):
        measured(tmp_path / "other.parquet")
