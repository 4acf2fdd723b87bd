"""Items added to a bundle and removed from it: what stays the same, what is recommended, what is refused."""

from __future__ import annotations

import contextlib
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from support.bundles import resign
from support.project import PARAMS_FILE
from support.tiny_model import ITEMS, SERVING, item_ids, write_artifacts
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.config.read import load_params
from unigrec.core.retrieval import selection
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.embedding.encoder import fit_encoder, save_encoder
from unigrec.pipeline.outputs import load_sequences
from unigrec.serving import assemble, extend, manifest
from unigrec.serving.bundle import Bundle
from unigrec.serving.extension import read_extension, write_extension
from unigrec.serving.ranking_parts import write_neighbours
from unigrec.serving.schema import Diversity, NewShare

KINDS = ("ink cartridge black", "paper white thick", "pen blue gel", "desk lamp bright")
NEW = pa.table({"item_id": ["N1", "N2"], "title": ["black ink", "bright lamp"]})
HISTORIES = [["P3", "P4"], ["P5"], ["P6", "квас", "P3"]]
DAY = 1_700_000_000


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("extend")


@pytest.fixture(autouse=True)
def inside(project, monkeypatch):
    monkeypatch.chdir(project)


@pytest.fixture(scope="module")
def parent(project) -> Path:
    """A tiny bundle whose texts say something: four kinds, with four dimensions, and two from the teacher."""
    with contextlib.chdir(project):
        write_artifacts(0, True, None, 0)
        catalogue = files.read_table(Artifacts().catalogue)
        titles = [f"{KINDS[index % 4]} n{index}" for index in range(ITEMS)]
        catalogue = catalogue.set_column(catalogue.column_names.index("title"), "title", pa.array(titles))
        files.write_table(Artifacts().catalogue, catalogue)
        files.write_table(Artifacts().served_columns, catalogue.select(["item_id"]))  # a log without days
        params = load_params(PARAMS_FILE).embed.model_copy(update={"dimensions": 4, "text_columns": ("title",)})
        encoder, embedding = fit_encoder(catalogue, params, seed=1)
        save_encoder(encoder, Artifacts().text_encoder)
        part = torch.randn(ITEMS, 2, generator=torch.Generator().manual_seed(2))
        files.write_tensors(Artifacts().tokenizer / paths.COLLABORATIVE_FILE, {"part": part})
        neighbours = count_neighbours(load_sequences(Artifacts()), torch.as_tensor(embedding))
        write_neighbours(Artifacts().rank / paths.NEIGHBOURS_FILE, neighbours)
        return assemble.assemble(PARAMS_FILE, SERVING).absolute()


@pytest.fixture(scope="module")
def child(project, parent) -> Path:
    with contextlib.chdir(project):
        return extend.add_items(parent, NEW, DAY).absolute()


def share(at_least: int) -> NewShare:
    return NewShare(at_least=at_least, days=30)


def hashes(folder: Path) -> dict[str, str]:
    return files.read_json(folder / manifest.MANIFEST)["files"]


def test_old_items_keep_their_identifiers_and_every_part_of_the_model_its_bits(parent, child):
    before, after = hashes(parent), hashes(child)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == manifest.OF_CATALOGUE - {manifest.COMPUTED}  # which a small bundle lacks
    codes = [files.read_arrays(folder / manifest.IDENTIFIERS)["codes"] for folder in (parent, child)]
    assert np.array_equal(codes[0], codes[1][:ITEMS])
    assert len(np.unique(codes[1], axis=0)) == ITEMS + 2
    assert files.read_json(child / manifest.MANIFEST)["parent"] == parent.name


def test_what_was_answered_before_is_answered_again_to_the_last_bit(parent, child):
    old, new = Bundle.load(parent), Bundle.load(child)
    for by in RankBy:
        assert new.recommend(HISTORIES, k=ITEMS, rank_by=by) == old.recommend(HISTORIES, k=ITEMS, rank_by=by)
    assert new.recommend([["nobody"]], k=3) == old.recommend([["nobody"]], k=3)


def test_new_places_are_the_last_ones_and_the_nearest_text_comes_first(child):
    bundle = Bundle.load(child)
    inks, lamps = ["a,b", "P4", "P8"], ["P3", "P7"]
    plain = bundle.recommend([inks, lamps], k=4)
    filled = bundle.recommend([inks, lamps], k=4, new_share=share(1))
    assert [answer.items[:3] for answer in filled] == [answer.items[:3] for answer in plain]
    assert [answer.items[3].item_id for answer in filled] == ["N1", "N2"]
    (both,) = bundle.recommend([inks], k=4, new_share=share(3))  # there are two
    assert [item.item_id for item in both.items[2:]] == ["N1", "N2"]
    assert [item.item_id for item in both.items[:2]] == [item.item_id for item in plain[0].items[:2]]


