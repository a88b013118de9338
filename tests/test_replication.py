"""Prediction of runs with other seeds: as many land inside as the level says, and a changed effect does not."""

from __future__ import annotations

import json

import pytest
from synthetic_imbalance import SCALE, World, arms

from analysis.replication import PPL, TEFF, landings
from lab.cli import main
from lab.errors import LabError
from sweeps.imbalance import STUDY
from sweeps.tables import study_of

LADDER = [f"l1, {t:g} T, nano-4" for t in SCALE.ladder]
HEADLINE = [f"clone {p} %, 1 T, nano-4" for p in (50, 10)]
OLD, NEW = (0, 1, 2), (3, 4, 5)


def tables(draw: int = 0, **changed):
    only = [*LADDER, *HEADLINE]
    true = {(HEADLINE[1], "clone1"): 2.0}
    old = World(teff=true, seeds=OLD, draw=2 * draw).table(arms(), only)
    return old, World(**{"teff": true, "seeds": NEW, "draw": 2 * draw + 1, **changed}).table(arms(), only)


def test_new_seeds_land_as_often_as_the_level_says():
    """Independent runs: no common effect of a seed, so that the binomial distribution holds."""
    inside, runs = {PPL: 0, TEFF: 0}, {PPL: 0, TEFF: 0}
    for draw in range(12):
        for landing in landings(*tables(draw), level=0.8):
            inside[landing.what] += landing.inside
            runs[landing.what] += len(landing.new)
    assert runs[PPL] == 12 * 3 * (len(LADDER) + 4) and runs[TEFF] == 12 * 3 * 4
    assert inside[PPL] / runs[PPL] == pytest.approx(0.8, abs=0.08)
    assert inside[TEFF] / runs[TEFF] == pytest.approx(0.8, abs=0.12)


def test_another_effect_does_not_land():
    found = landings(*tables(teff={(HEADLINE[1], "clone1"): 1.2}))
    moved = [landing for landing in found if landing.arm == HEADLINE[1] and landing.language == "clone1"]
    assert [landing.inside for landing in moved] == [0, 0]
    others = [landing for landing in found if landing.arm in LADDER]
    assert sum(landing.inside for landing in others) >= 0.8 * 3 * len(others)


def test_what_cannot_be_predicted_is_refused():
    old, new = tables()
    with pytest.raises(LabError, match="runs are in both tables"):
        landings(old, old)
    with pytest.raises(LabError, match="of which the old one has two seeds"):
        landings(old[old.seed_init == 0], new)
    with pytest.raises(LabError, match="no cell in common"):
        landings(old, new.assign(arm=new.arm + "!"))


def test_arms_run_again_at_another_rate_have_a_ladder_of_their_own():
    again = ", paper's rate"
    only = [name + suffix for name in (*LADDER, *HEADLINE) for suffix in ("", again)]
    old, new = (World(seeds=seeds, draw=draw).table(arms(), only) for draw, seeds in enumerate((OLD, NEW)))
    with pytest.raises(LabError, match="A ladder holds one rule of learning rates"):
        landings(old, new)
    found = landings(old, new, again=again)
    assert len([one for one in found if one.what == TEFF]) == 8
    assert STUDY.again == again and study_of("imbalance-embedded-seeds-3-4-5") is STUDY and study_of("mine") is None


def test_the_command_prints_both(monkeypatch, capsys):
    old, new = tables()
    monkeypatch.setattr("lab.table.read_table", lambda path: {"old": old, "new": new}[str(path)])
    assert main(["replicate", "old", "new", "--arms", "clone"]) == 0
    said = capsys.readouterr().out
    assert "ln PPL: " in said and "ln TEff: " in said and "11.4 are expected" in said and LADDER[0] not in said
    assert main(["replicate", "old", "new", "--arms", "clone 10", "--json"]) == 0
    form = json.loads(capsys.readouterr().out)
    assert {entry["what"] for entry in form} == {PPL, TEFF} and all(len(entry["new"]) == 3 for entry in form)
    assert main(["replicate", "old", "new", "--arms", "mona lisa"]) == 1
