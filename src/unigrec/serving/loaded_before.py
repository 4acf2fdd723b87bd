"""Which bundles have been loaded here before: their large files are not hashed and checked again.

    state/loaded/KEY.json   id of a bundle, and of each of its large files the inode, the size and the times of its
                            last change; KEY is a hash of the bundle's path

A write to a file, by whatever program, changes its times; then all of it is read again, and a damaged file is an error.
What a disk changes by itself is not noticed, as little as in a file that is damaged while it is mapped. To have all
bundles read again, remove the folder. Without a folder `state` nothing is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError

LARGE = 2**26  # bytes; smaller files are hashed and checked each time
SETTLED = 2_000_000_000  # ns; a second change within one tick of a file system's clock has the times of the first
CHECKS = 1  # to be raised when a load checks more of a large file
Stamps = dict[str, list[int]]


def stamps_of(folder: Path, manifest: dict[str, Any]) -> Stamps:
    """What tells of each large file whether it was changed."""
    found = {}
    for name in manifest["files"]:
        with contextlib.suppress(OSError):  # a file that is missing is an error elsewhere
            status = (folder / name).lstat()
            if status.st_size >= LARGE:
                times = (status.st_mtime_ns, status.st_ctime_ns)
                found[name] = [status.st_dev, status.st_ino, status.st_size, *times]
    return found


def was_loaded(folder: Path, manifest: dict[str, Any], stamps: Stamps) -> bool:
    """Whether this bundle has large files, and all of it was loaded from this folder as it is."""
    if not stamps:
        return False
    try:
        return files.read_json(_record(folder)) == _facts(manifest, stamps)
    except UnigrecError:  # no record, or one that is damaged or may not be read
        return False


def remember(folder: Path, manifest: dict[str, Any], stamps: Stamps, began: int) -> None:
    """Write down that a bundle was loaded, unless one of its large files had been changed just before.

    stamps: from before the load, which began then, in ns since 1970.
    """
    settled = all(began - changed >= SETTLED for *_, changed in stamps.values())
    if stamps and settled and paths.STATE.is_dir():
        with contextlib.suppress(UnigrecError, OSError):  # no folder can be written: the next load reads all again
            files.write_json(_record(folder), _facts(manifest, stamps))


def _facts(manifest: dict[str, Any], stamps: Stamps) -> dict[str, Any]:
    return {"checks": CHECKS, "id": manifest["id"], "files": stamps}


def _record(folder: Path) -> Path:
    return paths.LOADED / f"{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]}.json"
