"""A bundle recommends what its model says. Its files: test_manifest.py, test_parts.py, test_networks.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.bundles import resign
from support.project import PARAMS_FILE
from support.tiny_model import ITEMS, LEVELS, SERVING, item_ids, tiny_recommender, write_artifacts
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.unified import embed_hard_history
from unigrec.core.retrieval.beam import exact_scores
from unigrec.core.retrieval.set_scan import catalogue_scores
from unigrec.serving.assemble import assemble
from unigrec.serving.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(pristine) -> Bundle:
    return Bundle.load(pristine)


def ids_of(answer) -> list[str]:
    return [item.item_id for item in answer.items]


def test_recommends_what_the_exact_scorer_ranks_first(bundle):
    history = ["P3", "P5"]
    codes = torch.as_tensor(files.read_arrays(bundle.folder / "identifiers.safetensors")["codes"].astype(np.int64))
    indices = torch.tensor([[bundle.index_of[item] for item in history]])
    source, mask = embed_hard_history(bundle.recommender, codes[indices][..., :LEVELS], torch.tensor([2]))
    expected = exact_scores(bundle.recommender, codes, source, mask)[0].sort(descending=True)
    answer = bundle.recommend([history], k=ITEMS)[0]
    assert ids_of(answer) == [bundle.item_ids[index] for index in expected.indices.tolist()]
    np.testing.assert_allclose([item.score for item in answer.items], expected.values, atol=1e-5)


def test_a_batch_answers_as_each_history_alone(bundle):
    histories = [["P3"], ["a,b", "квас", "P4", "P9"], ["two words", "P3"]]
    together = bundle.recommend(histories, k=4)
    alone = [bundle.recommend([history], k=4)[0] for history in histories]
    assert [ids_of(answer) for answer in together] == [ids_of(answer) for answer in alone]


def test_unknown_items_are_left_out_and_counted(bundle):
    answer = bundle.recommend([["gone", "P3", "also gone"]], k=3)[0]
    assert answer.unknown == 2
    assert not answer.by_popularity
    assert answer.items == bundle.recommend([["P3"]], k=3)[0].items


@pytest.mark.parametrize("history", [[], ["gone"]])
def test_nothing_known_gets_the_most_popular_and_says_so(bundle, history):
    answer = bundle.recommend([["P3"], history], k=3)[1]
    assert answer.by_popularity
    assert ids_of(answer) == ["P11", "P10", "P9"]
    assert answer.unknown == len(history)


def test_allow_and_deny_lists_hold_for_model_and_popularity(bundle):
    allow, deny = ["P4", "P5", "P6", "gone"], ["P5"]
    for answer in bundle.recommend([["P3"], []], k=10, allow=allow, deny=deny):
        assert set(ids_of(answer)) == {"P4", "P6"}


def test_history_may_be_excluded(bundle):
    answer = bundle.recommend([["P3", "P4", "P3"]], k=ITEMS, exclude_history=True)[0]
    assert set(ids_of(answer)) == set(item_ids()) - {"P3", "P4"}


@pytest.mark.parametrize(
    ("options", "message"), [({"k": 0}, "k = 0"), ({"k": 99}, "k = 99"), ({"allow": []}, "no item")]
)
def test_impossible_questions_are_refused(bundle, options, message):
    with pytest.raises(UnigrecError, match=message):
        bundle.recommend([["P3"]], **({"k": 1} | options))


def test_a_missing_title_is_empty(bundle):
    titles = {item.item_id: item.title for item in bundle.recommend([["P3"]], k=ITEMS)[0].items}
    assert titles["a,b"] == ""
    assert titles["квас"] == "title 2"


def with_item_vectors() -> torch.Tensor:
    """Write artifacts of a recommender that reads vectors of five numbers; returns its item tokens."""
    write_artifacts(0, True, None, 0)
    config = tiny_recommender(0).config.to_dict() | {"vector_width": 5}
    recommender = Recommender(RecommenderConfig(**config)).eval()
    tokens = torch.randn(ITEMS, LEVELS, config["d_model"])
    files.write_tensors(Artifacts().finetune / paths.MODEL_FILE, recommender.state_dict())
    files.write_json(Artifacts().finetune / paths.MODEL_CONFIG_FILE, config)
    files.write_tensors(Artifacts().finetune / paths.ITEM_TOKENS_FILE, {"tokens": tokens})
    return tokens


def test_a_recommender_of_item_vectors_reads_the_bundles_item_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens = with_item_vectors()
    bundle = Bundle.load(assemble(PARAMS_FILE, SERVING))
    indices = [bundle.index_of[item] for item in ("P3", "P5")]
    mask = torch.ones(1, 2 * LEVELS, dtype=torch.bool)
    codes = torch.as_tensor(bundle.identifiers)
    expected = exact_scores(bundle.recommender, codes, tokens[indices].flatten(0, 1)[None], mask)[0]
    answer = bundle.recommend([["P3", "P5"]], k=ITEMS)[0]
    assert ids_of(answer) == [bundle.item_ids[index] for index in expected.argsort(descending=True).tolist()]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(ITEMS - 1, LEVELS, 8), r"expected tokens float32 \(12, 2, 8\), found torch.float32 \(11, 2, 8\)"),
        (torch.zeros(ITEMS, LEVELS, 8).double(), "found torch.float64"),
        (torch.full((ITEMS, LEVELS, 8), torch.inf), "tokens that are not finite"),
    ],
)
def test_item_tokens_must_fit(tmp_path, monkeypatch, tokens, message):
    monkeypatch.chdir(tmp_path)
    with_item_vectors()
    path = Artifacts().finetune / paths.ITEM_TOKENS_FILE
    files.write_tensors(path, {"tokens": tokens})
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(assemble(PARAMS_FILE, SERVING))


def test_item_tokens_that_were_not_written_are_named_before_there_is_a_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with_item_vectors()
    (Artifacts().finetune / paths.ITEM_TOKENS_FILE).unlink()
    with pytest.raises(UnigrecError, match=r"item_tokens\.safetensors: no such file; run the pipeline"):
        assemble(PARAMS_FILE, SERVING)


def test_a_bundle_that_lost_its_item_tokens_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with_item_vectors()
    folder = assemble(PARAMS_FILE, SERVING)
    (folder / paths.ITEM_TOKENS_FILE).unlink()
    resign(folder)
    with pytest.raises(UnigrecError, match="reads item vectors, but the bundle lacks item_tokens"):
        Bundle.load(folder)


def test_item_tokens_beside_a_recommender_that_reads_codes_alone(tmp_path, monkeypatch):
    """Left over in the artifacts they do not reach the bundle; in a bundle they are refused."""
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    tokens = {"tokens": torch.zeros(ITEMS, LEVELS, 8)}
    files.write_tensors(Artifacts().finetune / paths.ITEM_TOKENS_FILE, tokens)
    folder = assemble(PARAMS_FILE, SERVING)
    assert Bundle.load(folder).recommend([["P3"]], k=1)[0].items
    files.write_tensors(folder / paths.ITEM_TOKENS_FILE, tokens)
    resign(folder)
    with pytest.raises(UnigrecError, match="reads codes alone, but the bundle holds item_tokens"):
        Bundle.load(folder)


def test_a_bundle_with_a_set_decoder_recommends_by_the_sum_of_each_items_logits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    config = tiny_recommender(0).config.to_dict() | {"decoder": "set"}
    recommender = Recommender(RecommenderConfig(**config)).eval()
    files.write_tensors(Artifacts().finetune / paths.MODEL_FILE, recommender.state_dict())
    files.write_json(Artifacts().finetune / paths.MODEL_CONFIG_FILE, config)
    bundle = Bundle.load(assemble(PARAMS_FILE, SERVING))
    codes = torch.as_tensor(bundle.identifiers)
    indices = torch.tensor([[bundle.index_of[item] for item in ("P3", "P5")]])
    inputs = embed_hard_history(recommender, codes[indices][..., :LEVELS], torch.tensor([2]))
    expected = catalogue_scores(recommender, codes, *inputs)[0].sort(descending=True)
    answer = bundle.recommend([["P3", "P5"]], k=ITEMS)[0]
    assert ids_of(answer) == [bundle.item_ids[index] for index in expected.indices.tolist()]
    only = bundle.recommend([["P3", "P5"]], k=1, allow={"P7"})[0]
    assert ids_of(only) == ["P7"]
