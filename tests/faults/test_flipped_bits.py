"""A bit flips anywhere in an artifact: the reader names the file as damaged, or reads exactly what was written."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from unigrec.base import files
from unigrec.base.errors import UnigrecError

SAMPLED = 400  # number of bits per file
ARRAYS = {"x": np.arange(300.0), "codes": np.arange(12, dtype=np.int32).reshape(3, 4)}
TABLE = pa.table({"x": list(range(1000)), "title": [f"lamp {row % 7}" for row in range(1000)]})


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcome(read: Callable[[Path], Any], path: Path) -> tuple[Any, str]:
    """The value that is read and an empty message, or None and the error message."""
    try:
        return read(path), ""
    except UnigrecError as error:
        return None, str(error)


@pytest.mark.parametrize("read", [files.read_arrays, files.read_tensors, files.map_arrays])
def test_any_bit_of_tensors(tmp_path, read):
    path = tmp_path / "model.safetensors"
    files.write_tensors(path, ARRAYS, {"numbers": "{}"})
    whole, caught = path.read_bytes(), 0
    bits = [*range(64), *random.Random(0).sample(range(64, 8 * len(whole)), SAMPLED)]  # the header's length, a sample
    for bit in bits:
        path.write_bytes(flip(whole, bit))
        found, error = outcome(read, path)
        if found is None:
            assert error.startswith(f"{path}: damaged")
            caught += 1
        else:  # the bit was in the name of the checksum
            assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())
    assert caught > 0.98 * len(bits)


def test_every_bit_of_the_metadata_is_checked(tmp_path):
    path = tmp_path / "model.safetensors"
    files.write_tensors(path, ARRAYS, {"numbers": "epoch 12"})
    whole = path.read_bytes()
    start = whole.index(b"epoch 12")
    for bit in range(8 * start, 8 * (start + len(b"epoch 12"))):
        path.write_bytes(flip(whole, bit))
        with pytest.raises(UnigrecError, match="damaged"):
            files.read_tensors(path)


def test_any_bit_of_a_tables_pages(tmp_path):
    path = tmp_path / "items.parquet"
    files.write_table(path, TABLE)
    whole, caught = path.read_bytes(), 0
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    bits = random.Random(0).sample(range(8 * footer), SAMPLED)
    for bit in bits:
        path.write_bytes(flip(whole, bit))
        found, error = outcome(files.read_table, path)
        if found is None:
            assert error.startswith(f"{path}: damaged")
            caught += 1
        else:  # the bit was in a hint of a page header that reading does not need
            assert found.equals(TABLE)
    assert caught > 0.9 * len(bits)


@pytest.mark.parametrize("read", [files.read_arrays, files.read_tensors, files.map_arrays])
def test_tensors_that_others_wrote_are_read_without_a_checksum(tmp_path, read):
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path)
    assert np.array_equal(np.asarray(read(path)["x"]), ARRAYS["x"])


@pytest.mark.parametrize("read", [files.read_arrays, files.read_tensors, files.map_arrays])
def test_tensors_of_an_earlier_version_are_read_without_a_checksum(tmp_path, read):
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path, metadata={"key": "value", "crc32": "00000000"})  # checksum of the whole file
    assert np.array_equal(np.asarray(read(path)["x"]), ARRAYS["x"])
    assert files.read_metadata(path) == {"key": "value"}


def test_the_checksum_is_no_part_of_the_metadata_that_a_caller_gave(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    files.write_tensors(path, ARRAYS, {"key": "value"})
    assert files.read_metadata(path) == {"key": "value"}
