"""Every file format between stages. Writes go to a temporary name in the same folder and are renamed."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from ruamel.yaml import YAML


CHECKSUM = "checksum"  # in the metadata of our safetensors files: see `_checksum`
ROWS_PER_GROUP = 2**20  # of a Parquet file that is written in pieces; it is pyarrow's default too
OLD_CHECKSUM = "crc32"  # in files of earlier versions, of the file's bytes: read, but no longer checked


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`: renamed to it if the block succeeds, removed if the block fails.

    Raises:
        UnigrecError: the disk is full or the folder cannot be written; nothing half-written is left.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UnigrecError(f"{path}: could not be written: {error}; nothing was changed there") from error
    finally:
        with suppress(OSError):  # a file system that has become read-only
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a folder, which replaces `path` as a whole. Raises UnigrecError."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp", dir=path.parent))
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise UnigrecError(f"{path}: could not be written: {error}; nothing half-written is left") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of writers of `path` that were killed."""
    prefix = f".{path.name}."
    for left in path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        writer = left.name.removeprefix(prefix).partition(".")[0]
        if writer.isdigit() and not _lives(int(writer)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys. NaN and infinity are refused: JSON has neither, and a metric must not hide them."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON. Raises UnigrecError when the file is missing or is not JSON."""
    with _readable(path):
        return json.loads(path.read_text(encoding="utf-8"))


def parse_yaml(text: str, where: str, *, keep_notation: bool = False) -> Any:
    """Read YAML 1.2, as DVC does.

    Args:
        where: names the text in an error.
        keep_notation: values remember comments, quotes and the digits of numbers, for `dump_yaml` to write them again.

    Raises:
        UnigrecError: the text is not YAML, or has a key twice.
    """
    from ruamel.yaml.error import YAMLError

    try:
        return _yaml(keep_notation).load(text)
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UnigrecError(f"{where}: not valid YAML: {error}") from error


def dump_yaml(value: Any) -> str:
    """Write YAML 1.2; what `parse_yaml` read with `keep_notation` keeps its comments and layout."""
    stream = io.StringIO()
    _yaml(keep_notation=True).dump(value, stream)
    return stream.getvalue()


def _yaml(keep_notation: bool) -> YAML:
    from ruamel.yaml import YAML

    if not keep_notation:
        return YAML(typ="safe")
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 4096  # a long path is never folded
    return round_trip


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor] | dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file from torch tensors or numpy arrays (one kind per file), with a checksum of all of it."""
    from safetensors import SafetensorError

    writer: Callable
    ready: dict[str, Any]
    if any(isinstance(value, np.ndarray) for value in tensors.values()):
        from safetensors.numpy import save_file as writer

        ready = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    else:
        from safetensors.torch import save_file as writer

        ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}  # type: ignore[union-attr]
    metadata = metadata or {}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as for any other file; only the owner may read what safetensors creates
        try:
            writer(ready, str(temporary), metadata={**metadata, CHECKSUM: _checksum(ready, metadata)})
        except SafetensorError as error:  # safetensors' error for a full disk
            raise OSError(error) from error
        temporary.chmod(mode)


def _checksum(tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    """CRC-32, in hex, of the metadata and of each tensor's name, type, shape and values, in the order of names."""
    digest = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        about = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest = zlib.crc32(json.dumps(about).encode(), digest)
        digest = zlib.crc32(_bytes(tensor), digest)
    return f"{digest:08x}"


def _bytes(tensor: Any) -> memoryview:
    """The bytes of a contiguous array or CPU tensor, not copied."""
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(-1).view(np.uint8).data
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _check_whole(path: Path, tensors: dict[str, Any]) -> None:
    """Raises ValueError if a file that `write_tensors` wrote has changed since, by a single bit or more."""
    metadata = _metadata(path)
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and _checksum(tensors, metadata) != expected:
        raise ValueError("its checksum is not that of its contents")


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as file:
        return file.metadata() or {}


def read_tensors(path: Path, *, verified: bool = False) -> dict[str, torch.Tensor]:
    """Read a safetensors file as torch tensors. Raises UnigrecError when it is missing or damaged.

    verified: the caller has compared the file's hash, so its checksum is not computed. Tensors are mapped: what nobody
        reads stays on the disk.
    """
    from safetensors.torch import load_file

    with _readable(path):
        tensors = load_file(str(path))
        if not verified:
            _check_whole(path, tensors)
        return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata that `write_tensors` was given. Raises UnigrecError when the file is missing or damaged."""
    with _readable(path):
        return {name: value for name, value in _metadata(path).items() if name not in (CHECKSUM, OLD_CHECKSUM)}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file as numpy arrays. Raises UnigrecError when it is missing or damaged."""
    from safetensors.numpy import load_file

    with _readable(path):
        arrays = load_file(str(path))
        _check_whole(path, arrays)
        return arrays


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """As `read_arrays`, but the arrays are the file itself, mapped: its pages are read where they are used.

    They take no memory that the system cannot have back. A file that replaces this one does not change them.
    """
    # Of safetensors' readers, that of torch maps the file, and that of numpy copies it.
    return {name: tensor.numpy() for name, tensor in read_tensors(path).items()}


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file, with a checksum per page."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables of one schema as one Parquet file, of which a row group is in memory. Returns the rows.

    The bytes depend on the rows, not on how they are spread over the tables. At least one table is needed.
    """
    import pyarrow.parquet as pq

    rows = 0
    with atomic_path(path) as temporary, ExitStack() as stack:
        writer = None
        for table in in_blocks(tables, ROWS_PER_GROUP):
            if writer is None:
                writer = pq.ParquetWriter(temporary, table.schema, compression="zstd", write_page_checksum=True)
                stack.enter_context(writer)
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            rows += table.num_rows
    return rows


def in_blocks(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows, without chunks; the last one has fewer. If there is no row: one table."""
    import pyarrow as pa

    held: list[pa.Table] = []
    count, yielded = 0, False
    for table in tables:
        held.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows).combine_chunks()
            held, count, yielded = [whole.slice(rows)], count - rows, True
    if count or not yielded:
        yield pa.concat_tables(held).combine_chunks()


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file. Raises UnigrecError when it is missing or damaged."""
    import pyarrow.parquet as pq

    # Not pq.read_table: it imports pandas, and turns a folder named `a=b` in the path into a column.
    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns=columns)


def read_tables(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    """As `read_table`, some rows at a time; at least one table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield file.schema_arrow.empty_table().select(columns)
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=columns):
            yield pa.Table.from_batches([batch])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from pyarrow import ArrowException
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise UnigrecError(f"{path}: no such file; run the stage that writes it (`dvc repro`)") from error
    except (OSError, ValueError, RecursionError, ArrowException, SafetensorError) as error:
        raise UnigrecError(f"{path}: damaged or not of the expected format: {error}") from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(*paths: Path) -> str:
    """Hex digest over several files' digests. Raises UnigrecError when one is missing."""
    for path in paths:
        if not path.is_file():
            raise UnigrecError(f"{path}: no such file; run the pipeline first (`dvc repro` or `make run`)")
    return hashlib.sha256("".join(sha256(path) for path in paths).encode()).hexdigest()
