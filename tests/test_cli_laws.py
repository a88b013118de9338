"""The commands on laws, from arguments to printed results, exit codes and one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import laws, surface
from lab.cli import main

TIED = laws.get("tied")
TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.33}

USER_LAW = '''
import jax.numpy as jnp
from analysis.law import Law, N, D, coefficient, exponent

class MyLaw(Law):
    """L = E + A/N^alpha + B/D^alpha, written outside the package."""
    name = "my-law"
    source = "a user"
    variables = (N, D)
    parameters = (coefficient("E"), coefficient("A"), coefficient("B"), exponent("alpha"))

    def log_basis(self, p, x):
        return {"E": 0.0, "A": -p["alpha"] * jnp.log(x["N"]), "B": -p["alpha"] * jnp.log(x["D"])}
'''


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands set JAX's environment for their process: here it is restored after each test."""
    for name in (
        "JAX_PLATFORMS",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
    ):
        monkeypatch.setenv(name, os.environ.get(name, {"JAX_PLATFORMS": "cpu"}.get(name, "0")))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    n, r = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e8, 6), [5, 20, 80, 320]))
    loss = surface.loss(TIED, TRUTH, {"N": n, "D": n * r}) * np.exp(
        0.002 * np.random.default_rng(0).standard_normal(24)
    )
    frame = pd.DataFrame(
        {"n_total": n, "tokens_seen": n * r, "loss": loss, "language": "en", "exclusion": None, "c": 6 * n * n * r}
    )
    frame["n_nonembedding"] = frame.n_total * 0.8
    other = frame.assign(language="fr", loss=frame.loss + 0.3)
    bad = frame.iloc[:2].assign(exclusion="diverged", loss=9.0)
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    pd.concat([frame, other, bad]).to_csv(path, index=False)
    return path


COLUMNS = ["--n", "n_total", "--d", "tokens_seen", "--where", "language == 'en'"]


