"""Bad input: every mistake is named with its column and rows, and every dropped row with its rule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, laws, read
from analysis.table import Table, replicate_noise, table
from lab.errors import LabError


def frame(rows: int = 12) -> pd.DataFrame:
    n = np.geomspace(1e7, 1e9, rows)
    return pd.DataFrame({"N": n, "D": 30 * n[::-1], "loss": np.linspace(4, 3, rows)})


def check(data: pd.DataFrame, **options: object) -> Table:
    return table(data, laws.get("chinchilla"), **options)  # type: ignore[arg-type]


def test_missing_column_names_the_nearest() -> None:
    with pytest.raises(LabError, match=r"no column 'lossy'.*Did you mean 'loss'"):
        check(frame(), loss="lossy")
    with pytest.raises(LabError, match=r"no column for D, tokens.*It has: N, loss"):
        check(frame().drop(columns="D"))


def test_two_candidates_are_not_guessed() -> None:
    data = frame().rename(columns={"N": "n_total"}).assign(n_nonembedding=1e6)
    with pytest.raises(LabError, match="several columns could be N"):
        check(data)
    assert check(data, columns={"N": "n_total"}).n == 12


def test_text_in_a_number_column_names_the_row() -> None:
    data = frame().astype({"loss": object})
    data.loc[3, "loss"] = "diverged"
    with pytest.raises(LabError, match=r"'loss' should hold numbers.*row 3: 'diverged'"):
        check(data)


def test_bad_rows_are_dropped_by_named_rules() -> None:
    data = frame(16)
    data.loc[0, "loss"] = np.nan
    data.loc[1, "N"] = 0.0
    data.loc[2, "D"] = -5.0
    data.loc[3, "loss"] = np.inf
    data.loc[4, "loss"] = -1.0
    data.loc[6] = data.loc[5]
    found = {(d.rule, d.rows) for d in check(data).dropped}
    assert found == {
        ("missing", (0,)), ("out of range", (1,)), ("out of range", (2,)), ("not finite", (3,)),
        ("out of range", (4,)), ("duplicate", (6,)),
    }  # fmt: skip
    kept = check(data)
    assert kept.n == 10
    np.testing.assert_array_equal(kept.row, [5, *range(7, 16)])


def test_exclusions_and_highest_losses() -> None:
    data = frame().assign(exclusion=[None] * 11 + ["diverged at step 40"])
    result = check(data, drop_highest=2)
    assert {(d.rule, d.rows) for d in result.dropped} == {("exclusion", (11,)), ("drop_highest", (0, 1))}
    assert result.dropped[0].why == "diverged at step 40"


def test_flops_give_tokens() -> None:
    data = frame().assign(C=lambda f: 6 * f.N * f.D)
    np.testing.assert_allclose(check(data.drop(columns="D"), flops="C").columns["D"], data.D)


def test_units() -> None:
    data = frame()
    bits = check(data.assign(loss=data.loss / np.log(2)), unit="bits")
    np.testing.assert_allclose(bits.loss, data.loss)
    perplexities = check(data.assign(loss=np.exp(data.loss)), unit="perplexity")
    np.testing.assert_allclose(perplexities.loss, data.loss)
    assert any("suspicious" in note for note in check(data.assign(loss=np.exp(data.loss))).notes)
    assert not any("suspicious" in note for note in check(data).notes)


def test_too_few_points() -> None:
    with pytest.raises(LabError, match="4 usable points cannot determine the 5 parameters of chinchilla"):
        fit(frame(4))


def test_groups_and_clusters_survive_any_order() -> None:
    data = frame().assign(lang=["fr", "de"] * 6, run_name=np.repeat(["a", "b", "c"], 4))
    shuffled = check(data.sample(frac=1, random_state=3), group="lang")
    assert shuffled.groups == ("de", "fr") and shuffled.clusters == ("a", "b", "c") and shuffled.clustered
    by_loss = dict(zip(shuffled.loss, shuffled.group, strict=True))
    for loss, lang in zip(data.loss, data.lang, strict=True):
        assert shuffled.groups[by_loss[loss]] == lang
    assert any("run_name" in note for note in shuffled.notes)
    half = shuffled.select(shuffled.cluster == 1)
    assert half.clusters == ("b",) and half.n == 4 and set(half.cluster) == {0}


def test_labels_do_not_depend_on_how_the_file_was_typed() -> None:
    data = frame().assign(k=[1, 1.0, "1"] * 4)
    assert check(data, group="k").groups == ("1",)


def test_mixed_conventions_are_refused() -> None:
    data = frame().assign(eval_hash=["x"] * 6 + ["y"] * 6)
    with pytest.raises(LabError, match="mix 2 values of eval_hash"):
        check(data)
    assert check(data, mixed=("eval_hash",)).n == 12
    assert check(data, group="eval_hash").groups == ("x", "y")


def test_noise_of_replicates() -> None:
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(300), 3)
    spread = np.where(cell < 150, 0.004, 0.001)
    log_loss = np.where(cell < 150, 1.5, 1.0) + rng.normal(0, 1, 900) * spread
    noise = replicate_noise(cell[:, None].astype(float), log_loss, np.ones(900, bool))
    assert np.median(noise[cell < 150]) == pytest.approx(0.004, rel=0.15)
    assert np.median(noise[cell >= 150]) == pytest.approx(0.001, rel=0.15)
    with pytest.raises(LabError, match="No two rows agree"):
        check(frame(), noise="replicates")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".json"])
def test_every_format_reads_the_same(suffix: str, tmp_path: Path) -> None:
    file, data = tmp_path / f"t{suffix}", frame()
    {
        ".csv": lambda: data.to_csv(file, index=False),
        ".tsv": lambda: data.to_csv(file, index=False, sep="\t"),
        ".parquet": lambda: data.to_parquet(file),
        ".jsonl": lambda: data.to_json(file, orient="records", lines=True, double_precision=15),
        ".json": lambda: data.to_json(file, orient="records", double_precision=15),
    }[suffix]()
    np.testing.assert_allclose(read(file)[["N", "D", "loss"]], data, rtol=1e-12)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="No table"):
        read(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(LabError, match="Cannot tell the format"):
        read(tmp_path / "t.xlsx")
    (tmp_path / "t.csv").write_text("N,D,loss\n")
    with pytest.raises(LabError, match="has no rows"):
        read(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(LabError, match="cannot be read as parquet"):
        read(tmp_path / "t.parquet")


def test_import_needs_neither_training_nor_jax() -> None:
    code = (
        "import sys, analysis; heavy = {'flax', 'tensorflow', 'jax', 'seqio'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "from analysis import fit; heavy = {'flax', 'tensorflow', 'seqio', 'lab.train'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
