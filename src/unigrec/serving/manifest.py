"""A bundle's files and manifest, which are checked before any of the files is parsed.

    manifest.json              schema, sha256 of each other file, data version, commit, gate result
    params.yaml                the params of the run, for the record
    recommender.safetensors    weights; the config is recommender.json
    tokenizer.safetensors      weights; the config is tokenizer.json
    identifiers.safetensors    codes int32 (N, T): T is L, or L + 1 with a disambiguation code
    item_tokens.safetensors    tokens float32 (N, L or 1, E): what the recommender reads of each trained item, if it
                               reads more than codes
    collaborative.safetensors  part float32 (N, E): the tokenizer's input from the teacher, for a warm start
    dense.safetensors          weights of the dense part, which is the teacher; the config is dense.json
    neighbours.safetensors     what follows an item, and content vectors (unigrec.serving.ranking_parts)
    fusion.json                what ranks the items, and the weights of the fused ranking
    baskets.safetensors        items that are bought together (unigrec.serving.basket_file)
    catalogue.parquet          item_index, item_id, text columns, train_count
    columns.parquet            columns that requests filter by, with their types (params: serve)
    ranks.parquet              rank of each user's test item in the run, for the record
    extension.safetensors      items that were added or withdrawn after the training (unigrec.serving.extension)
    computed.safetensors       what a load would compute of a large catalogue (unigrec.serving.computed)
    text_encoder/              embeds the texts of new items
    report/                    metrics, curves and plots of every stage, for the experiment tracker

Names are those below the bundle's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.files import sha256
from unigrec.base.process import cores

SCHEMA_VERSION = 1
# Names in a bundle. The docstring above says what each file holds.
MANIFEST = "manifest.json"
PARAMS = "params.yaml"
RECOMMENDER, RECOMMENDER_CONFIG = "recommender.safetensors", "recommender.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.safetensors", "tokenizer.json"
IDENTIFIERS = paths.IDENTIFIERS_FILE
ITEM_TOKENS = paths.ITEM_TOKENS_FILE  # only with a recommender that reads item vectors
COLLABORATIVE = paths.COLLABORATIVE_FILE
CATALOGUE = "catalogue.parquet"
RANKS = paths.RANKS_FILE
TEXT_ENCODER, REPORT = "text_encoder", "report"  # folders
ENCODER_SETTINGS = f"{TEXT_ENCODER}/{paths.ENCODER_SETTINGS_FILE}"
FACTS, METRICS = f"{REPORT}/report/{paths.FACTS_FILE}", f"{REPORT}/evaluate/{paths.METRICS_FILE}"  # of the two stages
REQUIRED = {
    *(PARAMS, RECOMMENDER, RECOMMENDER_CONFIG, TOKENIZER, TOKENIZER_CONFIG),
    *(IDENTIFIERS, CATALOGUE, RANKS),
}
# The parts of the fused ranking. Bundles of earlier versions lack them, and rank by the recommender alone.
DENSE, DENSE_CONFIG = "dense.safetensors", "dense.json"
NEIGHBOURS, FUSION = paths.NEIGHBOURS_FILE, paths.FUSION_FILE
RANKING = {DENSE, DENSE_CONFIG, NEIGHBOURS, FUSION}
BASKETS = paths.BASKETS_FILE
SERVED = paths.SERVED_FILE
EXTENSION = "extension.safetensors"  # only in a bundle whose catalogue was changed after the training
COMPUTED = "computed.safetensors"  # only in a bundle of a large catalogue
OPTIONAL = {
    ITEM_TOKENS,
    COLLABORATIVE,
    BASKETS,
    SERVED,
    EXTENSION,
    COMPUTED,
} | RANKING  # bundles of earlier versions lack them
# What changes if items are added or removed. All other files are the trained model.
OF_CATALOGUE = {CATALOGUE, IDENTIFIERS, COLLABORATIVE, SERVED, EXTENSION, COMPUTED}
FOLDERS = {TEXT_ENCODER, REPORT}
SUFFIXES = {".json", ".safetensors", ".parquet", ".yaml", ".png"}
MAX_MANIFEST_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 22  # of a safetensors file; ours have about ten kilobytes
MAX_FILES = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Serving(NamedTuple):
    """The params that recommending needs. They stand apart, since a bundle outlives changes of params.yaml's schema."""

    history: int  # number of items of a history that the recommender reads; the dense part has a number of its own
    beam: int
    text_columns: list[str]
    origin: str  # where the training data came from


class Subject(NamedTuple):
    """A bundle and its name for people: `version 3`, or its folder."""

    name: str
    folder: Path


