"""A bundle of a large catalogue holds what a load would compute: it answers as if the load had computed it."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from support.bundles import bundles_are_large, resign
from support.project import PARAMS_FILE
from support.search_bundle import bundle_of
from support.tiny_model import DENSE_SHAPE, ITEMS, SERVING, item_ids, tiny_dense, write_artifacts
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import MODEL_CONFIG_FILE, MODEL_FILE, Artifacts
from unigrec.core.models.ensemble import TeacherEnsemble
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.assemble import assemble
from unigrec.serving.bundle import Bundle
from unigrec.serving.computed import read_computed
from unigrec.serving.manifest import COMPUTED, IDENTIFIERS

HISTORIES = [["P3", "a,b", "P5", "квас", "P7"], ["P5"], ["gone"], []]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A bundle with what was computed; in place of that of the other modules."""
    with contextlib.chdir(tmp_path_factory.mktemp("large")), bundles_are_large():
        write_artifacts(0, True, None, 0)
        return assemble(PARAMS_FILE, SERVING).absolute()


@pytest.fixture
def loads():
    with bundles_are_large():
        yield Bundle.load


def rewritten(folder: Path, change, metadata: dict[str, str] | None = None) -> None:
    path = folder / COMPUTED
    held = files.read_metadata(path)
    files.write_tensors(path, change(files.read_tensors(path)), held | (metadata or {}))
    resign(folder)


def is_used(folder: Path) -> bool:
    codes = files.read_arrays(folder / IDENTIFIERS)["codes"].astype(np.int64)
    return read_computed(folder, json.loads((folder / "manifest.json").read_text()), codes, ITEMS) is not None


def test_answers_are_those_of_a_bundle_that_computes(folder, pristine, loads):
    (folder / COMPUTED).unlink()
    resign(folder)
    with_file, without = loads(pristine), loads(folder)
    assert is_used(pristine)
    assert with_file.item_ids[:] == without.item_ids[:] == item_ids()
    for by in RankBy:
        for options in ({}, {"filter": "item_index < 7", "exclude_history": True}, {"allow": ["P4", "gone"]}):
            expected = without.recommend(HISTORIES, k=4, rank_by=by, **options)
            assert with_file.recommend(HISTORIES, k=4, rank_by=by, **options) == expected
    assert with_file.similar("P3") == without.similar("P3")
    assert with_file.item("P5") == without.item("P5")
    assert with_file.recommend(HISTORIES, reasons=True) == without.recommend(HISTORIES, reasons=True)


def test_the_means_of_many_networks_are_in_their_order(tmp_path, loads):
    networks = 12
    with contextlib.chdir(tmp_path):
        write_artifacts(0, True, None, 0)
        teacher, shape = Artifacts().teacher, DENSE_SHAPE | {"members": networks}
        members = TeacherEnsemble([tiny_dense(seed) for seed in range(networks)])
        files.write_tensors(teacher / MODEL_FILE, members.state_dict())
        files.write_json(teacher / MODEL_CONFIG_FILE, shape)
        bundle = loads(assemble(PARAMS_FILE, SERVING))
        retriever = bundle.retrievers[RankBy.DENSE]
        expected = Cells(retriever.tree, [network.item_vectors() for network in retriever.model.networks]).means
        assert all(map(torch.equal, retriever.cells.means, expected))


def test_searches_are_those_of_a_bundle_that_computes(tmp_path):
    with bundles_are_large():
        bundle = bundle_of(tmp_path)
        other = shutil.copytree(bundle.folder, tmp_path / "other")
        (other / COMPUTED).unlink()
        resign(other)
        without = Bundle.load(other)
    for query in ("garden hose", "café laser", "ink, turquoise"):
        for options in ({}, {"history": ["P3"], "deny": ["P10"]}, {"filter": "item_index > 4", "k": 9}):
            assert bundle.search(query, **options) == without.search(query, **options)


