"""The demo's figures and report from a synthetic table whose answers are known."""

import math
import re

import numpy as np
import pytest
from PIL import Image
from test_records import row

from figures.demo_findings import analyse, read
from figures.studies import Found, draw
from figures.trace import printed, trace_figure, trace_number
from lab.errors import LabError
from lab.table import table_of, write_table

SIZES = {32: 33_000, 64: 230_000, 96: 720_000}
BUDGETS = (150_000, 300_000, 600_000, 1_200_000)
ALPHA, E, A, B = 0.35, 1.5, 25.0, 120.0
WORTH = 0.05  # own tokens that one token of the other language is worth, by construction


def english_loss(n, d):
    return E + A / n**ALPHA + B / d**ALPHA


def ladder_ppl(d):
    """1/PPL = c - a x^-b with these numbers."""
    return 1 / (0.055 - 0.0006 * (d / 1_197_015_040) ** -0.45)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = []

    def add(arm, language, mixture, d_model, own, total, seed, loss, ppl):
        noise = math.exp(rng.normal(0, 0.001))
        rows.append(
            row(
                run_id=f"{arm}-{d_model}-{total}-{seed}",
                arm=arm,
                language=language,
                mixture=mixture,
                d_model=d_model,
                n_nonembedding=SIZES[d_model],
                tokens_language=own,
                tokens_seen=total,
                seed_init=seed,
                loss=loss * noise,
                ppl=ppl * noise,
                exclusion=None,
                epochs=0.9,
                curve_tokens=[total // 2, total],
                curve_loss=[5.0, 4.0],
            )
        )

    for d_model, n in SIZES.items():
        for d in BUDGETS:
            for seed in (0, 1, 2) if d_model == 64 else (0,):
                add("English alone", "en", "en:1", d_model, d, d, seed, english_loss(n, d), ladder_ppl(d))
                if d_model == 64:
                    add("Middle English alone", "enm", "enm:1", 64, d, d, seed, 3.0, ladder_ppl(d))
    total = BUDGETS[-1]
    for seed in (0, 1, 2):
        for share, other in ((0.5, "enm"), (0.1, "enm"), (0.5, "en2"), (0.1, "en2")):
            own = int(share * total)
            worth = own + WORTH * (total - own)
            mixture = f"en:{1 - share:g} {other}:{share:g}"
            add(f"{other} {share}", other, mixture, 64, own, total, seed, 3.0, ladder_ppl(worth))
            add(f"{other} {share}", "en", mixture, 64, total - own, total, seed, 3.0, ladder_ppl(total - own))
    path = tmp_path_factory.mktemp("demo") / "results.parquet"
    write_table(path, table_of(rows))
    return path


def test_the_numbers_come_back(table):
    found = analyse(read(table))
    assert found.tied.fit.params["alpha"] == pytest.approx(ALPHA, abs=0.02)
    interval = found.tied.intervals["alpha"]
    assert interval.low < ALPHA < interval.high
    for worth in found.worths:
        if worth.language != "en":
            assert worth.of_other.value.value == pytest.approx(WORTH, rel=0.25)
            assert worth.of_other.interval.low.value < WORTH < worth.of_other.interval.high.value


def test_the_report_is_whole(table, tmp_path):
    text = draw("demo", Found("demo", table), tmp_path)
    assert "alpha" in text and re.search(r"One token of English is worth 0\.0(49|5)", text)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower().split()
    for picture in ("curves", "law", "reading", "teff"):
        with Image.open(tmp_path / "figures" / f"{picture}.png") as image:
            assert "figures.demo." + picture in image.info["Description"]
            assert min(image.size) > 300
    traced = {t.figure: t for t in trace_figure(tmp_path / "report.html", tmp_path, table)}
    assert set(traced) == {"curves", "law", "reading", "teff"}
    assert set(traced["law"].rows.arm) == {"English alone"}
    alpha = re.search(r"exponent (0\.\d{3})", text)[1]
    found = trace_number(printed(alpha), tmp_path)
    assert "alpha of tied" in [n.what for n in found]
    assert set(found[0].runs) == set(traced["law"].provenance.runs)


def test_a_missing_ladder_is_named(table, tmp_path):
    import pyarrow.parquet as pq

    rows = [r for r in pq.read_table(table).to_pylist() if not (r["mixture"] == "enm:1" and r["tokens_seen"] > 2e5)]
    write_table(tmp_path / "less.parquet", table_of(rows))
    with pytest.raises(LabError, match="Middle English alone"):
        draw("demo", Found("demo", tmp_path / "less.parquet"), tmp_path)


def test_an_unknown_study_is_named(tmp_path):
    with pytest.raises(LabError, match="no figures"):
        draw("nonsense", Found("nonsense"), tmp_path)
