"""Substitutes and complements of a bundle, and the file of its baskets."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from support.project import PARAMS_FILE
from support.tiny_model import ITEMS, SERVING, item_ids, tiny_codes, write_artifacts
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.core.retrieval.baskets import Baskets
from unigrec.serving.assemble import assemble
from unigrec.serving.basket_file import ARRAYS, read_baskets, write_baskets
from unigrec.serving.bundle import Bundle
from unigrec.serving.parts import read_parts

CODES = tiny_codes(0).codes
FIRST = 3
OTHERS = [item for item in range(ITEMS) if CODES[item, 0] != CODES[FIRST, 0]]  # of another kind than the first
ALIKE = next(item for item in range(ITEMS) if item != FIRST and CODES[item, 0] == CODES[FIRST, 0])


def planted() -> Baskets:
    """The first item was in 9 baskets with each of two items of other kinds and with one like it, nothing else was."""
    with_it = np.array([OTHERS[0], OTHERS[1], ALIKE])
    starts = np.zeros(ITEMS + 1, np.int64)
    starts[FIRST + 1 :] = 3
    item_counts = np.full(ITEMS, 12)
    item_counts[OTHERS[1]] = 9  # so its lift is the larger one
    return Baskets(starts, with_it, np.array([9, 9, 9]), item_counts, total=1000, by_day=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    with contextlib.chdir(tmp_path_factory.mktemp("related")):
        write_artifacts(0, True, None, 0)
        write_baskets(Artifacts().rank / paths.BASKETS_FILE, planted())
        folder = assemble(PARAMS_FILE, SERVING).absolute()
    return Bundle.load(folder)


def test_a_complement_is_of_another_kind_and_says_how_often_it_was_bought_with_the_item(bundle):
    names = item_ids()
    answer = bundle.complement([names[FIRST], "gone"], k=5)
    assert [item.item_id for item in answer.items] == [names[OTHERS[1]], names[OTHERS[0]]]
    assert [item.together for item in answer.items] == [{names[FIRST]: 9}] * 2
    assert (answer.unknown, answer.by_day, answer.stand_ins) == (1, True, ())
    assert bundle.complement([names[FIRST]], k=1).items == answer.items[:1]
    denied = bundle.complement([names[FIRST]], k=5, deny={names[OTHERS[1]]})
    assert [item.item_id for item in denied.items] == [names[OTHERS[0]]]


def test_an_item_twice_in_a_basket_counts_once(bundle):
    names = item_ids()
    assert bundle.complement([names[FIRST]] * 2).items == bundle.complement([names[FIRST]]).items


def test_an_item_that_was_bought_alone_has_stand_ins(bundle):
    alone = item_ids()[OTHERS[0]]
    assert bundle.complement([alone]).stand_ins == (alone,)


def test_similar_items_are_of_the_same_kind_first(bundle):
    names = item_ids()
    answer = bundle.similar(names[FIRST], k=ITEMS)
    shared = [int(np.cumprod(CODES[names.index(item.item_id)] == CODES[FIRST]).sum()) for item in answer.items]
    assert [item.shared_codes for item in answer.items] == shared == sorted(shared, reverse=True)
    assert len(answer.items) == ITEMS - 1
    only = bundle.similar(names[FIRST], k=ITEMS, allow={names[0], names[FIRST]})
    assert [item.item_id for item in only.items] == [names[0]]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda bundle: bundle.similar("gone"), "no item 'gone'"),
        (lambda bundle: bundle.similar("P3", k=ITEMS + 1), "k = 13"),
        (lambda bundle: bundle.similar("P3", deny=set(item_ids())), "leave no item"),
        (lambda bundle: bundle.complement(["gone"]), "no item of the basket"),
        (lambda bundle: bundle.complement([]), "no item of the basket"),
        (lambda bundle: bundle.complement(["P3"], k=0), "k = 0"),
    ],
)
def test_what_cannot_be_answered_is_an_error(bundle, ask, message):
    with pytest.raises(UnigrecError, match=message):
        ask(bundle)


def test_a_bundle_of_an_earlier_version_has_substitutes_and_no_complements(bundle):
    parts = read_parts(bundle.folder, bundle.manifest)._replace(ranking=None, baskets=None)
    earlier = Bundle(bundle.folder, bundle.manifest, parts)
    assert len(earlier.similar("P3", k=3).items) == 3
    with pytest.raises(UnigrecError, match="earlier version, holds no baskets"):
        earlier.complement(["P3"])


def test_baskets_come_back_as_they_were_written(tmp_path):
    write_baskets(tmp_path / "baskets", planted())
    found = read_baskets(tmp_path / "baskets", ITEMS)
    for one, other in zip(planted(), found, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": np.zeros(ITEMS, np.int64)}, "not those of 12 items"),
        ({"starts": np.arange(ITEMS + 1)[::-1].copy()}, "not those of 12 items"),
        ({"items": np.array([1, 2, ITEMS], np.int32)}, "outside of the catalogue"),
        ({"counts": np.array([1, 2, 0], np.int32)}, "outside of the catalogue"),
        ({"counts": np.array([1, 2, 99], np.int32)}, "more baskets than one of its items"),
        ({"counts": np.array([1.0, 2.0, 3.0])}, "whole numbers"),
        ({"scale": np.array([0, 1])}, "without a basket"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, changes, message):
    write_baskets(tmp_path / "baskets", planted())
    arrays = {name: files.read_arrays(tmp_path / "baskets")[name].copy() for name in ARRAYS}
    files.write_tensors(tmp_path / "baskets", arrays | changes)
    with pytest.raises(UnigrecError, match=message):
        read_baskets(tmp_path / "baskets", ITEMS)


def test_numbers_of_a_type_that_arrays_lack_are_refused(tmp_path: Path):
    write_baskets(tmp_path / "baskets", planted())
    tensors = files.read_tensors(tmp_path / "baskets")
    files.write_tensors(tmp_path / "baskets", tensors | {"scale": tensors["scale"].bfloat16()})
    with pytest.raises(UnigrecError, match="whole numbers"):
        read_baskets(tmp_path / "baskets", ITEMS)