def test_lists_and_filters_hold_for_new_places_too(child):
    bundle = Bundle.load(child)

    def last(**asked: object) -> str:
        (answer,) = bundle.recommend([["a,b", "P4"]], k=3, new_share=share(1), **asked)
        return answer.items[-1].item_id

    assert last(deny={"N1"}) == "N2"
    assert last(filter='not title has "ink"') == "N2"
    assert last(deny={"N1", "N2"}) in item_ids()
    (only,) = bundle.recommend([["P3"]], k=3, allow={"N2"})
    assert [item.item_id for item in only.items] == ["N2"]


@pytest.mark.parametrize("by", RankBy)
def test_under_a_rule_added_items_stand_below_all_trained_ones_too(child, by, monkeypatch):
    """The first search finds too few items of different kinds: further trained ones come before added ones."""
    monkeypatch.setattr(selection, "CANDIDATES", 1)
    bundle, most = Bundle.load(child), Diversity(per="first code", at_most=1)
    codes = dict(zip(bundle.item_ids, bundle.identifiers[:, 0].tolist(), strict=True))
    for last in item_ids():
        (every,) = bundle.recommend([[last]], k=ITEMS + 2, rank_by=by)
        ranking = [item.item_id for item in every.items]
        assert {*ranking[ITEMS:]} == {"N1", "N2"}
        best_of_kind = {codes[item]: item for item in reversed(ranking)}.values()
        for k in range(1, len(best_of_kind) + 1):
            (found,) = bundle.recommend([[last]], k=k, rank_by=by, diversity=most)
            assert [item.item_id for item in found.items] == sorted(best_of_kind, key=ranking.index)[:k]


def test_under_a_rule_added_items_fill_the_places_that_trained_ones_leave(child):
    bundle = Bundle.load(child)
    trained = item_ids()[:3]
    rules = {"allow": [*trained, "N1", "N2"], "diversity": Diversity(per="item_id", at_most=1)}
    (answer,) = bundle.recommend([["P4"]], k=5, **rules)
    found = [item.item_id for item in answer.items]
    assert (set(found[:3]), set(found[3:])) == ({*trained}, {"N1", "N2"})


def test_a_search_with_weight_zero_finds_as_many_items_as_recommend(child):
    bundle = Bundle.load(child)
    for k in (1, 5, ITEMS + 2):
        found = bundle.search("pen", history=HISTORIES[0], k=k, search_weight=0.0)
        (recommended,) = bundle.recommend(HISTORIES[:1], k=k)
        assert [(i.item_id, i.score) for i in found.items] == [(i.item_id, i.score) for i in recommended.items]
        assert len(found.items) == k


def test_a_history_may_hold_a_new_item_and_does_not_get_it_again_if_it_is_left_out(child):
    bundle = Bundle.load(child)
    (answer,) = bundle.recommend([["N1"]], k=4, new_share=share(2), exclude_history=True)
    assert (answer.unknown, answer.by_popularity) == (0, False)
    assert [item.item_id for item in answer.items].count("N2") == 1
    assert "N1" not in {item.item_id for item in answer.items}
    (again,) = bundle.recommend([["N1"]], k=4, new_share=share(2))
    assert {item.item_id for item in again.items[2:]} == {"N1", "N2"}
    assert len(bundle.recommend([["N1"]], k=ITEMS + 2)[0].items) == ITEMS + 2
    nearest = max(bundle.similar("N1", k=ITEMS).items, key=lambda item: item.score)
    assert nearest.item_id in {"a,b", "P4", "P8"}  # the inks
    assert bundle.complement(["N1"], k=2).stand_ins == ("N1",)


def test_the_audience_of_an_added_item_may_hold_it(child):
    bundle, histories = Bundle.load(child), [["N1", "P4"], ["P4"], ["N2"]]
    answer = bundle.audience("N1", histories, k=3)
    assert sorted(user.row for user in answer.users) == [0, 1, 2]
    scores = {user.row: user.score for user in answer.users}
    assert scores[0] == pytest.approx(scores[1])  # a new item is not read
    assert all(math.isfinite(score) for score in scores.values())


def test_added_items_are_found_by_their_words(child):
    bundle = Bundle.load(child)
    assert [bundle.search(words, k=1).items[0].item_id for words in ("bright lamp", "black ink")] == ["N2", "N1"]
    alone = Bundle.load(extend.remove_items(child, {"N1"}))
    assert alone.search("bright lamp", k=1).items[0].item_id == "N2"


def test_removing_what_was_added_gives_the_parent_back(parent, child):
    assert extend.remove_items(child, {"N1", "N2"}).name == parent.name
    one = Bundle.load(extend.remove_items(child, {"N1"}))
    assert one.item_ids[ITEMS:] == ["N2"]
    assert one.recommend(HISTORIES, k=3, new_share=share(1))[0].items[-1].item_id == "N2"


