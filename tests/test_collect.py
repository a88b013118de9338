"""From run directories to one table, rules of exclusion, and tables of several machines."""

import dataclasses
import errno
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from test_records import row

from lab.cli import main
from lab.config import OptimConfig
from lab.errors import LabError
from lab.records import RunDir
from lab.table import COLUMNS, SAME_LOSS, arrow_schema, read_arrow, read_table, rules_of, table_of, write_table
from sweeps.collect import collect
from sweeps.exclusion import DEFAULT_RULES, judge, parse
from sweeps.merge import merge

RULES = parse(DEFAULT_RULES)


def gather(arms, root, rules=RULES, label="s"):
    got = collect(label, arms, root, rules)
    return got, read_table(got.path).set_index("run_id")


def with_rate(run, lr):
    return dataclasses.replace(run, optim=OptimConfig(lr))


def test_every_begun_run_has_a_row_for_each_language(tmp_path):
    done, diverged, part, never = (synthetic.arm(f"arm {k}", languages=("aa", "bb"), seed_init=k) for k in range(4))
    synthetic.finish(done.run, tmp_path)
    synthetic.finish(diverged.run, tmp_path, loss=None)
    synthetic.begin(part.run, tmp_path, step=16)
    got, table = gather([done, diverged, part, never], tmp_path)
    assert (got.rows, got.incomplete, got.waiting, got.damaged) == (6, 1, 1, ())
    assert got.excluded == {"diverged": 2, "incomplete": 2}
    assert list(read_table(got.path).columns) == list(COLUMNS)
    assert table.loc[done.run.run_id].exclusion.isna().all()
    assert set(table.loc[diverged.run.run_id].exclusion) == {"diverged at step 9: loss nan"}
    unfinished = table.loc[part.run.run_id]
    assert set(unfinished.exclusion) == {"incomplete: 1,024 of 2,560 tokens"}
    assert set(unfinished.language) == {"aa", "bb"} and unfinished.loss.isna().all()
    assert set(unfinished.tokens_seen) == {1024} and list(unfinished.curve_tokens.iloc[0]) == [512, 1024]
    assert never.run.run_id not in table.index
    _, whole = gather([done, diverged, part], tmp_path, rules=())
    assert whole.exclusion.isna().all()


def test_collecting_again_changes_nothing_and_rows_follow_the_runs(tmp_path):
    arms = [synthetic.arm(f"arm {k}", seed_init=k) for k in range(3)]
    for a in arms[:2]:
        synthetic.finish(a.run, tmp_path)
    synthetic.begin(arms[2].run, tmp_path, step=8)
    path = collect("s", arms, tmp_path, RULES).path
    before = path.read_bytes()
    collect("s", arms[::-1], tmp_path, RULES)
    assert path.read_bytes() == before
    synthetic.finish(arms[2].run, tmp_path, loss=3.0)
    _, table = gather(arms, tmp_path)
    assert table.loc[arms[2].run.run_id].loss == 3.0 and table.exclusion.isna().all()


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        ("config.json", lambda d: synthetic.edit(d.config_file, steps=41), "config.json does not describe"),
        ("config.json", lambda d: d.config_file.write_text("{"), "config.json is half-written"),
        ("config.json", lambda d: d.config_file.unlink(), "config.json does not exist"),
        ("result.json", lambda d: d.result_file.write_text('{"run": {"run_id"'), "result.json is half-written"),
        ("result.json", lambda d: synthetic.edit(d.result_file, run={}), "is the result of run None"),
        ("result.json", lambda d: synthetic.edit(d.result_file, evaluations=[]), "has no evaluation"),
        ("result.json", lambda d: drop(d, "eval_curve_loss"), "lacks eval_curve_loss"),
        ("result.json", lambda d: set_loss(d, "low"), "loss holds 'low', which is no float64"),
        ("result.json", lambda d: set_loss(d, None), "is done and has no loss"),
    ],
)
def test_a_damaged_or_edited_run_is_named_and_left_out_and_nothing_is_lost(tmp_path, file, damage, named):
    good, bad = synthetic.arm("good"), synthetic.arm("bad", seed_init=1)
    synthetic.finish(good.run, tmp_path)
    directory = synthetic.finish(bad.run, tmp_path)
    damage(directory)
    left = {p.name: p.read_bytes() for p in directory.path.iterdir() if p.is_file()}
    got, table = gather([good, bad], tmp_path)
    assert table.index.tolist() == [good.run.run_id]
    (line,) = got.damaged
    assert named in line and str(directory.path) in line and "\n" not in line
    assert left == {p.name: p.read_bytes() for p in directory.path.iterdir() if p.is_file()}
    with pytest.raises(LabError, match=r"No run.*" + file.replace(".", r"\.")):
        collect("s", [bad], tmp_path, RULES)


