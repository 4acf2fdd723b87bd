"""A bundle with large files that was loaded before is not read as a whole again, unless one of them has changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from support.bundles import bundles_are_large, resign
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.serving import bundle, loaded_before, manifest
from unigrec.serving.bundle import Bundle
from unigrec.serving.manifest import open_bundle

HISTORY = [["P3", "P5"]]


@pytest.fixture
def hashed(monkeypatch, tmp_path) -> list[str]:
    """Names of the files that were hashed, and a project in which weights count as large."""
    names: list[str] = []
    monkeypatch.chdir(tmp_path)
    paths.STATE.mkdir()
    monkeypatch.setattr(loaded_before, "LARGE", 2000)
    monkeypatch.setattr(loaded_before, "SETTLED", 0)
    monkeypatch.setattr(manifest, "sha256", lambda path: names.append(path.name) or files.sha256(path))
    return names


def test_large_files_are_hashed_once(folder, hashed):
    with bundles_are_large():
        expected = Bundle.load(folder).recommend(HISTORY)
        assert "dense.safetensors" in hashed
        hashed.clear()
        assert Bundle.load(folder).recommend(HISTORY) == expected
    assert "dense.safetensors" not in hashed
    assert "fusion.json" in hashed


def test_a_bundle_that_was_written_just_now_is_not_remembered(folder, hashed, monkeypatch):
    monkeypatch.setattr(loaded_before, "SETTLED", 3_600_000_000_000)
    with bundles_are_large():
        Bundle.load(folder)
        assert not paths.LOADED.exists()
        hashed.clear()
        Bundle.load(folder)
    assert "dense.safetensors" in hashed


def test_a_load_may_go_on_while_the_files_settle(folder, hashed, monkeypatch):
    monkeypatch.setattr(loaded_before, "SETTLED", 3_600_000_000_000)

    def opened(place, unread):
        monkeypatch.setattr(loaded_before, "SETTLED", 0)
        return open_bundle(place, unread)

    monkeypatch.setattr(bundle, "open_bundle", opened)
    assert Bundle.load(folder).recommend(HISTORY)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
        lambda path: os.truncate(path, path.stat().st_size - 4),
        lambda path: _swapped(path),
        lambda path: path.unlink(),
    ],
    ids=["a bit", "cut short", "another file", "missing"],
)
def test_a_file_that_has_changed_is_an_error(folder, hashed, change):
    Bundle.load(folder)
    change(folder / "dense.safetensors")
    with pytest.raises(UnigrecError, match=r"dense\.safetensors"):
        Bundle.load(folder)


def _swapped(path: Path) -> None:
    """Put a damaged copy with the same times in its place."""
    status, copy = path.stat(), path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes()[:-1] + b"\x01")
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.rename(path)


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_is_replaced_during_a_load_is_an_error(folder, hashed, monkeypatch, times):
    for _ in range(times - 1):
        Bundle.load(folder)

    def opened(place, unread):
        manifest = open_bundle(place, unread)
        _swapped(place / "dense.safetensors")
        return manifest

    monkeypatch.setattr(bundle, "open_bundle", opened)
    with pytest.raises(UnigrecError, match="changed while it was loaded"):
        Bundle.load(folder)


def test_a_bundle_that_is_replaced_during_a_load_is_an_error(folder, hashed, monkeypatch):
    def stamped(place, manifest):
        weights = json.loads((place / "fusion.json").read_text())
        (place / "fusion.json").write_text(json.dumps(weights | {"search_weight": 1.5}))
        resign(place)
        return {}

    monkeypatch.setattr(bundle, "stamps_of", stamped)
    with pytest.raises(UnigrecError, match="changed while it was loaded"):
        Bundle.load(folder)


def test_another_bundle_in_its_place_is_read(folder, hashed):
    Bundle.load(folder)
    weights = json.loads((folder / "fusion.json").read_text())
    (folder / "fusion.json").write_text(json.dumps(weights | {"search_weight": 1.5}))
    resign(folder)
    hashed.clear()
    Bundle.load(folder)
    assert "dense.safetensors" in hashed


def test_a_copy_and_a_bundle_that_did_not_load_are_not_remembered(folder, hashed, tmp_path):
    Bundle.load(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    hashed.clear()
    Bundle.load(copy)
    assert "dense.safetensors" in hashed
    (paths.LOADED / "x").mkdir()  # no record
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "fusion.json").write_text("{}")
    resign(broken)
    before = len(list(paths.LOADED.iterdir()))
    with pytest.raises(UnigrecError, match="no weights"):
        Bundle.load(broken)
    assert len(list(paths.LOADED.iterdir())) == before


@pytest.mark.parametrize("record", ["{}", "[1", "null", "[" * 100_000])
def test_a_damaged_record_counts_for_nothing(folder, hashed, record):
    Bundle.load(folder)
    (path,) = paths.LOADED.iterdir()
    path.write_text(record)
    hashed.clear()
    Bundle.load(folder)
    assert "dense.safetensors" in hashed


def test_where_nothing_can_be_written_nothing_is_remembered(folder, hashed, monkeypatch):
    Path("state/file").write_text("")
    for place in ("state/file/loaded", "state/" + 300 * "x"):  # no folder; a name that no file can have
        monkeypatch.setattr(paths, "LOADED", Path(place))
        Bundle.load(folder)
    shutil.rmtree("state")
    Bundle.load(folder)
    assert not Path("state").exists()


def test_small_bundles_are_always_read(folder, hashed, monkeypatch):
    monkeypatch.setattr(loaded_before, "LARGE", 2**26)
    for _ in range(2):
        hashed.clear()
        Bundle.load(folder)
        assert "dense.safetensors" in hashed
    assert not paths.LOADED.exists()