def _json(capsys: pytest.CaptureFixture) -> dict:
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_fit_prints_exactly_one_object(runs: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    card = tmp_path / "card.md"
    arguments = [
        "fit",
        str(runs),
        "--law",
        "tied",
        *COLUMNS,
        "--json",
        "--card",
        str(card),
        "--plot",
        str(tmp_path / "f.png"),
    ]
    assert main(arguments) == 0
    form = _json(capsys)
    assert {"law", "n", "objective", "params", "intervals", "status", "flags", "seconds"} <= form.keys()
    assert form["n"] == 24 and form["status"] == "converged"
    assert form["dropped"][0]["why"] == "diverged" and len(form["dropped"][0]["rows"]) == 2
    for name, value in TRUTH.items():
        assert form["intervals"][name]["low"] < value < form["intervals"][name]["high"]
    assert "**missing**" in card.read_text() and (tmp_path / "f.png").stat().st_size > 10_000


def test_fit_for_people_says_status_and_what_was_dropped(runs: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["fit", str(runs), "--law", "tied", *COLUMNS, "--bootstrap", "50", "--drop-highest", "1"]) == 0
    out = capsys.readouterr().out
    assert "converged to one minimum" in out and "23 points" in out and "iid 95%" in out
    assert "2 rows dropped (exclusion): diverged" in out and "1 rows dropped (drop_highest)" in out


def test_tokens_from_flops_give_the_same_fit(runs: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    common = [
        "fit",
        str(runs),
        "--law",
        "tied",
        "--n",
        "n_total",
        "--where",
        "language == 'en'",
        "--interval",
        "none",
        "--json",
    ]
    assert main([*common, "--d", "tokens_seen"]) == 0
    by_tokens = _json(capsys)
    assert main([*common, "--flops", "c"]) == 0
    by_flops = _json(capsys)
    assert by_flops["objective"]["value"] == pytest.approx(by_tokens["objective"]["value"], rel=1e-9)


def test_parquet_and_json_lines_load(runs: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    frame = pd.read_csv(runs)
    frame.to_parquet(tmp_path / "r.parquet")
    frame.to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    values = []
    for name in ("r.parquet", "r.jsonl"):
        assert main(["fit", str(tmp_path / name), "--law", "tied", *COLUMNS, "--interval", "none", "--json"]) == 0
        values.append(_json(capsys)["objective"]["value"])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_user_s_law_from_a_file(runs: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "mylaw.py"
    file.write_text(USER_LAW)
    assert len(USER_LAW.splitlines()) < 30
    common = ["fit", str(runs), *COLUMNS, "--interval", "none", "--json", "--law"]
    assert main([*common, f"{file}:MyLaw"]) == 0
    mine = _json(capsys)
    assert main([*common, "tied"]) == 0
    assert mine["law"] == "my-law"
    assert mine["objective"]["value"] == pytest.approx(_json(capsys)["objective"]["value"], rel=1e-9)


def test_compare_holds_out_and_opens_once(runs: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    ledger = tmp_path / "ledger.jsonl"
    common = [
        "compare",
        str(runs),
        *COLUMNS,
        "--laws",
        "tied",
        "--hold-out-above",
        "1e18",
        "--ledger",
        str(ledger),
        "--json",
    ]
    assert main(common) == 0
    form = _json(capsys)
    assert form["test"] is None and form["n"] < 24 and not ledger.exists()
    assert main([*common, "--open-test"]) == 0
    assert _json(capsys)["test"]["mape"] < 0.02
    assert main([*common, "--open-test"]) == 1
    assert "were opened on" in capsys.readouterr().err


def test_predict_and_allocate(runs: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    plot = tmp_path / "p.png"
    points = ["--at", "N=1e9,D=2e10", "N=2e8,D=4e9"]
    assert (
        main(
            [
                "predict",
                str(runs),
                "--law",
                "tied",
                *COLUMNS,
                *points,
                "--bootstrap",
                "40",
                "--json",
                "--plot",
                str(plot),
            ]
        )
        == 0
    )
    first, second = _json(capsys)["predictions"]
    truth = float(surface.loss(TIED, TRUTH, {"N": 1e9, "D": 2e10}))
    assert first["conformal"][0] < truth < first["conformal"][1] and second["x"]["N"] == 2e8
    assert (
        main(
            ["allocate", str(runs), "--law", "tied", *COLUMNS, "--budget", "1e20", "--bootstrap", "40", "--approaches"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "deadweight loss" in out and "three approaches" in out
    assert main(["allocate", "--law", "data-constrained", "--budget", "1e22", "--unique-tokens", "25e9", "--json"]) == 0
    assert _json(capsys)["epochs"] == pytest.approx(9.49, abs=0.01)


def test_params_from_a_fit_feed_allocate_and_design(runs: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["fit", str(runs), "--law", "tied", *COLUMNS, "--interval", "none", "--json"]) == 0
    saved = tmp_path / "fit.json"
    saved.write_text(capsys.readouterr().out)
    assert main(["allocate", "--law", "tied", "--params", str(saved), "--budget", "1e20", "--json"]) == 0
    assert _json(capsys)["n"] > 1e6
    assert (
        main(["design", "check", "--law", "tied", "--runs", str(runs), "--params", str(saved), *COLUMNS, "--json"]) == 0
    )
    assert _json(capsys)["verdict"] == "identified"


def test_design_refuses_the_line_and_accepts_what_it_makes(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    n = np.geomspace(1e6, 6.4e7, 7)
    plan = tmp_path / "line.csv"
    pd.DataFrame({"N": n, "D": 20 * n}).to_csv(plan, index=False)
    params = [
        "--params",
        "E=1.55,A=420,alpha=.4,B=433.3,beta=.2,gamma=.08",
        "--frozen",
        "E",
        "A",
        "alpha",
        "--law",
        "cpt",
    ]
    assert main(["design", "check", "--runs", str(plan), *params]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "with D = 20 N only, gamma and beta cannot be told apart" in out or "beta and gamma cannot be told apart" in out
    )
    made = tmp_path / "made.csv"
    assert main(["design", "make", "--budget", "1e18", "--out", str(made), *params, "--runs", "12"]) == 0
    capsys.readouterr()
    assert main(["design", "check", "--runs", str(made), *params, "--plot", str(tmp_path / "d.png")]) == 0
    assert pd.read_csv(made).eval("6 * N * D").sum() <= 1e18 * 1.0001


def test_a_fit_that_is_not_identified_is_refused(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    n = np.geomspace(1e6, 1e8, 8)
    line = tmp_path / "line.csv"
    loss = 1.55 + 420 / n**0.4 + 433 / ((20 * n) ** 0.2 * n**0.08)
    pd.DataFrame({"N": n, "D": 20 * n, "loss": loss}).to_csv(line, index=False)
    arguments = ["fit", str(line), "--law", "cpt", "--frozen", "E=1.55", "A=420", "alpha=.4"]
    assert main([*arguments, "--json"]) == 3
    form = _json(capsys)
    assert form["status"] == "not identified" and form["intervals"] == {}
    assert any("beta and gamma cannot be told apart" in text for text in form["null_directions"])
    assert main(["allocate", *arguments[1:], "--budget", "1e20"]) == 1
    assert "cannot be told apart" in capsys.readouterr().err


def test_audit_refits_every_count(runs: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert (
        main(
            [
                "audit",
                str(runs),
                "--law",
                "tied",
                "--d",
                "tokens_seen",
                "--where",
                "language == 'en'",
                "--c-columns",
                "c",
                "--json",
            ]
        )
        == 0
    )
    found = _json(capsys)["conventions"]
    assert [(c["n_column"], c["c_column"]) for c in found] == [
        ("n_total", "6ND"), ("n_total", "c"), ("n_nonembedding", "6ND"), ("n_nonembedding", "c"),
    ]  # fmt: skip
    assert all(c["exponent"] == pytest.approx(0.5, abs=1e-6) for c in found)
    assert found[2]["params"]["A"] == pytest.approx(
        found[0]["params"]["A"] * 0.8 ** found[0]["params"]["alpha"], rel=1e-4
    )


def test_laws_are_listed(capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["laws", "--json"]) == 0
    listed = {law["name"] for law in _json(capsys)["laws"]}
    assert {"chinchilla", "tied", "cpt", "data-constrained", "reciprocal-perplexity"} <= listed
    assert main(["laws", "chinchilla"]) == 0
    assert "406.4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "missing.csv"], "No table 'missing.csv'"),
        (["fit", "RUNS", "--n", "n_totl"], "no column 'n_totl'"),
        (["fit", "RUNS", "--law", "chinchila", *COLUMNS], "Did you mean 'chinchilla'"),
        (["fit", "RUNS", "--where", "langage == 'en'"], "--where"),
        (["fit", "RUNS", "--where", "language == 'xx'"], "No row"),
        (["fit", "RUNS", *COLUMNS, "--frozen", "alpha"], "not NAME=VALUE"),
        (["fit", "RUNS", *COLUMNS, "--frozen", "alpha=x"], "not a number"),
        (["fit", "RUNS", "--derive", "x"], "not NAME=EXPRESSION"),
        (["fit", "RUNS", "--derive", "x=nothing*2"], "--derive"),
        (["fit", "RUNS", *COLUMNS, "--objective", "hubris"], "Unknown objective"),
        (["predict", "RUNS", *COLUMNS], "nothing to predict"),
        (["allocate", "--law", "tied"], "no budget"),
        (["allocate", "--law", "tied", "--budget", "1e20", "--params", "nowhere.json"], "No file"),
        (["allocate", "--law", "kaplan", "--budget", "1e20", "--params", "aN=1"], "needs"),
        (["compare", "RUNS", *COLUMNS, "--open-test"], "--hold-out-above"),
    ],
)
def test_mistakes_get_one_line(runs: Path, arguments: list[str], message: str, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main([str(runs) if a == "RUNS" else a for a in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = (
        "import sys, lab.cli; print([m for m in ('jax', 'pandas', 'numpy', 'matplotlib', 'flax') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
