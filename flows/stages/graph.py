"""Reads from DVC the order of the stages and which are out of date. The flow itself knows no edges."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import networkx as nx
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo

from flows.stages.dvc_state import DAMAGED_LOCK, forget_dead_holders, put_lock_file_aside, put_lock_file_back
from unigrec.base.errors import BusyError, UnigrecError
from unigrec.base.git import DVC_LOCK

WRITING_SECONDS = 1.0  # DVC needs a tenth of this to write its lock file


class Graph(NamedTuple):
    """The stages, ordered so that each comes after the stages it depends on."""

    order: list[str]
    downstream: dict[str, set[str]]  # all stages that depend on a stage, directly or not
    stale: set[str]  # stages that DVC would run or check out now; stages downstream may follow


def read_graph(root: str = ".") -> Graph:
    """Ask DVC for the graph, after repairing what a killed DVC left.

    Raises:
        BusyError: another DVC command is at work in the folder.
        UnigrecError: the folder holds no DVC project, or dvc.yaml is broken.
    """
    forget_dead_holders(root)
    try:
        return _ask(root)
    except LockError as error:
        raise BusyError(f"another DVC command is at work in {root}: wait for it, or stop it") from error
    except Exception as error:  # a broken file makes DVC raise errors of many kinds
        reason = error
    # Wait: another DVC may be writing dvc.lock at this moment. Then try without the file.
    time.sleep(WRITING_SECONDS)
    put_aside = put_lock_file_aside(root)
    try:
        graph = _ask(root)
    except Exception:  # the lock file was not the cause
        if put_aside:
            put_lock_file_back(root)
        raise UnigrecError(f"DVC cannot read the pipeline in {root}: {reason}") from reason
    if put_aside:
        print(f"{DVC_LOCK} is damaged: kept as {DAMAGED_LOCK}, and made again from DVC's cache", flush=True)
    return graph


def _ask(root: str) -> Graph:
    with Repo(root) as repo:
        edges = repo.index.graph  # from a stage to what it depends on
        order = [stage.addressing for stage in nx.dfs_postorder_nodes(edges)]
        downstream = {stage.addressing: {below.addressing for below in nx.ancestors(edges, stage)} for stage in edges}
        return Graph(order, downstream, set(repo.status()))


def cache_folder(root: str = ".") -> Path:
    """The absolute folder of the project's cache of outputs and runs (`cache.dir`). Raises UnigrecError."""
    try:
        with Repo(root) as repo:
            return Path(repo.cache.local_cache_dir).absolute()
    except DvcException as error:
        raise UnigrecError(f"DVC cannot open the project in {root}: {error}") from error
