"""What the explorer finds in a bundle: titles, branches of the tree of identifiers, test users."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from support.tiny_model import HISTORY, ITEMS, USERS, make_bundle
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.service.explorer import answers
from unigrec.service.explorer.schema import MOST_FOUND
from unigrec.serving.bundle import Bundle
from unigrec.serving.popularity import Popularity
from unigrec.serving.texts import Texts


class Titled:
    """A bundle as far as titles are searched. The later an item, the more popular."""

    def __init__(self, titles: list[str]):
        self.item_ids = [f"P{index}" for index in range(len(titles))]
        self.index_of = {item: index for index, item in enumerate(self.item_ids)}
        self.titles, self.identifiers = Texts(pa.array(titles)), np.zeros((len(titles), 2), dtype=np.int64)
        self.trained = len(titles)
        self.popularity = Popularity(torch.arange(len(titles)))


def found(query: str, *titles: str, k: int = 10) -> list[int]:
    answer = answers.titles(Titled(list(titles)), query, k)
    return [int(item.item_id[1:]) for item in answer.items]


def test_titles_that_begin_with_the_query_come_first_then_whole_words_then_popular_ones():
    titles = ["red lamp shade", "a clamp", "Lamp, red", "big lamp", "lampion", "chair"]
    assert found("lamp", *titles) == [4, 2, 3, 0, 1]
    assert found("LAMP re", *titles) == [2, 0]
    assert found("lamp", *titles, k=2) == [4, 2]


def test_an_id_is_found_before_titles():
    assert found("P1", "holds P1", "plain", "P1 again") == [1, 2, 0]


@pytest.mark.parametrize("query", [".", "(", "[a-z", "\\", "*", "a|b", "\x00", "$^"])
def test_signs_in_a_query_are_signs(query):
    assert found(query, "abc", f"with {query} inside") == [1]


def test_letters_of_any_script_and_case_are_found():
    assert found("КВАС", "мой квас", "kvass") == [0]


@pytest.mark.parametrize("query", ["", "  ", "\t"])
def test_no_word_finds_nothing(query):
    assert answers.titles(Titled(["a"]), query, 5).found == 0


def test_branches_count_the_items_of_each_next_code(tiny_bundle):
    root = answers.branches(tiny_bundle, "")
    codes = tiny_bundle.identifiers
    assert (root.items, root.length, root.prefix) == (ITEMS, codes.shape[1], ())
    assert {branch.code: branch.items for branch in root.branches} == {
        code: int((codes[:, 0] == code).sum()) for code in set(codes[:, 0].tolist())
    }
    sizes = [branch.items for branch in root.branches]
    assert sizes == sorted(sizes, reverse=True)
    largest = root.branches[0]
    below = answers.branches(tiny_bundle, str(largest.code))
    assert below.items == largest.items == sum(branch.items for branch in below.branches)
    assert all(item.identifier[0] == largest.code for item in below.members)
    assert below.members[0] == largest.example  # the most popular one


def test_a_whole_identifier_is_a_leaf_and_more_codes_are_none(tiny_bundle):
    codes = "-".join(map(str, tiny_bundle.identifiers[3].tolist()))
    leaf = answers.branches(tiny_bundle, codes)
    assert (leaf.items, leaf.branches, leaf.members[0].item_id) == (1, (), "P3")
    for prefix in (f"{codes}-0", "999"):
        with pytest.raises(UnigrecError, match=f"no identifier begins with {prefix}"):
            answers.branches(tiny_bundle, prefix)


def test_items_are_named_in_the_order_asked_for(tiny_bundle):
    answer = answers.items(tiny_bundle, ("P5", "gone", "a,b"))
    assert [item.item_id for item in answer.items] == ["P5", "a,b"]
    assert answer.absent == ("gone",)
    assert answer.items[0].identifier == tuple(tiny_bundle.identifiers[5].tolist())


def test_members_are_bounded():
    bundle = Titled([f"title {index}" for index in range(MOST_FOUND + 5)])
    answer = answers.branches(bundle, "0")
    assert (answer.items, len(answer.members)) == (MOST_FOUND + 5, MOST_FOUND)


@pytest.fixture
def in_project(tmp_path, monkeypatch) -> Bundle:
    """A bundle, in the folder of the project that made it."""
    monkeypatch.chdir(tmp_path)
    return Bundle.load(make_bundle())


def test_test_users_come_from_artifacts_of_the_same_data(in_project):
    user = answers.user(in_project, 3)
    from unigrec.base import files

    arrays = files.read_arrays(Artifacts().sequences)
    own = arrays["items"][arrays["offsets"][3] : arrays["offsets"][4]].tolist()
    assert [in_project.index_of[item.item_id] for item in (*user.history, user.held_out)] == own
    assert (user.number, user.of, user.source, user.earlier, len(user.history)) == (3, USERS, "artifacts", 0, HISTORY)
    assert answers.user(in_project, 0).rank == 1
    assert user.rank is None  # the run did not find it
    assert 0 <= answers.user(in_project, None).number < USERS
    with pytest.raises(UnigrecError, match=f"no test user {USERS}; expected 0 to {USERS - 1}"):
        answers.user(in_project, USERS)


def test_artifacts_of_other_data_are_not_read(in_project, monkeypatch):
    in_project.manifest["data"]["test_set"] = "0" * 64
    with pytest.raises(UnigrecError, match="no test users: the bundle's report has no examples"):
        answers.user(in_project, 0)


def test_without_artifacts_test_users_are_the_examples_of_the_report(in_project, monkeypatch, tmp_path):
    facts = in_project.folder / "report/report/facts.json"
    text = facts.read_text(encoding="utf-8").replace('"P1"', '"P3"').replace('"P2"', '"P4"')
    facts.write_text(text, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    user = answers.user(in_project, 0)
    assert ([item.item_id for item in user.history], user.held_out.item_id) == (["P3"], "P4")
    assert (user.source, user.of, user.earlier, user.rank) == ("report", 1, 2, 1)
