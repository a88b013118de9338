"""The report's part beyond the paper: where a clone stops gaining, the law of TEff, and what foretells it."""

from __future__ import annotations

import pytest
from synthetic_imbalance import SCALE, World, arms
from test_records import row

from analysis.claims import ProbeValue
from figures.imbalance_beyond import EARLY, clones, section
from figures.provenance import read_provenance
from figures.report import Picture, Rows
from lab.table import table_of, write_table

LADDER = [f"l1, {t:g} T, nano-4" for t in SCALE.ladder]
PAIRS = {f"clone {100 * p:g} %, 1 T, nano-4": p for p in SCALE.shares}
POWER, CROSSING = 0.6, 0.25


def table(tmp_path, world, only):
    frame = world.table(arms(), only)
    path = tmp_path / "results.parquet"
    write_table(path, table_of([{**row(), **r} for r in frame.to_dict("records")]))
    return frame, path


@pytest.fixture
def world():
    """TEff falls as a power of the share, through 1 at a quarter."""
    return World(teff={(arm, "clone1"): (p / CROSSING) ** -POWER for arm, p in PAIRS.items()}, noise=1e-4, common=0.0)


def test_share_and_law_come_back(tmp_path, world):
    _, path = table(tmp_path, world, [*LADDER, *PAIRS])
    found = section(path, None, "", tmp_path)
    assert found is not None
    shares, law = (block for block in found.blocks if isinstance(block, Rows))
    ((_, tokens, n, at, ends),) = shares.rows
    assert tokens == "3M" and n == "6" and float(at.removesuffix(" %")) == pytest.approx(25, rel=0.05)
    low, high = (float(end.removesuffix(" %")) for end in ends.split(" to "))
    assert low < 25 < high
    ((name, coefficient, _),) = law.rows  # of what these arms differ in
    assert name == "ln share" and float(coefficient) == pytest.approx(-POWER, abs=0.03)


def test_a_clone_that_never_gains_is_said_to(tmp_path, world):
    never = World(teff={(arm, "clone1"): 0.7 for arm in PAIRS}, noise=1e-4)
    _, path = table(tmp_path, never, [*LADDER, *PAIRS])
    found = section(path, None, "", tmp_path)
    assert found is not None
    shares = next(block for block in found.blocks if isinstance(block, Rows))
    assert list(shares.rows[0][3:]) == ["below all", "open"]


def test_likeness_and_teff_are_drawn_for_every_probed_run(tmp_path, world):
    frame, path = table(tmp_path, world, [*LADDER, *PAIRS])
    leaves = [ProbeValue(arm, "hidden state", "clone1", "layers", at=EARLY) for arm in PAIRS]
    probes = tmp_path / "probes.parquet"
    world.probe_table(frame, leaves).to_parquet(probes)
    found = section(path, probes, "", tmp_path)
    assert found is not None
    (picture,) = (block for block in found.blocks if isinstance(block, Picture))
    (provenance,) = read_provenance(picture.png).values()
    assert set(provenance.runs) == set(frame.run_id[frame.arm.isin(PAIRS)])


def test_only_plain_pairs_of_clones_count():
    frame = World().table(
        arms(), [*PAIRS, "clone 10 %, parallel text, 1 T, nano-4", "clone 50 %, 5 % anchored, 1 T, nano-4"]
    )
    found = clones(frame).set_index("arm")
    assert set(found.index) == {*PAIRS, "clone 50 %, 5 % anchored, 1 T, nano-4"}
    assert found.anchored["clone 50 %, 5 % anchored, 1 T, nano-4"] == 0.05


def test_without_a_ladder_there_is_nothing_to_say(tmp_path):
    _, path = table(tmp_path, World(), list(PAIRS))
    assert section(path, None, "", tmp_path) is None
