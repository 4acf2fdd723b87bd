"""Tiny bundles judged from end to end: better, equal, worse, other catalogues, liars, and bundles that do not load."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from support.bundles import resign
from support.project import PARAMS_FILE
from support.tiny_model import ITEMS, USERS, make_bundle, write_data
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.config.edit import configure
from unigrec.config.read import load_params
from unigrec.core.evaluation.ranking import student_ranks
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.pipeline.outputs import load_sequences
from unigrec.promotion import judge as judging
from unigrec.promotion.judge import Judgement, Settings, Today, histories, judge, ranks_of, today
from unigrec.promotion.report import markdown
from unigrec.serving import probe as probing
from unigrec.serving.bundle import Bundle
from unigrec.serving.extend import remove_items
from unigrec.serving.manifest import RANKING, Subject
from unigrec.serving.schema import Answer

GOOD, OTHER = 0, 1  # seeds: the data favour the first


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A folder with params; bundles are asked in this process, which takes no seconds to start."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS_FILE, tmp_path / "params.yaml")
    asked = lambda folder, requests, k, limit: probing.measure(folder, requests, k)["latency_ms"]  # noqa: E731
    monkeypatch.setattr(judging, "probe", asked)
    return tmp_path


def judged(challenger: Path, champion: Path | None, users: int = 0, **changes: object) -> Judgement:
    params = load_params(Path("params.yaml"))
    settings = Settings(params.gate, params.promotion.model_copy(update=changes), params.seed)
    old = None if champion is None else Subject("old", champion)
    return judge(Subject("new", challenger), old, now(users, params.seed), settings)


def now(users: int, seed: int) -> Today:
    names = load_params(Path("params.yaml")).evaluate.slice_columns
    return today(Artifacts(), load_sequences(Artifacts()), users, seed, names)


def refusing(judgement: Judgement) -> list[str]:
    return [gate.name for gate in judgement.decision.refusing]


def test_ranks_are_those_that_evaluation_finds():
    bundle = Bundle.load(make_bundle(OTHER))
    measured = now(0, 1)
    serving = bundle.serving
    student = GenerativeRetriever.hardened(bundle.recommender, bundle.identifiers, serving.history, serving.beam)
    expected = student_ranks(student, measured.sequences, measured.users)
    assert len(measured.users) == USERS
    for protocol in ("unmasked", "masked"):
        found = expected["student", protocol]
        assert ranks_of(bundle, measured, protocol).tolist() == np.where(found > 10, 0, found).tolist()


@pytest.mark.parametrize("by", [RankBy.DENSE, RankBy.FUSED])
def test_a_bundle_is_measured_by_what_answers_its_requests(by: RankBy):
    folder = make_bundle(OTHER)
    path = folder / "fusion.json"
    files.write_json(path, files.read_json(path) | {"by": by})
    resign(folder)
    bundle, measured = Bundle.load(folder), now(0, 1)
    before, targets = histories(measured, measured.users)
    for protocol in ("unmasked", "masked"):
        answers = bundle.recommend(before, 10, exclude_history=protocol == "masked", rank_by=by)
        assert ranks_of(bundle, measured, protocol).tolist() == places_in(answers, targets)


def test_an_item_that_the_bundle_does_not_know_is_not_found_where_a_list_ends_early(monkeypatch):
    bundle, measured = Bundle.load(make_bundle(OTHER)), now(0, 1)
    gone = set(histories(measured, measured.users)[1])
    measured = measured._replace(item_ids=["gone" if item in gone else item for item in measured.item_ids])
    monkeypatch.setattr(judging, "GATED_CUTOFF", len(bundle.item_ids))  # more than a masked history leaves
    answers = bundle.recommend(histories(measured, measured.users)[0], len(bundle.item_ids), exclude_history=True)
    assert any(len(answer.items) < len(bundle.item_ids) for answer in answers)
    assert not ranks_of(bundle, measured, "masked").any()


def places_in(answers: list[Answer], targets: list[str]) -> list[int]:
    found = [[item.item_id for item in answer.items] for answer in answers]
    return [items.index(target) + 1 if target in items else 0 for items, target in zip(found, targets, strict=True)]


def test_a_champion_of_an_earlier_version_is_measured_by_its_recommender():
    challenger, champion = make_bundle(GOOD), make_bundle(OTHER)
    for name in RANKING:
        (champion / name).unlink()
    resign(champion)
    found = judged(challenger, champion)
    assert (found.outcome, Bundle.load(champion).ranks_by) == ("promote", RankBy.GENERATIVE)


def test_better_equal_and_worse():
    good, worse = make_bundle(GOOD), make_bundle(OTHER)
    equal = make_bundle(GOOD, ranks=[3] * USERS)  # the same model in another bundle
    assert equal != good
    better = judged(good, worse)
    assert (better.outcome, better.facts["metrics"]["shipped"]["ndcg_at_10"]) == ("promote", 1.0)
    assert judged(equal, good).outcome == "keep"
    assert "a tie" in judged(equal, good).reason
    itself = judged(good, good)
    assert (itself.outcome, "own bundle" in itself.reason) == ("promote", True)
    back = judged(worse, good)
    assert "margin_over_champion" in refusing(back)
    assert back.facts["metrics"]["champion"]["ndcg_at_10"] == 1.0
    assert 0.0 < back.facts["metrics"]["shipped"]["ndcg_at_10"] < 1.0
    json.dumps(better.as_dict(), allow_nan=False)


def test_slices_of_a_column_are_held_as_the_others():
    good, worse = make_bundle(GOOD), make_bundle(OTHER)
    configure(Path("params.yaml"), settings=["evaluate.slice_columns=[brand]"])
    back = judged(worse, good, min_slice_users=1)
    assert "slice: target brand: Canon" in refusing(back)
    assert "| slice: target brand: Canon | REFUSED |" in markdown(back)


def test_a_bundle_that_lies_about_its_ranks_does_not_win():
    good = make_bundle(GOOD, ranks=[0] * USERS)
    liar = make_bundle(OTHER, ranks=[1] * USERS)
    assert judged(liar, good).outcome != "promote"
    assert judged(good, liar).outcome == "promote"


def test_the_first_model_passes_floors_or_nothing():
    assert judged(make_bundle(GOOD), None).outcome == "promote"
    weak = make_bundle(GOOD, place=ITEMS)  # its own data want what it recommends last
    found = judged(weak, None)
    assert {"recall_at_10", "ndcg_at_10", "margin_over_popularity"} <= set(refusing(found))
    assert found.outcome == "refuse"


def test_a_model_whose_run_was_refused_is_refused_whatever_it_finds_today():
    assert refusing(judged(make_bundle(GOOD, passed=False), make_bundle(OTHER, passed=True))) == ["own_decision"]


def rename_items(folder: Path, names: dict[str, str]) -> Path:
    """The same bundle for a shop in which some items have other ids."""
    target = folder.with_name(f"{folder.name}-renamed")
    shutil.copytree(folder, target)
    for name in ("catalogue.parquet", "columns.parquet"):
        table = files.read_table(folder / name)
        ids = [names.get(item, item) for item in table["item_id"].to_pylist()]
        changed = table.set_column(table.column_names.index("item_id"), "item_id", pa.array(ids))
        files.write_table(target / name, changed)
    resign(target)
    return target


def test_catalogues_may_differ_and_an_unknown_item_is_not_found():
    good = make_bundle(GOOD)
    targets = histories(now(0, 1), np.arange(USERS))[1]
    wanted = max(set(targets), key=targets.count)
    older = rename_items(good, {wanted: "an item of the past"})
    found = judged(good, older)
    assert found.outcome == "promote"
    assert found.facts["metrics"]["champion"]["recall_at_10"] == pytest.approx(1 - targets.count(wanted) / USERS)
    churn = next(gate for gate in found.decision.gates if gate.name == "churn")
    assert churn.value == 0.0  # of the items that both have
    stranger = rename_items(older, {item: f"other {item}" for item in Bundle.load(older).item_ids})
    nothing = judged(good, stranger)
    assert nothing.facts["metrics"]["champion"]["recall_at_10"] == 0.0
    assert "no item in common" in next(gate.reason for gate in nothing.decision.gates if gate.name == "churn")


def test_churn_is_of_identifiers_per_level():
    good, other = make_bundle(GOOD), make_bundle(OTHER)
    before, after = Bundle.load(good), Bundle.load(other)
    found = judged(good, other, max_churn=0.01)
    differs = before.identifiers != after.identifiers
    assert found.facts["churn_per_level"] == pytest.approx(differs.mean(0))
    assert next(gate.value for gate in found.decision.gates if gate.name == "churn") == differs.any(1).mean()
    assert "churn" in refusing(found)


def test_budgets_refuse():
    good, other = make_bundle(GOOD), make_bundle(OTHER)
    assert refusing(judged(good, other, max_size_mb=0.001, max_latency_ms=0.0001)) == ["latency_p95", "size"]


def test_a_sample_of_users_is_seeded_and_said():
    good, other = make_bundle(GOOD), make_bundle(OTHER)
    found = judged(good, other, users=15)
    assert (found.facts["users"], found.facts["users_there_are"]) == (15, USERS)
    assert "15 of 40 (a sample)" in markdown(found)
    assert now(15, 1).users.tolist() == now(15, 1).users.tolist()
    assert now(15, 1).users.tolist() != now(15, 2).users.tolist()


def test_a_bundle_of_newer_data_than_what_is_prepared_is_not_judged():
    good = make_bundle(GOOD)
    write_data(GOOD, until=1_600_000_000)
    for pair in ((good, None), (rename_items(good, {}), good)):
        with pytest.raises(UnigrecError, match=r"may have been trained on today's test items.*dvc pull"):
            judged(*pair)
    write_data(GOOD, until=1_800_000_000)
    found = judged(good, None)
    assert (found.outcome, found.facts["challenger_of_this_data"]) == ("promote", False)
    assert "trained on other data" in markdown(found)


def broken(folder: Path) -> Path:
    path = folder / "recommender.safetensors"
    files.write_tensors(path, {name: value * float("nan") for name, value in files.read_tensors(path).items()})
    resign(folder)
    return folder


@pytest.mark.slow
def test_a_challenger_that_does_not_load_is_refused_and_a_champion_that_does_not_is_no_decision(monkeypatch):
    good = make_bundle(GOOD)
    bad = broken(make_bundle(OTHER))
    with monkeypatch.context() as patch:
        patch.setattr(judging, "probe", probing.probe)  # in a process of its own, as it is
        found = judged(bad, good)
    assert (found.outcome, refusing(found)) == ("refuse", ["loads"])
    assert "not finite" in found.reason
    assert "nothing else was measured" in markdown(found)
    with pytest.raises(UnigrecError, match="not finite"):
        judged(good, bad)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", "signal 6"),
        ("import time; time.sleep(60)", "did not load and answer within 0.5 s"),
        ("raise SystemExit(1)", "it said nothing"),
    ],
)
def test_a_bundle_that_kills_or_hangs_its_process_is_refused(monkeypatch, code, message):
    monkeypatch.setattr(probing, "COMMAND", (sys.executable, "-S", "-c", code))
    monkeypatch.setattr(judging, "probe", probing.probe)
    found = judged(make_bundle(GOOD), None, max_load_seconds=0.5 if "sleep" in code else 60.0)
    assert (refusing(found), message in found.reason) == (["loads"], True)


def test_a_model_with_one_item_less_may_tie_with_its_parent():
    champion = make_bundle(GOOD)
    targets = set(histories(now(0, 1), now(0, 1).users)[1])
    never = next(item for item in Bundle.load(champion).item_ids if item not in targets)
    judgement = judged(remove_items(champion, {never}), champion)
    assert "margin_over_champion" not in refusing(judgement)