def drop(directory, column):
    form = json.loads(directory.result_file.read_text())
    del form["evaluations"][0][column]
    directory.result_file.write_text(json.dumps(form))


def set_loss(directory, loss):
    form = json.loads(directory.result_file.read_text())
    form["evaluations"][0]["loss"] = loss
    directory.result_file.write_text(json.dumps(form))


def test_the_best_rate_of_each_cell_is_kept_over_seeds_and_others_say_how_far_off_they_are(tmp_path):
    arms, losses = [], {1e-3: (4.3, 4.1), 1e-2: (4.0, 4.2), 1e-1: (3.0, None)}
    for rate, pair in losses.items():
        for seed, loss in enumerate(pair):
            a = synthetic.arm("long", steps=80, seed_init=seed, lr=rate)
            synthetic.finish(a.run, tmp_path, loss)
            arms.append(a)
    alone = synthetic.arm("short", lr=1e-3)
    synthetic.finish(alone.run, tmp_path, 9.0)
    got, table = gather([*arms, alone], tmp_path, parse(("diverged", "learning-rate")))
    by_rate = {rate: table[(table.peak_lr == rate) & (table.arm == "long")] for rate in losses}
    assert by_rate[1e-2].exclusion.isna().all() and (by_rate[1e-2].tuned == 0).all()
    expected = "learning-rate: 0.001 is off the frontier, 0.01 has 4.1000 nats against 4.2000"
    assert set(by_rate[1e-3].exclusion) == {expected}
    assert by_rate[1e-3].tuned.tolist() == pytest.approx([-math.log(10)] * 2)
    # A rate that diverged with one seed is off the frontier with all.
    assert sorted(t.partition(" ")[0] for t in by_rate[1e-1].exclusion) == ["diverged", "learning-rate:"]
    lone = table.loc[alone.run.run_id]
    assert pd.isna(lone.exclusion) and math.isnan(lone.tuned)
    assert got.excluded == {"diverged": 1, "learning-rate": 3}
    loose = judge(read_arrow(got.path), parse(("diverged", "learning-rate=0.05")))
    assert loose["exclusion"].null_count == loose.num_rows - 2


def test_runs_below_a_number_of_tokens_are_excluded(tmp_path):
    arms = [synthetic.arm("a", steps=steps) for steps in (40, 80)]
    for a in arms:
        synthetic.finish(a.run, tmp_path)
    _, table = gather(arms, tmp_path, parse(("min-tokens=5e3",)))
    assert table.exclusion.isna().sum() == 1
    assert table.loc[arms[0].run.run_id].exclusion == "min-tokens: 2,560 tokens are fewer than 5,000"


@settings(max_examples=15)
@given(st.permutations(["diverged", "incomplete", "learning-rate", "min-tokens=3000"]), st.data())
def test_the_first_rule_that_names_a_row_gives_its_reason_and_no_row_is_lost(order, data):
    rows = [
        row(
            run_id=f"{k}",
            status=(status := data.draw(st.sampled_from(["done", "diverged", "incomplete"]))),
            loss=4.0 + k / 10 if status == "done" else None,
            peak_lr=data.draw(st.sampled_from([0.1, 0.2])),
            tokens_seen=data.draw(st.sampled_from([2000, 4000])),
            exclusion=None,
        )
        for k in range(6)
    ]
    table = table_of(rows)
    alone = {name: judge(table, parse((name,)))["exclusion"].to_pylist() for name in order}
    together = judge(table, parse(order))
    expected = [next((r for r in reasons if r), None) for reasons in zip(*alone.values(), strict=True)]
    assert together["exclusion"].to_pylist() == expected
    assert together.num_rows == 6 and rules_of(together) == tuple(str(r) for r in parse(order))
    assert judge(together, parse(order)).equals(together)


