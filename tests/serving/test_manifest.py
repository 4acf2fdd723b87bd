"""A bundle is assembled from the artifacts. Changed files are refused before anything but the manifest is parsed."""

from __future__ import annotations

import json
import shutil

import pytest

from support.bundles import resign
from support.project import PARAMS_FILE
from support.tiny_model import SERVING, make_bundle
from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.serving.assemble import assemble
from unigrec.serving.bundle import Bundle


def test_equal_artifacts_make_the_same_bundle(tmp_path, monkeypatch, pristine):
    monkeypatch.chdir(tmp_path)
    assert make_bundle().name == make_bundle().name == pristine.name
    assert make_bundle(seed=1).name != pristine.name
    assert sorted(path.name for path in (tmp_path / paths.BUNDLES).iterdir() if path.name.startswith(".")) == []


def test_a_missing_artifact_leaves_no_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_bundle()
    shutil.rmtree(folder)
    (Artifacts().evaluate / paths.RANKS_FILE).unlink()
    with pytest.raises(UnigrecError, match=r"ranks.parquet: no such file; run the pipeline"):
        assemble(PARAMS_FILE, SERVING)
    assert list(paths.BUNDLES.iterdir()) == []


@pytest.mark.parametrize("stage", [Artifacts().tokenizer, Artifacts().text_encoder], ids=str)
def test_a_stage_that_has_not_run_is_named(tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    make_bundle()
    shutil.rmtree(stage)
    with pytest.raises(UnigrecError, match=rf"^{stage}\S*: no such (file|folder); run the pipeline"):
        assemble(PARAMS_FILE, SERVING)


def test_every_changed_file_is_named(pristine, tmp_path):
    for number, name in enumerate(json.loads((pristine / "manifest.json").read_text())["files"]):
        folder = shutil.copytree(pristine, tmp_path / str(number))
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(bytes(content))
        with pytest.raises(UnigrecError, match=f"{name}: changed since"):
            Bundle.load(folder)


def test_of_several_changed_files_the_first_of_the_manifest_is_named(folder):
    names = list(json.loads((folder / "manifest.json").read_text())["files"])
    largest = max(names, key=lambda name: (folder / name).stat().st_size)  # its hash is computed first
    assert largest != names[0]
    for name in (largest, names[0]):
        (folder / name).write_bytes((folder / name).read_bytes() + b"changed")
    with pytest.raises(UnigrecError, match=f"{names[0]}: changed since"):
        Bundle.load(folder)


def test_an_unlisted_file_is_refused(folder):
    (folder / "text_encoder/extra.json").write_text("{}")
    with pytest.raises(UnigrecError, match=r"does not know: text_encoder/extra.json"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["text_encoder/model.pkl", "report/run.py", "model.pt", "report/x.bin"])
def test_a_kind_of_file_that_could_hold_code_is_refused_even_when_listed(folder, name):
    (folder / name).write_bytes(b"\x80\x04.")
    resign(folder)
    with pytest.raises(UnigrecError, match="has no place in a bundle"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "name",
    ["../outside.json", "/etc/passwd", "report/../../x.json", "report//x.json", "report/./x.json", "report\\x.json"],
)
def test_a_path_outside_is_refused(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UnigrecError, match="has no place in a bundle"):
        Bundle.load(folder)


def test_a_link_is_refused(folder):
    target = folder / "report/gate/decision.json"
    target.unlink()
    target.symlink_to("/etc/hostname")
    with pytest.raises(UnigrecError, match="a link or special file"):
        Bundle.load(folder)


def test_a_huge_header_is_refused(folder):
    path = folder / "recommender.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])
    resign(folder)
    with pytest.raises(UnigrecError, match="header claims"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "files": {}}'])
def test_a_broken_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(UnigrecError, match=r"manifest.json"):
        Bundle.load(folder)


def test_missing_parts_are_named(folder):
    (folder / "tokenizer.safetensors").unlink()
    with pytest.raises(UnigrecError, match=r"lacks tokenizer.safetensors"):
        Bundle.load(folder)
    resign(folder)  # a manifest that does not list it does not help
    with pytest.raises(UnigrecError, match=r"lacks tokenizer.safetensors"):
        Bundle.load(folder)
