"""A store in SQLite that was moved or copied together with its project.

MLflow stores absolute paths of the files of runs and models. In a project that was moved they lead nowhere. In a
project that was copied they lead into the first one, which the copy must not write to.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

SQLITE = "sqlite:///"
FOLDER = "mlruns"  # MLflow makes it where a SQLite store is used, for the files of runs and models
EXPERIMENTS = ("experiments", "artifact_location")
COLUMNS = (
    EXPERIMENTS,
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
WAIT_SECONDS = 20.0  # for another process that writes to the store


class _Place(NamedTuple):
    """Where a project keeps its store and its files."""

    database: Path
    folder: Path


def follow_project(uri: str) -> None:
    """Correct the paths in the project's own store, if the project was moved or copied since they were written.

    A path changes if its file lies in this project. The place for new runs changes also if the folder that it leads to
    belongs to another project with such a store. All other paths stay: somebody may have chosen them.

    Args:
        uri: the address of the store. Only a relative path to a SQLite file is the project's own.
    """
    place = _place_of(uri)
    if place is None or not place.database.is_file():
        return
    name = os.path.relpath(place.database, place.folder.parent)
    with suppress(sqlite3.Error, OSError), closing(sqlite3.connect(place.database, WAIT_SECONDS)) as connection:
        changes = list(_changes(connection, place.folder, name))  # MLflow reports what is wrong with the store
        if changes:
            with connection:
                for (table, column), old, new in changes:
                    Path(new).mkdir(parents=True, exist_ok=True)  # the place for new runs of a copy without files
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))


def _place_of(uri: str) -> _Place | None:
    """In the worktree of a scheduled run, the file is a link to that of the repository, and so are its files there."""
    file = Path(os.path.normpath(uri.removeprefix(SQLITE)))
    if not uri.startswith(SQLITE) or file.is_absolute() or ".." in file.parts:
        return None
    database = file.resolve()
    return _Place(database, database.parents[len(file.parts) - 1] / FOLDER)


def _changes(connection: sqlite3.Connection, folder: Path, database: str) -> Iterator[tuple[tuple[str, str], str, str]]:
    """(table and column, present path, right path) of every path that is wrong."""
    for table, column in COLUMNS:
        found: list[tuple[str | None]] = []
        with suppress(sqlite3.OperationalError):  # stores of other versions lack some of them
            found = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
        for (stored,) in found:
            old = Path((stored or "").removeprefix("file://"))
            parts = old.parts
            if not old.is_absolute() or FOLDER not in parts:
                continue
            end = len(parts) - parts[::-1].index(FOLDER)
            before = Path(*parts[:end])
            new = folder.joinpath(*parts[end:])
            elsewhere = before.parent / database
            of_another = (table, column) == EXPERIMENTS and elsewhere.is_file()
            if before.resolve() != folder and (new.exists() or of_another):
                yield (table, column), str(stored), str(new)
