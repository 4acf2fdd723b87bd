"""The audit: who moved the champion, from where to where, why and when. A file of JSON lines, only appended to.

Each change has a line `intent` before anything moves, and a line `done` (or `undone`) after it, with the same `id`. An
intent without such a line is a change whose process died. Keys: event, id, action (promote or rollback), model, store,
from, to, previous (the alias before), why, who, when (UTC), commit (of the code that decided), bundle (that of `to`).
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
import socket
import uuid
from pathlib import Path
from typing import Any

from unigrec.base.errors import UnigrecError
from unigrec.base.git import git_commit

ACTOR_VARIABLE = "UNIGREC_ACTOR"
INTENT, DONE, UNDONE = "intent", "done", "undone"

Change = dict[str, Any]


def new_change(action: str, **facts: Any) -> Change:
    """A change with its id, actor, time and commit."""
    origin = {"id": uuid.uuid4().hex, "who": actor(), "when": now(), "commit": git_commit()}
    return _as_utf_8({"action": action, **facts, **origin})


def _as_utf_8(change: Change) -> Change:
    """Texts that any store takes: a terminal, and the name of a user, may hold bytes that are not UTF-8."""
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for key, value in change.items()
    }


def append(path: Path, event: str, change: Change) -> None:
    """Append a line and wait until it is on the disk. Raises UnigrecError if it cannot be written."""
    line = json.dumps({**change, "event": event, "when": now()}, sort_keys=True) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a writer was killed before the end of its line
                    line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnigrecError(
            f"{path}: could not be written: {error}; the champion is not moved without a record"
        ) from error


def read(path: Path) -> list[Change]:
    """Every complete line, oldest first. The incomplete line of a killed writer counts as not written."""
    lines: list[Change] = []
    if path.is_file():
        # Only a line feed ends a line: the reason of an earlier version's line may hold other separators of Unicode.
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(found, dict):
                lines.append(_as_utf_8(found))
    return lines


def unfinished(path: Path, model: str, store: str) -> list[Change]:
    """Intents of one model in one store without a `done` or `undone`, oldest first."""
    lines = [line for line in read(path) if (line.get("model"), line.get("store")) == (model, store)]
    ended = {line["id"] for line in lines if line["event"] in (DONE, UNDONE)}
    return [line for line in lines if line["event"] == INTENT and line["id"] not in ended]


def actor() -> str:
    """Who makes the change: UNIGREC_ACTOR, or user@host."""
    named = os.environ.get(ACTOR_VARIABLE)
    if named:
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
