"""Watches aliases of the registry: `python -m unigrec.service.watch`, started by the service.

MLflow lives in this process alone. The first line of standard input holds what to watch; each further one names a model
whose files are to be fetched again. Each line of standard output is an `Event`: the version that an alias points to
now, with its files in a folder of its own, or what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from unigrec.base.errors import UnigrecError
from unigrec.base.masking import masked
from unigrec.base.process import die_with_parent, keep_quiet
from unigrec.config.schema import RegisterParams


class Watched(BaseModel):
    """What to watch. models: aliases or version numbers. scratch: for the files of versions."""

    register_params: RegisterParams
    models: tuple[str, ...]
    scratch: Path
    seconds: float


class Version(BaseModel):
    """A model that is to answer. label: its number, or the folder's name. since: when the alias moved to it."""

    label: str
    folder: Path
    since: str | None = None
    why: str | None = None


class Event(BaseModel):
    """A version of a watched model, or a problem; neither of them: the problem before is over."""

    model: str
    version: Version | None = None
    problem: str | None = None


def main() -> None:
    """Watch until the service ends."""
    keep_quiet()
    die_with_parent()
    watched = Watched.model_validate_json(sys.stdin.readline())
    said = {model: Event(model=model) for model in watched.models}
    known: dict[str, Version] = {}
    while True:
        for model in watched.models:
            event = look(watched, model, known.get(model))
            if event.version is not None:
                known[model] = event.version
            if event != said[model]:
                print(event.model_dump_json(), flush=True)
            said[model] = Event(model=model, problem=event.problem)
        for model in _asked_again(watched.seconds):
            known.pop(model, None)


def _asked_again(seconds: float) -> list[str]:
    """Models that the service names within a time. Ends the process if the service has ended."""
    deadline = time.monotonic() + seconds
    found: list[str] = []
    while (left := deadline - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            lines = os.read(sys.stdin.fileno(), 1 << 16)
            if not lines:
                sys.exit()
            found += lines.decode().split("\n")
    return found


def look(watched: Watched, model: str, known: Version | None) -> Event:
    """The version that the alias points to, unless it is known; its files are fetched if it is another one.

    A promotion moves the alias first and says when and why afterwards: then the version comes again, with both.
    """
    from unigrec.registry.tracking import mlflow_client
    from unigrec.registry.versions import named_version

    try:
        with mlflow_client(watched.register_params) as client:
            found = named_version(client, watched.register_params.model_name, model)
        label = str(found.version)
        is_known = known is not None and known.label == label
        folder = known.folder if known is not None and is_known else _fetched(watched, label)
        version = Version(label=label, folder=folder, **_since(found.tags))
        return Event(model=model, version=None if version == known else version)
    except UnigrecError as error:
        return Event(model=model, problem=masked(str(error)))


def _fetched(watched: Watched, label: str) -> Path:
    """The files of a version, in a folder of its own, which the service removes with the version."""
    from unigrec.registry.versions import locate

    scratch = watched.scratch / f"version-{label}-{time.monotonic_ns()}"
    scratch.mkdir()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a library must not write between our lines
            return locate(watched.register_params, label, scratch).folder.absolute()
    except UnigrecError:
        shutil.rmtree(scratch)
        raise


def _since(tags: dict[str, str]) -> dict[str, str | None]:
    """When and why a promotion made the version what it is."""
    from unigrec.promotion.champion import CHANGE_TAG

    when, why = (tags.get(f"{CHANGE_TAG}{name}") for name in ("when", "why"))
    return {"since": when, "why": why}


if __name__ == "__main__":
    main()
