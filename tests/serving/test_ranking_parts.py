"""The parts of the fused ranking in a bundle: all or none of them, each checked, and every way to rank is served."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from support.bundles import resign
from support.tiny_model import DENSE_SHAPE, HISTORY, ITEMS, WEIGHTS, item_ids
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.bundle import Bundle
from unigrec.serving.ranking_parts import read_fusion, read_neighbours, write_neighbours

PARTS = ["dense.json", "dense.safetensors", "fusion.json", "neighbours.safetensors"]
EARLIER = Path(__file__).with_name("version_of_a1817b7") / "model/artifacts/155f41e72037e854"
ASKED = ["P3", "a,b", "P5", "квас", "P7"]  # longer than what the dense part reads


def scores_of(bundle: Bundle, by: RankBy | None = None, **options: Any) -> dict[str, float]:
    (answer,) = bundle.recommend([ASKED], k=ITEMS, rank_by=by, **options)
    assert [item.score for item in answer.items] == sorted((item.score for item in answer.items), reverse=True)
    return {item.item_id: item.score for item in answer.items}


def test_each_way_to_rank_gives_the_scores_of_its_parts(pristine):
    bundle = Bundle.load(pristine)
    items = torch.tensor([[bundle.index_of[item] for item in ASKED]])
    generative, dense, fused = (scores_of(bundle, by) for by in (RankBy.GENERATIVE, RankBy.DENSE, RankBy.FUSED))
    model = SASRec(**DENSE_SHAPE).eval()
    model.load_state_dict(files.read_tensors(pristine / "dense.safetensors"))
    with torch.no_grad():
        log_dense = model.scores(items[:, -3:], torch.tensor([3]))[0].log_softmax(-1)
    neighbours = read_neighbours(pristine / "neighbours.safetensors", ITEMS)
    follows, alike = (feature(items[:, -1])[0] for feature in (neighbours.following, neighbours.alike))
    for index, item in enumerate(item_ids()):
        assert dense[item] == pytest.approx(float(log_dense[index]), abs=1e-5)
        weighted = WEIGHTS.generative * max(generative[item], math.log(0.01))  # the floor of a small catalogue
        near = WEIGHTS.follows * float(follows[index]) + WEIGHTS.alike * float(alike[index])
        assert fused[item] == pytest.approx(dense[item] + weighted + near, abs=1e-4)


@pytest.mark.parametrize("by", RankBy)
def test_a_request_that_does_not_say_is_answered_by_what_the_bundle_ships(folder, by: RankBy):
    fusion = json.loads((folder / "fusion.json").read_text())
    files.write_json(folder / "fusion.json", fusion | {"by": by})
    resign(folder)
    bundle = Bundle.load(folder)
    assert bundle.ranks_by == by
    assert scores_of(bundle) == scores_of(bundle, by)
    others = [other for other in RankBy if other != by]
    assert all(scores_of(bundle) != scores_of(bundle, other) for other in others)


@pytest.mark.parametrize("by", RankBy)
def test_lists_and_histories_hold_however_it_is_ranked(pristine, by: RankBy):
    bundle = Bundle.load(pristine)
    assert set(scores_of(bundle, by, exclude_history=True)) == set(item_ids()) - set(ASKED)
    assert set(scores_of(bundle, by, allow=["P4", "P5", "P6"], deny=["P5"])) == {"P4", "P6"}
    every = scores_of(bundle, by)
    some = scores_of(bundle, by, deny=["P9"])
    assert some == pytest.approx({item: every[item] for item in item_ids() if item != "P9"}, abs=1e-5)


@pytest.mark.parametrize("by", RankBy)
def test_a_new_visitor_is_shown_what_is_popular_however_it_is_ranked(pristine, by: RankBy):
    (answer,) = Bundle.load(pristine).recommend([["gone"]], k=2, rank_by=by)
    assert (answer.by_popularity, [item.item_id for item in answer.items]) == (True, ["P11", "P10"])


def test_a_bundle_of_an_earlier_version_ranks_by_its_recommender_alone():
    bundle = Bundle.load(EARLIER)
    assert bundle.ranks_by == RankBy.GENERATIVE
    assert bundle.recommend([["P3"]], k=5) == bundle.recommend([["P3"]], k=5, rank_by=RankBy.GENERATIVE)
    assert len(bundle.recommend([["P3"]], k=5)[0].items) == 5


@pytest.mark.parametrize("by", [RankBy.FUSED, RankBy.DENSE])
def test_a_bundle_of_an_earlier_version_says_what_it_ranks_by(by: RankBy):
    message = f"rank_by = {by}: this bundle, of an earlier version, ranks by generative only"
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(EARLIER).recommend([["P3"]], k=5, rank_by=by)


def test_a_bundle_without_any_of_the_parts_is_one_of_an_earlier_version(folder):
    for name in PARTS:
        (folder / name).unlink()
    resign(folder)
    bundle = Bundle.load(folder)
    assert set(bundle.retrievers) == {RankBy.GENERATIVE}


@pytest.mark.parametrize("kept", PARTS)
def test_some_parts_without_the_others_are_refused_by_the_names_of_the_missing_ones(folder, kept):
    missing = [name for name in PARTS if name != kept]
    for name in missing:
        (folder / name).unlink()
    resign(folder)
    with pytest.raises(UnigrecError, match=rf"the bundle lacks {', '.join(missing)}"):
        Bundle.load(folder)


@pytest.mark.parametrize("missing", PARTS)
def test_one_missing_part_is_refused_by_its_name(folder, missing):
    (folder / missing).unlink()
    resign(folder)
    with pytest.raises(UnigrecError, match=f"the bundle lacks {missing}"):
        Bundle.load(folder)


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


@pytest.mark.parametrize("name", PARTS)
def test_a_pickle_under_an_allowed_name(folder, tmp_path, name):
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    resign(folder)
    with pytest.raises(UnigrecError, match=name.split(".")[0]):
        Bundle.load(folder)
    assert not (tmp_path / "mark").exists()


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"starts": lambda t: t.int()}, "expected tensors", id="starts of another type"),
        pytest.param({"items": lambda t: t.long()}, "expected tensors", id="items of another type"),
        pytest.param({"weights": lambda t: t.float()}, "expected tensors", id="weights of another type"),
        pytest.param({"content": lambda t: t.float()}, "expected tensors", id="content of another type"),
        pytest.param({"content": None}, "expected tensors", id="no content"),
        pytest.param({"starts": lambda t: t[:-1]}, "not those of 12 items", id="too few rows"),
        pytest.param({"starts": lambda t: t + 1}, "not those of 12 items", id="rows that begin late"),
        pytest.param({"starts": lambda t: t - 1}, "not those of 12 items", id="rows that begin before all"),
        pytest.param({"starts": lambda t: t * 2}, "not those of 12 items", id="rows that end behind all"),
        pytest.param(
            {"starts": lambda t: torch.cat([t[:1], t[-1:], t[1:-2], t[-1:]])}, "not those of", id="rows that overlap"
        ),
        pytest.param({"starts": lambda t: t[:, None]}, "not those of 12 items", id="a table of starts"),
        pytest.param({"starts": lambda t: t[0]}, "not those of 12 items", id="one start"),
        pytest.param({"items": lambda t: t[:-1]}, "not those of 12 items", id="too few neighbours"),
        pytest.param({"items": lambda t: t[:, None]}, "not those of 12 items", id="a table of neighbours"),
        pytest.param({"items": lambda t: t[0]}, "not those of 12 items", id="one neighbour"),
        pytest.param({"weights": lambda t: t[1:]}, "not those of 12 items", id="too few weights"),
        pytest.param({"weights": lambda t: t[:, None]}, "not those of 12 items", id="a table of weights"),
        pytest.param({"content": lambda t: t[:-1]}, "not those of 12 items", id="content of too few items"),
        pytest.param({"content": lambda t: t[:, 0]}, "not those of 12 items", id="content in a row"),
        pytest.param({"content": lambda t: t[0, 0]}, "not those of 12 items", id="one number of content"),
        pytest.param({"items": lambda t: t - ITEMS}, "outside of the catalogue", id="negative neighbours"),
        pytest.param({"items": lambda t: t + ITEMS}, "outside of the catalogue", id="neighbours beyond all"),
        pytest.param({"weights": lambda t: t * NAN}, "not finite", id="weights that are no numbers"),
        pytest.param({"weights": lambda t: t * INFINITE}, "not finite", id="infinite weights"),
        pytest.param({"content": lambda t: t * NAN}, "not finite", id="content that is no number"),
    ],
)
def test_neighbours_that_are_none(folder, changes, message):
    path = folder / "neighbours.safetensors"
    tensors = {name: tensor.clone() for name, tensor in files.read_tensors(path).items()}
    assert len(tensors["items"]) > ITEMS
    for name, change in changes.items():
        if change is None:
            del tensors[name]
        else:
            tensors[name] = change(tensors[name]).contiguous()
    files.write_tensors(path, tensors)
    resign(folder)
    with pytest.raises(UnigrecError, match=rf"neighbours\.safetensors: .*{message}"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param({}, id="none"),
        pytest.param({"alike": None}, id="a null"),
        pytest.param({"alike": "many"}, id="a text"),
        pytest.param({"alike": [1.0]}, id="a list for a number"),
        pytest.param({"alike": NAN}, id="no number"),
        pytest.param({"follows": INFINITE}, id="infinite"),
        pytest.param({"follows": -INFINITE}, id="minus infinity"),
        pytest.param({"follows": 1e300}, id="beyond single precision"),
        pytest.param({"follows": 10**400}, id="a number beyond all"),
        pytest.param({"generative": [1.0, 1.0, 0.5]}, id="thirds with different weights"),
        pytest.param({"generative": []}, id="no third"),
        pytest.param({"generative": [1.0, 1.0]}, id="two thirds"),
        pytest.param({"generative": [1.0] * 4}, id="four thirds"),
        pytest.param({"generative": [1.0, 1.0, NAN]}, id="no number for a third"),
        pytest.param({"generative": [1.0, 1.0, 10**400]}, id="a number beyond all for a third"),
        pytest.param({"generative": None}, id="a null for the generative part"),
    ],
)
def test_weights_that_are_none(folder, weights):
    whole = WEIGHTS._asdict()
    given = {**whole, **weights} if weights else {}
    (folder / "fusion.json").write_text(json.dumps({"by": "fused", "weights": given}))
    resign(folder)
    with pytest.raises(UnigrecError, match=r"fusion\.json: (no weights|weights that are not finite)"):
        Bundle.load(folder)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much", None, [2.0]])
def test_a_weight_of_a_query_that_is_none(folder, weight):
    fusion = json.loads((folder / "fusion.json").read_text())
    (folder / "fusion.json").write_text(json.dumps(fusion | {"search_weight": weight}))
    resign(folder)
    with pytest.raises(UnigrecError, match=r"fusion\.json: (no weights|weights that are not finite)"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b'"text"', b"3", b"{}", b"[" * 100_000, b"", b'{"weights": null, "by": "fused"}'],
    ids=lambda content: content.decode()[:10],
)
def test_json_that_is_no_fusion(folder, content):
    (folder / "fusion.json").write_bytes(content)
    resign(folder)
    with pytest.raises(UnigrecError, match=r"fusion\.json"):
        Bundle.load(folder)


@pytest.mark.parametrize("by", ["best", "", None, 3, ["fused"]])
def test_a_way_to_rank_that_there_is_none(folder, by):
    (folder / "fusion.json").write_text(json.dumps({"by": by, "weights": WEIGHTS._asdict()}))
    resign(folder)
    with pytest.raises(UnigrecError, match=r"fusion\.json"):
        Bundle.load(folder)


def test_what_the_stage_notes_next_to_the_weights_is_passed_over(pristine, tmp_path):
    fusion = json.loads((pristine / "fusion.json").read_text()) | {"users": 3, "validation_ndcg_at_10": {"dense": 0.5}}
    files.write_json(tmp_path / "fusion.json", fusion)
    assert read_fusion(tmp_path / "fusion.json") == read_fusion(pristine / "fusion.json")
    assert read_fusion(tmp_path / "fusion.json").weights == WEIGHTS


def test_a_bundle_whose_generative_weight_is_written_once_per_third_ranks_as_one_with_the_weight_alone(folder):
    once = scores_of(Bundle.load(folder), RankBy.FUSED)
    weights = WEIGHTS._asdict() | {"generative": [WEIGHTS.generative] * 3}  # as earlier versions wrote it
    files.write_json(folder / "fusion.json", {"by": "fused", "weights": weights})
    resign(folder)
    assert read_fusion(folder / "fusion.json").weights == WEIGHTS
    assert scores_of(Bundle.load(folder)) == once


def write_dense(folder: Path, weights: dict[str, torch.Tensor], shape: dict[str, Any]) -> None:
    files.write_tensors(folder / "dense.safetensors", {name: value.contiguous() for name, value in weights.items()})
    (folder / "dense.json").write_text(json.dumps(shape))
    resign(folder)


def test_a_dense_part_of_another_catalogue_is_refused(folder):
    shape = DENSE_SHAPE | {"items": ITEMS + 1}
    write_dense(folder, SASRec(**shape).state_dict(), shape)
    with pytest.raises(UnigrecError, match=r"dense\.safetensors: scores 13 items, but the catalogue has 12"):
        Bundle.load(folder)


@pytest.mark.parametrize("value", [NAN, INFINITE])
@pytest.mark.parametrize("name", ["item_embedding.weight", "blocks.0.filter.rescale"])
def test_dense_weights_that_are_not_finite(folder, name, value):
    weights = SASRec(**DENSE_SHAPE).state_dict()
    weights[name].fill_(value)
    write_dense(folder, weights, DENSE_SHAPE)
    with pytest.raises(UnigrecError, match=rf"dense\.safetensors: weights that are not finite: {name}"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"d_model": "os.system"}, id="a text as size"),
        pytest.param({"d_model": -8}, id="a negative size"),
        pytest.param({"d_model": 10**30}, id="a size beyond all numbers"),
        pytest.param({"items": ITEMS + 1}, id="more items than weights"),
        pytest.param({"history": 4}, id="a longer history than weights"),
        pytest.param({"history": 10**9}, id="a history beyond all"),
        pytest.param({"blocks": 10**7}, id="millions of layers"),
        pytest.param({"heads": 0}, id="no heads"),
        pytest.param({"heads": 3}, id="heads that do not divide the width"),
        pytest.param({"heads": "two"}, id="a text as heads"),
        pytest.param({"filter_share": "half"}, id="a text as share"),
        pytest.param({"filter_share": NAN}, id="a share that is no number"),
        pytest.param({"filter_share": 0.0}, id="a filter that has no place"),
        pytest.param({"repeat_bias": False}, id="a bias that has no place"),
        pytest.param({"surprise": 1}, id="an unknown key"),
        pytest.param({"items": None}, id="nothing"),
    ],
)
def test_a_dense_part_whose_shape_is_none(folder, changes):
    write_dense(folder, SASRec(**DENSE_SHAPE).state_dict(), DENSE_SHAPE | changes)
    with pytest.raises(UnigrecError, match=r"dense\.(json|safetensors)"):
        Bundle.load(folder)


def test_a_dense_part_that_reads_no_history_is_refused(folder):
    shape = DENSE_SHAPE | {"history": 0, "filter_share": 0.0}
    write_dense(folder, SASRec(**shape).state_dict(), shape)
    with pytest.raises(UnigrecError, match=r"dense\.(json|safetensors)"):
        Bundle.load(folder)


def test_a_dense_part_whose_scores_are_no_numbers_is_refused(folder):
    weights = SASRec(**DENSE_SHAPE).state_dict()
    weights["blocks.0.feed_forward_norm.weight"].fill_(3e38)
    weights["item_embedding.weight"].fill_(3e38)
    write_dense(folder, weights, DENSE_SHAPE)
    with pytest.raises(UnigrecError, match=r"dense\.safetensors: scores that are not finite"):
        Bundle.load(folder)


def test_neighbours_come_back_as_they_were_written(pristine, tmp_path):
    found = read_neighbours(pristine / "neighbours.safetensors", ITEMS)
    write_neighbours(tmp_path / "again.safetensors", found)
    assert (tmp_path / "again.safetensors").read_bytes() == (pristine / "neighbours.safetensors").read_bytes()
    assert len(found.successors.items) <= ITEMS * HISTORY * 40
    assert len(found.together.items)


def test_neighbours_of_an_earlier_version_have_nothing_that_is_bought_together(pristine, tmp_path):
    path = tmp_path / "earlier.safetensors"
    tensors = files.read_tensors(pristine / "neighbours.safetensors")
    files.write_tensors(path, {name: value for name, value in tensors.items() if not name.startswith("together_")})
    found, whole = (read_neighbours(one, ITEMS) for one in (path, pristine / "neighbours.safetensors"))
    history = torch.tensor([[3, 5]]), torch.tensor([2])
    assert not found.near(*history).together.any()
    assert torch.equal(found.near(*history).follows, whole.near(*history).follows)


def test_a_catalogue_that_nobody_visited_in_a_row_has_no_successors_and_loads(folder):
    path = folder / "neighbours.safetensors"
    neighbours = files.read_tensors(path)
    empty = {"starts": torch.zeros(ITEMS + 1, dtype=torch.int64), "items": neighbours["items"][:0].clone()}
    files.write_tensors(path, {**neighbours, **empty, "weights": neighbours["weights"][:0].clone()})
    resign(folder)
    assert len(scores_of(Bundle.load(folder), RankBy.FUSED)) == ITEMS