def is_same_model(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two manifests are of one trained model, though items may have been added or removed."""
    first, second = ({name: sha for name, sha in m["files"].items() if name not in OF_CATALOGUE} for m in (one, other))
    return first == second


def open_bundle(folder: Path, unread: Collection[str] = ()) -> dict[str, Any]:
    """Compare names, sizes and hashes of a bundle's files with its manifest, and return the manifest.

    Only the manifest is parsed. unread: files that are not hashed. Raises UnigrecError, which names the file.
    """
    manifest = read_manifest(folder)
    listed: dict[str, str] = manifest["files"]
    present = _present(folder)
    # The parts of the fused ranking are all there, or none of them is.
    needed = REQUIRED | (RANKING if RANKING & set(listed) else set())
    missing = sorted((needed | set(listed)) - present)
    unknown = sorted(present - set(listed))
    if missing:
        raise UnigrecError(f"{folder}: the bundle lacks {', '.join(missing[:5])}")
    if unknown:
        raise UnigrecError(
            f"{folder}: the bundle holds files that its manifest does not know: {', '.join(unknown[:5])}"
        )
    hashes = hashes_of(folder, [name for name in listed if name not in unread])
    for name in filter(hashes.__contains__, listed):
        path = folder / name
        if hashes[name] != listed[name]:
            raise UnigrecError(f"{path}: changed since the bundle was made (its sha256 is not the manifest's)")
        if path.suffix == ".safetensors":
            _check_header(path)
    return manifest


def hashes_of(folder: Path, names: Collection[str]) -> dict[str, str]:
    """sha256 of files, by name in the order of `names`; a file per core at a time."""
    # With a large file as the last one, all threads but one would have nothing to do.
    largest_first = sorted(names, key=lambda name: -(folder / name).stat().st_size)
    with ThreadPoolExecutor(cores()) as threads:
        found = dict(zip(largest_first, threads.map(lambda name: sha256(folder / name), largest_first), strict=True))
    return {name: found[name] for name in names}


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest; its other files are not looked at. Raises UnigrecError."""
    if not os.path.isdir(folder):  # Path.is_dir raises where a name is too long for a folder
        raise UnigrecError(f"{folder}: no such bundle")
    return _read_manifest(folder / MANIFEST)


def _read_manifest(path: Path) -> dict[str, Any]:
    if path.is_symlink() or not path.is_file():
        raise UnigrecError(f"{path}: missing; this folder is no bundle")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise UnigrecError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes; refused")
    manifest = files.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA_VERSION:
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        raise UnigrecError(f"{path}: schema {schema!r}, but this version reads {SCHEMA_VERSION}")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not listed or len(listed) > MAX_FILES:
        raise UnigrecError(f"{path}: `files` must list 1 to {MAX_FILES} files")
    for name, digest in listed.items():
        if not _is_allowed(name):
            raise UnigrecError(f"{path}: {name!r} has no place in a bundle; refused")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise UnigrecError(f"{path}: the hash of {name!r} is no sha256")
    if manifest.get("id") != identity(listed):
        raise UnigrecError(f"{path}: the id is not that of the listed files")
    if not _is_serving(manifest.get("serving")):
        raise UnigrecError(f"{path}: `serving` must hold {', '.join(Serving._fields)}")
    return manifest


def identity(hashes: dict[str, str]) -> str:
    """A bundle's id: it covers the files alone, so equal results of two commits are one bundle."""
    content = json.dumps([SCHEMA_VERSION, hashes], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _is_serving(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != set(Serving._fields):
        return False
    counts = (value["history"], value["beam"])
    return all(type(count) is int and count > 0 for count in counts) and isinstance(value["text_columns"], list)


def _is_allowed(name: str) -> bool:
    """Whether it is a plain relative path in a known place, to a kind of file that cannot hold code."""
    path = PurePosixPath(name)
    plain = str(path) == name and "\\" not in name and ".." not in path.parts and not path.is_absolute()
    return plain and (
        name in REQUIRED | OPTIONAL or (path.parts[0] in FOLDERS and len(path.parts) > 1 and path.suffix in SUFFIXES)
    )


def _present(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise UnigrecError(f"{path}: a link or special file; refused")
        names.add(path.relative_to(folder).as_posix())
        if len(names) > MAX_FILES + 1:
            raise UnigrecError(f"{folder}: more than {MAX_FILES} files; refused")
    return names - {MANIFEST}


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER_BYTES, path.stat().st_size):
        raise UnigrecError(f"{path}: its header claims {length} bytes; refused")