def test_items_can_be_added_again_and_again(child):
    twice = Bundle.load(extend.add_items(child, pa.table({"item_id": ["N3"], "title": ["pen gel"]}), DAY + 9))
    assert twice.item_ids[ITEMS:] == ["N1", "N2", "N3"]
    assert np.array_equal(twice.identifiers[:-1], Bundle.load(child).identifiers)
    assert [item.item_id for item in twice.recommend([["P6"]], k=1, new_share=share(1))[0].items] == ["N3"]


def test_a_trained_item_that_is_removed_is_not_recommended_and_can_come_back(parent):
    gone = extend.remove_items(parent, {"P5"})
    bundle = Bundle.load(gone)
    found = bundle.recommend([["P3"], []], k=ITEMS)
    assert all("P5" not in {item.item_id for item in answer.items} for answer in found)
    assert len(found[0].items) == ITEMS - 1
    assert "P5" not in {item.item_id for item in bundle.similar("P3", k=ITEMS).items}
    assert extend.add_items(gone, pa.table({"item_id": ["P5"], "title": ["anything"]}), DAY).name == parent.name


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item_id": ["N9", "N9"], "title": ["ink", "pen"]}, "come twice (1): N9"),
        ({"item_id": ["P3"], "title": ["ink"]}, "in the catalogue already; published identifiers never move (1): P3"),
        ({"item_id": ["N8", "N9"], "title": ["ink", None]}, "without a word that the bundle's encoder knows"),
        ({"item_id": ["N9"], "title": ["zebra"]}, "an item is placed by its text (1): N9"),
        ({"item_id": ["N9"], "name": ["ink"]}, "none of the text columns ['title']"),
        ({"item_id": [None], "title": ["ink"]}, "1 of 1 rows have no item_id"),
        ({"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string())}, "no item to add"),
        ({"item_id": [f"N{n}" for n in range(40)], "title": ["ink"] * 40}, "new items, but only"),
    ],
)
def test_bad_items_are_refused_and_nothing_is_left(parent, project, table, message):
    before = sorted((project / paths.BUNDLES).iterdir())
    with pytest.raises(UnigrecError) as error:
        extend.add_items(parent, pa.table(table), DAY)
    assert message in str(error.value)
    assert sorted((project / paths.BUNDLES).iterdir()) == before


@pytest.mark.parametrize(
    ("type", "message"),
    [
        (
            pa.list_(pa.string()),
            r"column 'tag': expected list<.*>, as in the catalogue; CSV has no lists: give JSON lines",
        ),
        (pa.float64(), "column 'tag': expected double, as in the catalogue: "),
    ],
)
def test_a_served_column_of_another_type_is_named_with_what_to_do(type, message):
    served = pa.table({"item_id": ["a"], "tag": pa.nulls(1, type)})
    catalogue = extend.ItemParts(None, None, None, served, None)
    given = pa.table({"item_id": ["b"], "tag": ["red"]})
    with pytest.raises(UnigrecError, match=message):
        extend._with_columns(catalogue, given["item_id"], given, DAY)


def test_items_that_cannot_be_removed(parent):
    with pytest.raises(UnigrecError, match=r"not in the catalogue \(1\): gone"):
        extend.remove_items(parent, {"gone", "P3"})
    with pytest.raises(UnigrecError, match="no item that the model was trained on would be left"):
        extend.remove_items(parent, item_ids())
    with pytest.raises(UnigrecError, match=r"removed already \(1\): P5"):
        extend.remove_items(extend.remove_items(parent, {"P5"}), {"P5"})


def test_a_full_disk_leaves_no_bundle(parent, project, monkeypatch):
    before = sorted((project / paths.BUNDLES).iterdir())

    def full(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(extend, "write_extension", full)
    with pytest.raises(UnigrecError, match="could not be written"):
        extend.add_items(parent, NEW, DAY)
    assert sorted((project / paths.BUNDLES).iterdir()) == before


def test_a_bundle_of_an_earlier_version_says_so(parent, tmp_path):
    old = shutil.copytree(parent, tmp_path / "old")
    (old / manifest.COLLABORATIVE).unlink()
    resign(old)
    with pytest.raises(UnigrecError, match=r"lacks collaborative.safetensors: it is of an earlier version"):
        extend.add_items(old, NEW, DAY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"since": torch.zeros(3, dtype=torch.int64)}, "no extension of a catalogue of 14 items"),
        ({"withdrawn": torch.tensor([12])}, "withdrawn items that are none of the 12 trained ones"),
        ({"withdrawn": torch.tensor([3, 3])}, "withdrawn items that are none of the 12 trained ones"),
        ({"content": torch.full((2, 4), torch.nan)}, "numbers that are not finite"),
        ({"content": torch.ones(2, 3)}, "content of 3 dimensions, but that of the trained items has 4"),
    ],
)
def test_a_damaged_extension_does_not_load(child, tmp_path, change, message):
    folder = shutil.copytree(child, tmp_path / "child")
    file = folder / manifest.EXTENSION
    write_extension(file, read_extension(file, ITEMS + 2)._replace(**change))
    resign(folder)
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(folder)
