"""Files between stages: whole or not there, on a disk that is full and after a crash; damaged ones say so."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError

TABLE = pa.table({"x": list(range(1000))})


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def write_any(path: Path) -> None:
    {
        ".json": lambda: files.write_json(path, {"x": 1}),
        ".parquet": lambda: files.write_table(path, TABLE),
        ".safetensors": lambda: files.write_tensors(path, {"x": np.arange(1000)}),
    }[path.suffix]()


def read_any(path: Path) -> object:
    return {".json": files.read_json, ".parquet": files.read_table, ".safetensors": files.read_arrays}[path.suffix](
        path
    )


@pytest.fixture(params=["file.json", "file.parquet", "file.safetensors"])
def path(request, tmp_path) -> Path:
    return tmp_path / "stage" / request.param


def test_round_trip(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": [1, "é"], "a": None})
    assert files.read_json(tmp_path / "a.json") == {"b": [1, "é"], "a": None}
    files.write_table(tmp_path / "a.parquet", TABLE)
    assert files.read_table(tmp_path / "a.parquet").equals(TABLE)
    files.write_tensors(tmp_path / "a.safetensors", {"x": np.eye(3, dtype=np.float32)})
    assert np.array_equal(files.read_arrays(tmp_path / "a.safetensors")["x"], np.eye(3))
    files.write_tensors(tmp_path / "b.safetensors", {"x": torch.eye(3).T})
    assert torch.equal(files.read_tensors(tmp_path / "b.safetensors")["x"], torch.eye(3))


def test_mapped_arrays_are_the_file_that_was_opened_and_take_no_memory_of_their_own(tmp_path):
    path, size = tmp_path / "a.safetensors", 4_000_000
    files.write_tensors(path, {"x": np.arange(size, dtype=np.int32), "y": np.arange(3)})
    program = "from unigrec.base import files; from pathlib import Path; import sys, torch\n"
    program += "def anonymous(): return int(open('/proc/self/status').read().split('RssAnon:')[1].split()[0])\n"
    program += "before = anonymous(); found = files.map_arrays(Path(sys.argv[1]))\n"
    program += "print(int(found['x'].sum()), anonymous() - before)"
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    total, kilobytes = map(int, ran.stdout.split())
    assert total == size * (size - 1) // 2
    assert kilobytes < 4 * size / 1000 / 2
    mapped = files.map_arrays(path)
    files.write_tensors(path, {"x": np.zeros(size, np.int32), "y": np.zeros(3)})
    assert mapped["y"].tolist() == [0, 1, 2]
    assert int(mapped["x"][-1]) == size - 1


def test_same_value_same_bytes(path):
    write_any(path)
    first = path.read_bytes()
    path.unlink()
    write_any(path)
    assert path.read_bytes() == first


def test_the_umask_alone_says_who_may_read_a_file(path):
    before = os.umask(0o027)
    try:
        write_any(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_metadata_round_trip(tmp_path):
    files.write_tensors(tmp_path / "a.safetensors", {"x": torch.eye(3)}, {"key": "é"})
    assert files.read_metadata(tmp_path / "a.safetensors") == {"key": "é"}
    files.write_tensors(tmp_path / "b.safetensors", {"x": torch.eye(3)})
    assert files.read_metadata(tmp_path / "b.safetensors") == {}


@pytest.mark.parametrize(
    "tensors",
    [
        {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "flag": torch.tensor([True, False])},
        {"half": torch.ones(3, dtype=torch.bfloat16), "other half": torch.ones(3, dtype=torch.float16)},
        {"turned": torch.arange(6).view(2, 3).T, "grad": torch.ones(2, requires_grad=True)},
    ],
    ids=["small", "half", "views"],
)
def test_tensors_of_any_kind_are_checked_and_read(tmp_path, tensors):
    files.write_tensors(tmp_path / "a.safetensors", tensors)
    found = files.read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in tensors.items()}


@pytest.mark.parametrize("fault", ["write", "sync", "rename"])
def test_a_full_disk_changes_nothing(path, monkeypatch, fault):
    write_any(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        if fault == "write":
            patch.setattr(pq, "write_table", no_space)
            patch.setattr("safetensors.numpy.save_file", no_space)
            patch.setattr(Path, "write_text", no_space)
        else:
            patch.setattr(os, {"sync": "fsync", "rename": "replace"}[fault], no_space)
        with pytest.raises(UnigrecError, match=r"could not be written: .*No space left.*nothing was changed"):
            write_any(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_device_that_is_really_full(tmp_path):
    def write() -> None:
        with files.atomic_path(tmp_path / "x") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("anything")

    with pytest.raises(UnigrecError, match="No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [np.zeros(100_000), torch.zeros(100_000)], ids=["numpy", "torch"])
def test_a_file_that_may_not_grow(tmp_path, values):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UnigrecError, match=r"could not be written: .*File too large"):
            files.write_tensors(tmp_path / "file.safetensors", {"x": values})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_writer_itself_leaves_nothing(tmp_path):
    def write() -> None:
        with files.atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_had_begun_is_removed_by_the_next(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        pass
    path, folder = tmp_path / "x.json", tmp_path / "bundle"
    (tmp_path / f".x.json.{gone.pid}.tmp").write_text("{")
    (tmp_path / f".bundle.{gone.pid}.abc.tmp").mkdir()
    living = tmp_path / f".x.json.{os.getppid()}.tmp"
    living.write_text("{")
    files.write_json(path, {})
    with files.atomic_folder(folder):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([path, folder, living])


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "bundle"

    def write(name: str, fault: bool = False) -> None:
        with files.atomic_folder(target) as temporary:
            (temporary / name).write_text(name)
            if fault:
                no_space()

    write("one")
    with pytest.raises(UnigrecError, match="No space left"):
        write("two", fault=True)
    assert [path.name for path in target.iterdir()] == ["one"]
    write("two")
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_file_says_which_and_how_to_get_it(path):
    with pytest.raises(UnigrecError, match=rf"{path.name}: no such file; run the stage that writes it"):
        read_any(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_a_truncated_file_says_so(path, share):
    write_any(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UnigrecError, match=rf"{path.name}: damaged or not of the expected format"):
        read_any(path)


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "metrics.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [files.atomic_path, files.atomic_folder])
def test_a_place_that_cannot_be_written_is_an_error_in_words(tmp_path, kind):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UnigrecError, match=r"file/x: could not be written: .*"), kind(tmp_path / "file" / "x"):
        pass