def test_a_small_bundle_holds_nothing_of_it(tmp_path, pristine):
    with contextlib.chdir(tmp_path):
        write_artifacts(0, True, None, 0)
        small = assemble(PARAMS_FILE, SERVING)
        assert not (small / COMPUTED).exists()
    assert small.name != pristine.name


@pytest.mark.parametrize("changed", [{"version": "0"}, {"of": "[]"}])
def test_a_file_of_another_version_or_other_files_is_computed_again(folder, loads, changed):
    expected = loads(folder).recommend(HISTORIES)
    rewritten(folder, lambda tensors: {"nothing": torch.zeros(1)}, changed)
    assert not is_used(folder)
    assert loads(folder).recommend(HISTORIES) == expected


def test_a_file_of_other_identifiers_is_computed_again(folder, loads):
    codes = files.read_arrays(folder / IDENTIFIERS)["codes"]
    files.write_tensors(folder / IDENTIFIERS, {"codes": codes[np.arange(ITEMS)[::-1]]})
    resign(folder)
    assert not is_used(folder)
    loads(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tree_order", lambda part: part + 1, "the stored prefix tree is none of 12 items"),
        ("dense_means_0", lambda part: part[1:], "means of cells of the shapes"),
        ("dense_means_0", lambda part: part * torch.nan, "missing or not finite"),
        ("content_means", lambda part: part[:, 1:], "means of cells of the shapes"),
        ("content_means", lambda part: part.half(), "missing or not finite"),
        ("ids_places", lambda part: part + 1, "ids: places"),
        ("titles_starts", lambda part: part[:-1], "titles: texts that do not lie"),
        ("train_count", lambda part: part[1:], "train_count: expected 12 integers"),
        ("train_count", lambda part: -part - 1, "train_count: expected 12 integers"),
        ("most_popular", lambda part: part.int(), "most_popular: expected 12 integers"),
        ("most_popular", lambda part: part + 1, "places outside of the catalogue"),
        ("words_places", lambda part: part - 1, "words: places"),
        ("word_starts", lambda part: part + 1, "words that are not those of 12 items"),
        ("word_items", lambda part: part + 100, "words that are not those of 12 items"),
        ("word_values", lambda part: part[1:], "words that are not those of 12 items"),
        ("word_values", lambda part: part / 0.0, "words that are not those of 12 items"),
        ("title_word_counts", lambda part: part.int(), "title_word_counts: expected torch.int64"),
        ("kinds_starts", lambda part: part[:2], "kinds: texts"),
    ],
)
def test_a_damaged_file_is_an_error(folder, loads, name, change, message):
    rewritten(folder, lambda tensors: tensors | {name: change(tensors[name])})
    with pytest.raises(UnigrecError, match=rf"computed\.safetensors: .*{message}"):
        loads(folder)


@pytest.mark.parametrize(
    "name", ["tree_rank", "dense_means_0", "content_means", "ids_hashes", "most_popular", "word_items", "kinds_letters"]
)
def test_a_part_that_is_missing_is_an_error(folder, loads, name):
    rewritten(folder, lambda tensors: {other: part for other, part in tensors.items() if other != name})
    with pytest.raises(UnigrecError, match=r"computed\.safetensors: "):
        loads(folder)


def test_a_changed_file_is_an_error(folder, loads):
    path = folder / COMPUTED
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnigrecError, match="changed since the bundle was made"):
        loads(folder)


def test_colliding_identifiers_are_an_error_when_a_large_bundle_is_written(tmp_path, loads):
    with contextlib.chdir(tmp_path):
        write_artifacts(0, True, None, 0)
        codes = files.read_arrays(Artifacts().harden / IDENTIFIERS)["codes"]
        files.write_tensors(Artifacts().harden / IDENTIFIERS, {"codes": np.repeat(codes[:1], ITEMS, axis=0)})
        with pytest.raises(UnigrecError, match="share a semantic ID"):
            assemble(PARAMS_FILE, SERVING)
        assert not [path for path in Path("state/bundles").iterdir() if path.is_dir()]
