"""The stage rank, and what follows from it: the bundle answers requests as the stage evaluate has measured them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from support.tiny_pipeline import inside, outputs, params, run
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.commands.bundles import assemble
from unigrec.config.edit import configure
from unigrec.core.evaluation.protocol import GATED_CUTOFF, Protocol
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.rank_by import MODEL_OF, RankBy
from unigrec.core.sequences import sample
from unigrec.core.training.fusion import choose_ranking, validation_candidates
from unigrec.core.training.search_weight import WEIGHTS
from unigrec.pipeline import running, stages
from unigrec.pipeline.outputs import load_embeddings, load_fusion, load_neighbours, load_sequences
from unigrec.promotion.judge import ranks_of, today
from unigrec.serving.bundle import Bundle

PARAMS = Path("params.yaml")


@pytest.fixture(scope="module")
def shop(finished_run, tmp_path_factory) -> Iterator[Path]:
    """A project in which every stage has run. Tests run the stages from `rank` on again."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("copy") / "shop")
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_show", lambda *_: None)
        yield folder


def rank_by(by: str) -> None:
    configure(PARAMS, settings=[f"rank.by={by}"])
    run("rank", "evaluate")


@pytest.mark.parametrize("by", RankBy)
def test_a_bundle_ranks_as_the_stage_evaluate_does(shop, by: RankBy):
    rank_by(by)
    bundle = Bundle.load(assemble(params(), PARAMS))
    assert bundle.ranks_by == by
    sequences = load_sequences(Artifacts())
    now = today(Artifacts(), sequences, max_users=0, seed=0, slice_columns=())
    measured = files.read_table(Artifacts().evaluate / paths.RANKS_FILE)
    assert measured["user_index"].to_pylist() == now.users.tolist()
    for protocol in Protocol:
        shipped, own = (measured[f"{model}_{protocol}"].to_numpy() for model in ("shipped", MODEL_OF[by]))
        assert shipped.tolist() == own.tolist()
        found = ranks_of(bundle, now, protocol)
        assert found.tolist() == np.where(shipped > GATED_CUTOFF, 0, shipped).tolist()
        assert (found > 0).any()


def test_ranks_of_a_sample_of_users_are_those_among_all(shop):
    rank_by("dense")
    everybody = files.read_table(Artifacts().evaluate / paths.RANKS_FILE).to_pylist()
    configure(PARAMS, settings=["evaluate.max_users=7"])
    run("evaluate", "gate", "report")
    ranked = files.read_table(Artifacts().evaluate / paths.RANKS_FILE).to_pylist()
    configure(PARAMS, settings=["evaluate.max_users=0"])
    assert len(ranked) == 7 < len(everybody)
    assert [row for row in everybody if row in ranked] == ranked
    examples = files.read_json(Artifacts().report / paths.FACTS_FILE)["examples"]
    assert {example["rank"] for example in examples} <= {row["shipped_unmasked"] for row in ranked}


def test_metrics_and_intervals_are_those_of_what_is_shipped(shop):
    rank_by("dense")
    metrics = files.read_json(Artifacts().evaluate / paths.METRICS_FILE)
    assert metrics["shipped"] == metrics["teacher"]
    against = files.read_json(Artifacts().evaluate / paths.AGAINST_FILE)
    for protocol in Protocol:
        assert against[protocol]["teacher"]["difference"] == 0.0
        for other, interval in against[protocol].items():
            expected = metrics["shipped"][protocol]["ndcg_at_10"] - metrics[other][protocol]["ndcg_at_10"]
            assert interval["difference"] == pytest.approx(expected), other
            assert interval["low"] <= interval["difference"] <= interval["high"]
        assert set(against[protocol]) == set(metrics) - {"shipped", "fused"}


def test_the_stage_writes_what_was_counted_and_fitted_and_says_why(shop, capsys):
    rank_by("best")
    artifacts, sequences = Artifacts(), load_sequences(Artifacts())
    counted, found = count_neighbours(sequences, load_embeddings(artifacts)), load_neighbours(artifacts)
    assert torch.equal(found.content, counted.content)
    for name in ("successors", "together"):
        for read, kept in zip(getattr(found, name), getattr(counted, name), strict=True):
            assert torch.equal(read, kept), name
    retriever = stages.fused_retriever(params(), artifacts, torch.device("cpu"))
    users = sample(sequences.evaluation_users(), params().rank.validation_users, params().seed)
    assert len(users) < len(sequences.evaluation_users())
    chosen = choose_ranking(validation_candidates(retriever, sequences, users), "best", params().seed)
    by, weights, search_weight = load_fusion(artifacts)
    assert (by, weights) == (chosen.by, chosen.weights)
    assert search_weight in WEIGHTS
    written = files.read_json(artifacts.rank / paths.FUSION_FILE)
    assert (written["users"], written["validation_ndcg_at_10"]) == (len(users), chosen.validation)
    printed = capsys.readouterr().out
    assert f"rank: ranking by {chosen.by}" in printed
    assert f"fused {chosen.validation['fused']:.4f}" in printed


def test_the_same_inputs_give_the_same_bytes(shop):
    rank_by("best")
    first = outputs("rank") | outputs("evaluate")
    rank_by("best")
    assert outputs("rank") | outputs("evaluate") == first
    assert {path.name for path in outputs("rank")} == {paths.NEIGHBOURS_FILE, paths.BASKETS_FILE, paths.FUSION_FILE}
