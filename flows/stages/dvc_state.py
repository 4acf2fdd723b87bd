"""Repairs files that a killed DVC process left in a state that DVC refuses to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
from dvc.lock import make_lock

from unigrec.base import files
from unigrec.base.git import DVC_LOCK

DAMAGED_LOCK = "dvc.lock.damaged"
HOLDERS = ".dvc/tmp/rwlock"  # which process reads and writes what: a plain file, which outlives the processes


def put_lock_file_aside(root: str) -> bool:
    """Move dvc.lock away, so that DVC makes it again from its cache. Returns whether there was one.

    DVC empties the file before it writes it again, and refuses a half-written one.
    """
    lock = Path(root, DVC_LOCK)
    if not lock.exists():
        return False
    lock.rename(Path(root, DAMAGED_LOCK))
    return True


def put_lock_file_back(root: str) -> None:
    """Undo `put_lock_file_aside`."""
    Path(root, DAMAGED_LOCK).rename(Path(root, DVC_LOCK))


def forget_dead_holders(root: str) -> None:
    """Remove from DVC's list the holders whose process number belongs to another program by now. Living ones stay.

    A half-written list is deleted. DVC itself forgets a holder only if no process has its number.
    """
    path = Path(root, HOLDERS)
    if not path.exists():
        return
    with make_lock(f"{path}.lock", tmp_dir=str(path.parent)):  # the lock under which DVC edits the list
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            read = {name: [one for one in some if _is_alive(one)] for name, some in held.get("read", {}).items()}
            write = {name: one for name, one in held.get("write", {}).items() if _is_alive(one)}
        except (ValueError, KeyError, TypeError, AttributeError):
            path.unlink()
        else:
            files.write_json(path, {"read": {name: some for name, some in read.items() if some}, "write": write})


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether a holder's process still runs the command line (the program, then arguments) that DVC wrote down."""
    arguments = holder["cmd"].partition(" ")[2]
    try:
        return " ".join(psutil.Process(int(holder["pid"])).cmdline()).endswith(arguments)
    except psutil.AccessDenied:
        return True  # we cannot tell: leave it to DVC
    except psutil.Error:
        return False