def test_unknown_rules_and_odd_values_are_named():
    for text, named in (
        ("outlier", "no exclusion rule 'outlier'"),
        ("min-tokens", "min-tokens needs a value"),
        ("min-tokens=many", "needs a number"),
        ("min-tokens=nan", "needs a value"),
        ("diverged=3", "has no value"),
    ):
        with pytest.raises(LabError, match=named):
            parse((text,))
    assert parse(("none",)) == ()


def tables_of(tmp_path, *losses, **changes):
    """One table a machine, with a run of each loss."""
    paths = []
    for k, machine in enumerate(losses):
        root = tmp_path / f"machine {k}"
        arms = [synthetic.arm(f"arm {seed}", seed_init=seed) for seed in machine]
        for a, loss in zip(arms, machine.values(), strict=True):
            if loss == "part":
                synthetic.begin(a.run, root, step=8)
            else:
                synthetic.finish(
                    a.run, root, loss, **({"device": f"device {k}", "wall_s": k} | changes.get(str(k), {}))
                )
        paths.append(collect("s", arms, root, RULES).path)
    return paths


def test_tables_of_two_machines_merge_where_they_agree(tmp_path):
    nearly = 4.0 * (1 + SAME_LOSS / 2)
    paths = tables_of(tmp_path, {0: 4.0, 1: "part", 2: 3.5}, {0: nearly, 1: 3.0, 3: None})
    got = merge(paths, tmp_path / "all.parquet")
    table = read_table(tmp_path / "all.parquet").set_index("arm")
    assert (got.rows, got.shared) == (4, 2)
    assert table.loc["arm 0"].device == "device 0" and table.loc["arm 0"].loss == 4.0
    assert table.loc["arm 1"].loss == 3.0 and pd.isna(table.loc["arm 1"].exclusion)  # over on the second machine
    assert table.loc["arm 3"].exclusion == "diverged at step 9: loss nan"
    merge([tmp_path / "all.parquet", *paths], tmp_path / "again.parquet")
    assert read_table(tmp_path / "again.parquet").equals(read_table(tmp_path / "all.parquet"))


@pytest.mark.parametrize(
    ("second", "changes", "named"),
    [
        ({0: 4.0 * (1 + 3 * SAME_LOSS)}, {}, "loss is 4.0 and 4.006"),
        ({0: None}, {}, "done and diverged"),
        ({0: 4.0}, {"1": {"examples_hash": "other"}}, "examples_hash is e and other"),
        ({0: 4.0}, {"1": {"layout_hash": "other"}}, "layout_hash is l and other"),
    ],
)
def test_tables_that_contradict_each_other_do_not_merge(tmp_path, second, changes, named):
    paths = tables_of(tmp_path, {0: 4.0, 5: 3.0}, second, **changes)
    with pytest.raises(LabError, match=named) as error:
        merge(paths, tmp_path / "all.parquet")
    assert synthetic.run().run_id in str(error.value) and "machine 1" in str(error.value)
    assert not (tmp_path / "all.parquet").exists()


def test_rates_of_two_machines_are_compared_after_the_merge(tmp_path):
    paths = []
    for rate, loss in ((1e-3, 4.0), (1e-2, 3.0)):
        a = synthetic.arm("a", lr=rate)
        synthetic.finish(a.run, tmp_path / str(rate), loss)
        paths.append(collect("s", [a], tmp_path / str(rate), parse(("learning-rate",))).path)
        assert read_table(paths[-1]).exclusion.isna().all()
    merge(paths, tmp_path / "all.parquet")
    table = read_table(tmp_path / "all.parquet").set_index("peak_lr")
    assert "off the frontier" in table.loc[1e-3].exclusion and pd.isna(table.loc[1e-2].exclusion)
    write_table(paths[0], judge(read_arrow(paths[0]), RULES))
    with pytest.raises(LabError, match="different exclusion rules: diverged, incomplete and learning-rate=0"):
        merge(paths, tmp_path / "no.parquet")
    merge(paths, tmp_path / "named.parquet", RULES)


def test_two_studies_may_share_a_run(tmp_path):
    a = synthetic.arm("a")
    synthetic.finish(a.run, tmp_path)
    paths = [collect(label, [a], tmp_path, RULES).path for label in ("one", "two")]
    assert merge(paths, tmp_path / "all.parquet").rows == 2


