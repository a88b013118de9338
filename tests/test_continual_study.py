"""The arms of the study of continual pre-training at every scale, on stores that are there in name only."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny

from lab.data.prepare import Prepared
from sweeps import texts
from sweeps.continual import STUDY
from sweeps.continual_runs import DISTANCE, REPLAY, VOCABULARY
from sweeps.exclusion import DEFAULT_RULES
from sweeps.plan import planned_rows, select

SCALES = {scale.name: scale for scale in STUDY.scales}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return tiny.prepared(tmp_path_factory.mktemp("stores"), tuple(f"l{k}" for k in range(14)))


@pytest.fixture(scope="module")
def arms_of(stores):
    """Arms by scale; each corpus of a scale is a tiny store, in the tokenizers that its group asks for."""
    first, *_ = names = list(stores.stores)
    made = {}

    def arms(name):
        if name not in made:
            scale, prepared = SCALES[name], {}
            corpora = dict.fromkeys(c for spec in scale.data.values() for c in spec.corpora)
            store_of = dict(zip(corpora, names, strict=False))
            assert len(store_of) == len(corpora)
            for group, spec in scale.data.items():
                alias = {c: store_of[c] for c in spec.corpora}
                shared = spec.joint or spec.tokenizer_from
                tokenizers = dict.fromkeys(stores.stores, stores.tokenizers[first]) if shared else stores.tokenizers
                prepared[group] = Prepared(stores.stores, tokenizers, alias)
            made[name] = STUDY.checked_arms(prepared, scale)
        return made[name]

    return arms


@pytest.mark.parametrize("name", SCALES)
def test_claims_are_about_arms_that_there_are(arms_of, name):
    names = {arm.name for arm in arms_of(name)}
    found = STUDY.claims(SCALES[name])
    assert len({claim.id for claim in found}) == len(found) > 10
    for claim in found:
        assert set(claim.needs) <= names, claim.id


@pytest.mark.parametrize("name", SCALES)
def test_parents_are_in_the_study_and_trained_before_their_children(arms_of, name):
    arms = arms_of(name)  # `checked_arms` has asked whether they fit
    runs = {arm.run.run_id: arm for arm in arms}
    for arm in arms:
        if arm.run.parent is not None:
            parent = runs[arm.run.parent.run_id]
            assert parent.order <= arm.order and arm.run.parent.step <= parent.run.steps
            if arm.run.parent.carry == "weights":  # a finished source
                assert parent.name.startswith("source") and arm.run.parent.step == parent.run.steps


@pytest.mark.parametrize("name", SCALES)
def test_an_arm_is_one_budget_of_one_thing(arms_of, name):
    scale = SCALES[name]
    for arm in arms_of(name):
        *_, said, size = arm.name.split(", ")
        assert size in scale.sizes
        shares = dict(
            zip((c.language for c in arm.run.mixture.components), arm.run.mixture.stages[0].shares, strict=True)
        )
        own = shares.get("target", 1.0) * arm.run.tokens_seen / 1e6
        batch = arm.run.batch * arm.run.model.context / 1e6
        assert own == pytest.approx(float(said.removesuffix("M")), abs=2 * batch + 0.005), arm.name
    seeds = Counter(arm.name for arm in arms_of(name))
    assert max(seeds.values()) == len(scale.seeds)


def test_replay_goes_on_or_repeats_by_name(arms_of):
    scale = SCALES["nano"]
    by_name = {(arm.name, arm.run.seed_init): arm.run for arm in arms_of("nano")}
    read = round(scale.parent_tokens * 1e6) // (scale.batch * scale.context) * scale.batch
    on = by_name[f"cpt, replay 20 %, {scale.middle:g}M, {scale.main}", 0]
    again = by_name[f"cpt, source repeated, replay 20 %, {scale.middle:g}M, {scale.main}", 0]
    assert [c.start for c in on.mixture.components] == [read, None]
    assert [c.start for c in again.mixture.components] == [None, None]
    assert on.mixture.stages == again.mixture.stages
    moments = by_name[f"cpt, schedule continued, {scale.middle:g}M, {scale.main}", 0]
    assert moments.parent is not None and moments.parent.carry == "moments" and moments.optim.warmup == 0


def test_the_dial_has_one_parent_and_one_vocabulary(arms_of):
    scale = SCALES["nano"]
    runs = {arm.name: arm.run for arm in arms_of("nano") if arm.order == DISTANCE}
    dial = [runs[f"cpt, {s.name}, {scale.middle:g}M, {scale.main}"] for s in scale.settings]
    assert len({run.parent.run_id for run in dial if run.parent}) == 1 and len({run.model.vocab for run in dial}) == 1
    renamed = [run.mixture.layout.languages[1].renamed for run in dial]
    assert renamed[1:4] == [0.25, 0.5, 1.0] and not any(renamed[4:])
    # Every setting has a scratch anchor that reads the same text in the same way.
    for setting, run in zip(scale.settings, dial, strict=True):
        scratch = runs[f"scratch, {setting.name}, {scale.middle:g}M, {scale.main}"]
        assert scratch.mixture.layout == run.mixture.layout
        assert scratch.mixture.components[0].source == run.mixture.components[1].source


def test_extensions_differ_in_how_new_rows_begin_alone(arms_of):
    runs = [arm.run for arm in arms_of("embedded") if arm.order == VOCABULARY and arm.run.parent]
    how = {run.parent.extension: run for run in runs if run.parent.carry == "weights"}
    assert set(how) == {None, "composition", "mean", "random"}
    assert len({run.model.vocab for kind, run in how.items() if kind}) == 1
    assert len({run.steps for kind, run in how.items() if kind}) == 1


def test_replayed_arms_are_evaluated_along_the_way(arms_of):
    name = f"replay 5 %, 3M, {SCALES['nano'].main}"
    along = {arm.evaluations for arm in arms_of("nano") if arm.order == REPLAY and name in arm.name}
    assert along == {8} and STUDY.exclude == DEFAULT_RULES


@pytest.mark.parametrize("name", ("embedded", "nano"))
def test_the_laws_find_their_rows_before_anything_is_trained(arms_of, stores, name):
    scale, rows = SCALES[name], planned_rows(arms_of(name), texts.stores(stores))
    scratch, continued = (select(rows, law.where) for law in STUDY.laws)
    for role, found in (("scratch", scratch), ("cpt", continued)):
        # No other target, length of the parent, or vocabulary is among them.
        assert set(found.arm) == {f"{role}, {t:g}M, {size}" for t in scale.tokens for size in scale.sizes}
    assert set(scratch.language) == set(continued.language) == {"target"}
    # Budgets vary at each size: else beta' and gamma cannot be told apart.
    assert (continued.groupby("n_nonembedding").tokens_language.nunique() > 3).all()
    assert all(set(law.columns.values()) <= set(rows.columns) for law in STUDY.laws)
