"""The facts of a report are those of the stages' outputs, and hold no id of a user."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from support.hostile import HOSTILE
from support.tiny_pipeline import inside, params
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.config.profiles import PROFILES
from unigrec.core.evaluation.metrics import ndcg
from unigrec.core.evaluation.protocol import SHIPPED
from unigrec.core.retrieval.rank_by import MODEL_OF
from unigrec.pipeline.outputs import load_codes, load_fusion, load_sequences
from unigrec.pipeline.report import facts as report_facts


@pytest.fixture
def run(finished_run, monkeypatch) -> Artifacts:
    monkeypatch.chdir(finished_run)
    return Artifacts()


@pytest.fixture
def facts(run) -> dict:
    return files.read_json(run.report / paths.FACTS_FILE)


def test_quality_and_decision_are_those_of_the_stages(run, facts):
    assert facts["metrics"] == files.read_json(run.evaluate / paths.METRICS_FILE)
    assert facts["against"] == files.read_json(run.evaluate / paths.AGAINST_FILE)
    assert facts["decision"] == files.read_json(run.decision)
    assert facts["shipped_as"] == MODEL_OF[load_fusion(run).by]


def test_an_interval_holds_the_mean_of_the_users_gains(run, facts):
    ranks = files.read_table(run.evaluate / paths.RANKS_FILE)
    for model in ("popularity", "teacher", SHIPPED):
        for protocol in ("unmasked", "masked"):
            low, high = facts["intervals"][model][protocol]["ndcg_at_10"]
            mean = ndcg(ranks[f"{model}_{protocol}"].to_numpy(), 10).mean()
            assert low <= mean <= high
            assert low < high or mean in (0.0, 1.0)


def test_an_example_is_a_test_user_with_history_recommendations_and_what_was_taken(run, facts):
    sequences, ids = load_sequences(run), files.read_table(run.catalogue)["item_id"].to_pylist()
    rows = {tuple(ids[item] for item in sequences.seen(np.array([user]), "test")[0][0]): user for user in range(60)}
    assert len(facts["examples"]) == params().report.users
    ranks = files.read_table(run.evaluate / paths.RANKS_FILE)
    rank_of = dict(zip(ranks["user_index"].to_pylist(), ranks["shipped_unmasked"].to_pylist(), strict=True))
    found = []
    for example in facts["examples"]:
        last = tuple(item["id"] for item in example["history"])
        (user,) = [user for history, user in rows.items() if history[-len(last) :] == last][:1]
        found.append(user)
        assert example["earlier"] == max(9 - report_facts.SHOWN_HISTORY, 0)
        assert len({item["id"] for item in example["recommended"]}) == 10
        places = [place for place, item in enumerate(example["recommended"], start=1) if item["taken"]]
        assert places == ([example["rank"]] if 0 < example["rank"] <= 10 else [])
    assert any(example["rank"] in rank_of.values() for example in facts["examples"])
    assert len(set(found)) > 1


def test_titles_are_kept_as_they_are_and_ids_of_users_are_nowhere(run, facts):
    titles = {item["title"] for example in facts["examples"] for item in example["recommended"]}
    assert any(title.startswith(HOSTILE[0]) for title in titles)
    users = files.read_table(run.users)["user_id"].to_pylist()
    text = json.dumps({name: value for name, value in facts.items() if name != "pictures"})
    assert not [user for user in users if f'"{user}"' in text]


def test_the_tree_counts_the_prefixes_of_the_codes(run, facts):
    codes = load_codes(run)
    tree = facts["identifiers"]["tree"]
    assert [row["nodes"] for row in tree] == [
        len({tuple(row[:k]) for row in codes}) for k in range(1, codes.shape[1] + 1)
    ]
    assert tree[-1]["nodes"] == len(codes)  # every item has an identifier of its own
    group = facts["identifiers"]["groups"][0]
    assert group["items"] == np.bincount(codes[:, 0]).max()
    assert all(one["codes"].split("-")[0] == str(group["code"]) for one in group["examples"])


def test_params_that_differ_from_the_profile_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PROFILES.mkdir(parents=True)
    (PROFILES / "sample.yaml").write_text("joint: {epochs: 10, batch_size: 128}\n")
    (PROFILES / "small.yaml").write_text("joint: {epochs: 14}\n")
    params = {"profile": "small", "joint": {"epochs": 20, "batch_size": 128}, "embed": {"model": "http://j:x@h/m"}}
    found = report_facts._params(params)
    assert found["changed"] == [["joint.epochs", "14", "20"]]
    assert ["embed.model", "http://***@h/m"] in found["all"]
    assert report_facts._params(params | {"profile": "mine"}) == found | {
        "profile": "mine",
        "known": False,
        "changed": [],
        "all": [["profile", "mine"], *found["all"][1:]],
    }


def test_pictures_are_compact_and_the_page_is_of_a_few_hundred_kilobytes(run, facts):
    assert {"intervals", "teacher", "tokenizer", "joint", "finetune", "codebook_usage"} <= set(facts["pictures"])
    for svg in facts["pictures"].values():
        assert svg.startswith("<svg")
        assert svg.endswith("</svg>")
        assert "\n" not in svg
    assert (run.report / paths.REPORT_PAGE).stat().st_size < 500_000


def test_a_run_without_examples_has_none(run):
    sequences = load_sequences(run)
    assert len(sequences.evaluation_users()) == 60
    assert report_facts._examples(run, None, [], users=0, seed=1) == []


def test_the_facts_are_made_with_the_pages(finished_run: Path):
    with inside(finished_run):
        names = {path.name for path in Artifacts().report.iterdir()}
    assert names == {paths.FACTS_FILE, paths.REPORT_PAGE, paths.MODEL_CARD}