def test_a_table_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    good = table_of([row(run_id="a"), row(run_id="b")])
    write_table(path, good)

    def refused(table, named):
        pq.write_table(table, path)
        with pytest.raises(LabError, match=named):
            read_table(path)

    schema = arrow_schema()
    refused(good.drop_columns(["loss", "ppl"]), "lacks the columns loss, ppl")
    refused(good.append_column("colour", pa.array(["red", "blue"])), "no result table has: colour")
    refused(replaced(good, "loss", pa.array(["low", "high"])), "holds string in column loss, not double")
    refused(replaced(good, "language", pa.array([None, "x"])), "half-written row: language of run a")
    refused(replaced(good, "loss", pa.array([1.0, None])), "half-written row: run b is done and has no loss")
    refused(replaced(good, "status", pa.array(["done", "lost"])), "status 'lost'")
    refused(replaced(good, "run_id", pa.array(["a", "a"])), "run a in language x twice")
    twice = replaced(replaced(good, "run_id", pa.array(["a", "a"])), "study", pa.array(["one", "two"]))
    refused(replaced(twice, "loss", pa.array([1.0, 2.0])), r"contradicts itself: run a has losses 1\.0 and 2\.0")
    old = good.replace_schema_metadata({**schema.metadata, b"schema_version": b"1"})
    refused(old, r"has result schema 1, this program reads \d+. Collect it again")
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], b"", whole[:-4] + b"oops"):
        path.write_bytes(part)
        with pytest.raises(LabError, match="not a parquet table, or a half-written one"):
            read_table(path)


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    write_table(path, table_of([row(run_id="a")]))
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(LabError, match="disk is full"):
        write_table(path, table_of([row(run_id="b")]))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


STUDY = """
import synthetic
from sweeps.study import DataSpec, Scale, Study

def arms(prepared, scale):
    return tuple(synthetic.arm(f"arm {k}", seed_init=k) for k in range(3))

SCALES = (Scale("nano", DataSpec(("tiny:aa",), 300), "seconds"),)
STUDY = Study("made", "?", "a loss", SCALES, arms, exclude=("diverged", "min-tokens=1e9"))
"""


def test_the_commands_name_rules_and_fits_include_the_excluded_on_one_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lab.data.prepare.prepare", lambda *_: None)
    study, out = tmp_path / "made.py", tmp_path / "out"
    study.write_text(STUDY)
    for k in range(2):
        synthetic.finish(synthetic.run(seed_init=k), out)
    command = ["sweep", "collect", str(study), "--root", str(out)]
    assert main(command) == 0
    assert "2 rows, 2 excluded by min-tokens, 1 runs not begun" in capsys.readouterr().out
    assert main([*command, "--exclude", "none"]) == 0
    assert "2 rows, 1 runs not begun" in capsys.readouterr().out
    assert main([*command, "--exclude", "bad"]) == 1
    assert "no exclusion rule 'bad'" in capsys.readouterr().err
    RunDir(out, synthetic.run().run_id).result_file.write_text("{")
    assert main(command) == 1
    assert "left out" in capsys.readouterr().err
    both = tmp_path / "both.parquet"
    assert main(["sweep", "merge", str(out / "made" / "results.parquet"), "-o", str(both)]) == 1
    assert "two tables or more" in capsys.readouterr().err


def test_fits_leave_excluded_rows_out_unless_asked(tmp_path, capsys):
    cells = [(n, d) for n in np.geomspace(1e6, 1e8, 4) for d in np.geomspace(1e8, 1e10, 4)]
    rows = [
        row(
            run_id=f"{k}",
            n_nonembedding=int(n),
            tokens_seen=int(d),
            loss=1.5 + 400 / n**0.34 + 410 / d**0.34,
            exclusion=None,
        )
        for k, (n, d) in enumerate(cells)
    ]
    rows[0] |= {"exclusion": "learning-rate: off", "loss": 9.0}
    path = tmp_path / "t.parquet"
    write_table(path, table_of(rows))
    columns = ("--n", "n_nonembedding", "--d", "tokens_seen")
    command = ["fit", str(path), "--law", "tied", *columns, "--json", "--interval", "none"]
    assert [main([*command, *flag]) for flag in ([], ["--excluded"])] == [0, 0]
    without, with_it = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (without["n"], with_it["n"]) == (15, 16)
    assert without["params"]["alpha"] == pytest.approx(0.34, abs=1e-3)
