"""A forged bundle whose files hold something else than their names say: refused, and nothing of it is run.

Names, paths, links, headers, shapes and hashes: tests/serving/test_bundle.py.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.embedding.encoder import load_encoder
from unigrec.serving import manifest as bundle_files
from unigrec.serving.bundle import Bundle


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def forge(folder: Path, name: str, content: bytes) -> None:
    """Other contents under an allowed name, and a manifest that agrees."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = files.sha256(folder / name)
    manifest["id"] = bundle_files.identity(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


PARSED = [
    "recommender.safetensors",
    "recommender.json",
    "tokenizer.safetensors",
    "tokenizer.json",
    "identifiers.safetensors",
    "catalogue.parquet",
]


@pytest.mark.parametrize("name", [*PARSED, "manifest.json"])
def test_a_pickle_under_an_allowed_name(folder, tmp_path, name):
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    if name == "manifest.json":
        (folder / name).write_bytes(bomb)
    else:
        forge(folder, name, bomb)
    with pytest.raises(UnigrecError, match=name.replace(".", r"\.")):
        Bundle.load(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["params.yaml", "report/gate/decision.json", "ranks.parquet"])
def test_what_loading_does_not_read_is_not_run_either(folder, tmp_path, name):
    mark = tmp_path / "mark"
    forge(folder, name, f"a: !!python/object/apply:os.mkdir [{mark}]\n".encode() + pickle.dumps(Bomb(mark)))
    Bundle.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["settings.json", "encoder.safetensors"])
def test_a_pickle_in_the_text_encoder(tmp_path, name):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    with pytest.raises(UnigrecError, match="encoder/"):
        load_encoder(tmp_path / "encoder")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"d_model": "os.system"}, id="a text as size"),
        pytest.param({"d_model": -8}, id="a negative size"),
        pytest.param({"d_model": 8.5}, id="a fraction as size"),
        pytest.param({"d_model": 10**30}, id="a size beyond all numbers"),
        pytest.param({"heads": 0}, id="no heads"),
        pytest.param({"encoder_layers": 10**7}, id="millions of layers"),
        pytest.param({"surprise": 1}, id="an unknown key"),
        pytest.param({"levels": None}, id="nothing"),
    ],
)
def test_a_network_s_shape_that_is_none(folder, content):
    shape = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
    forge(folder, "recommender.json", json.dumps(shape | content).encode())
    with pytest.raises(UnigrecError, match=r"recommender\.(json|safetensors)"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b"3", b"{}", b"[" * 100_000])
@pytest.mark.parametrize("name", ["recommender.json", "tokenizer.json"])
def test_json_that_is_no_shape(folder, name, content):
    forge(folder, name, content)
    with pytest.raises(UnigrecError, match=name.split(".")[0]):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param((2**63).to_bytes(8, "little") + b"{}", id="a header beyond all sizes"),
        pytest.param((4).to_bytes(8, "little") + b"nope", id="a header that is no JSON"),
        pytest.param(b"", id="nothing"),
        pytest.param(
            (75).to_bytes(8, "little")
            + b'{"codes":{"dtype":"I32","shape":[1000000,1000000],"data_offsets":[0,4]}}   '
            + b"\0" * 4,
            id="a shape larger than its data",
        ),
        pytest.param(save({"codes": np.zeros((12, 3), np.float32)}), id="floats as codes"),
        pytest.param(save({"codes": np.full((12, 3), -1, np.int32)}), id="negative codes"),
        pytest.param(save({"other": np.zeros((12, 3), np.int32)}), id="another name"),
    ],
)
def test_identifiers_that_are_none(folder, content):
    forge(folder, "identifiers.safetensors", content)
    with pytest.raises(UnigrecError, match=r"identifiers\.safetensors"):
        Bundle.load(folder)


@pytest.mark.parametrize("column", ["item_index", "train_count", "item_id", "title"])
def test_catalogue_columns_of_other_types(folder, tmp_path, column):
    table = files.read_table(folder / "catalogue.parquet")
    broken = table.set_column(table.column_names.index(column), column, [[[1.5, float("nan")]] * table.num_rows])
    files.write_table(tmp_path / "catalogue.parquet", broken)
    forge(folder, "catalogue.parquet", (tmp_path / "catalogue.parquet").read_bytes())
    with pytest.raises(UnigrecError, match=r"catalogue\.parquet"):
        Bundle.load(folder)
