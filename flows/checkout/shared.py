"""Links what the worktree of a scheduled run shares with the repository. Everything else in it is the run's own.

Shared: DVC's cache, data/ (but `current` stays as it was when the run began), MLflow's SQLite file, bundles,
comparisons, reports, audit and the lock of promotions. The run's own: artifacts/, dvc.lock, params.yaml, the lock of
its folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from configobj import ConfigObj

from flows.checkout.worktree import CHECKPOINTS
from flows.stages.graph import cache_folder
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.git import PARAMS
from unigrec.config.read import read_mapping
from unigrec.data.sources.sql import attached_file
from unigrec.registry.moved_project import SQLITE

DATA = paths.CURRENT.parent
FOLDERS = (paths.BUNDLES, paths.COMPARISONS, paths.REPORTS, paths.REFERENCE.parent)
FILES = (paths.AUDIT, paths.PROMOTION_LOCK)  # never replaced, only appended to or locked, so a link stays a link


def share_state(root: Path, tree: Path) -> None:
    """Let the worktree use the repository's DVC cache and state. Raises UnigrecError without a DVC project."""
    _configure_dvc(tree, cache_folder(str(root)))
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
        _link(tree / folder, root / folder)
    for file in FILES:
        _link(tree / file, root / file)
    (root / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    _link(tree / paths.CHECKPOINTS, root / CHECKPOINTS)


def share_data(root: Path, tree: Path) -> None:
    """Link everything in data/. `current` keeps pointing to today's snapshot until the next call."""
    if not (root / DATA).is_dir():
        return
    for entry in (root / DATA).iterdir():
        if entry.name != paths.CURRENT.name:
            _link(tree / DATA / entry.name, entry)
    if (root / paths.CURRENT).is_symlink():
        target = (root / paths.CURRENT).resolve()
        with files.atomic_path(tree / paths.CURRENT) as temporary:
            temporary.symlink_to(target)


def share_named(root: Path, tree: Path, tracking_uri: str | None) -> None:
    """Link the paths that the worktree's params name but git does not hold, and MLflow's SQLite file.

    Raises:
        UnigrecError: a relative path leads out of the repository; from the worktree it would lead elsewhere.
    """
    params = read_params(tree)
    named = {f"{section}.path": params.get(section, {}).get("path") for section in ("ingest", "warm_start")}
    named |= {f"ingest.sql.attach: {name}": path for name, path in _attached_files(params).items()}
    embed = params.get("embed", {})
    named |= {"embed.model": embed.get("model")}
    named |= {f"embed.modalities: {path}": path for path in embed.get("modalities") or ()}
    for key, path in named.items():
        share_path(root, tree, key, path=path)
    uri = tracking_uri or params.get("register", {}).get("tracking_uri") or ""
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_absolute():
        _link(tree / uri.removeprefix(SQLITE), root / uri.removeprefix(SQLITE))


def share_path(root: Path, tree: Path, key: str, path: str | None) -> None:
    """Link one path, unless the worktree has it. key: names the param in errors. Raises as `share_named`."""
    if not path or Path(path).is_absolute():
        return
    if Path(os.path.normpath(path)).parts[:1] == ("..",):
        raise UnigrecError(
            f"{key} is {path}: relative, and outside of {root}; a scheduled run works in another folder: name it "
            f"absolutely, {Path(os.path.normpath(root / path))}"
        )
    if (root / path).exists():
        _link(tree / path, root / path)


def read_params(tree: Path) -> dict[str, Any]:
    """The worktree's params as plain values, because only its own code knows their schema. Raises UnigrecError."""
    return read_mapping(tree / PARAMS)


def _attached_files(params: dict[str, Any]) -> dict[str, str]:
    """Files of `ingest.sql.attach` by name; the other addresses are those of servers."""
    attached = (params.get("ingest", {}).get("sql") or {}).get("attach") or {}
    found = {name: attached_file(address) for name, address in attached.items()}
    return {name: str(path) for name, path in found.items() if path is not None}


def _configure_dvc(tree: Path, cache: Path) -> None:
    """Write where the cache is, in DVC's own format, which quotes a path with # or a comma.

    DVC itself writes no letters but ASCII.
    """
    settings = ConfigObj(encoding="utf-8", interpolation=False)
    settings["core"] = {"no_scm": "true"}  # DVC needs nothing from git here, and would stage files
    settings["cache"] = {"dir": str(cache)}
    (tree / ".dvc").mkdir(exist_ok=True)
    with (tree / ".dvc/config.local").open("wb") as file:
        settings.write(file)


def _link(place: Path, target: Path) -> None:
    """Make a link, unless the place is taken."""
    if not os.path.lexists(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
