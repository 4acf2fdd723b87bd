"""What dvc.yaml says: the order of the stages, and which are out of date. The flow holds no edges of its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import networkx as nx
from dvc.exceptions import DvcException
from dvc.repo import Repo

from unigrec.errors import UnigrecError


class Graph(NamedTuple):
    """The stages in an order in which each comes after what it depends on."""

    order: list[str]
    downstream: dict[str, set[str]]  # all stages that depend on a stage, directly or not
    stale: set[str]  # stages that DVC would run or check out now; those below them may follow


def read_graph(root: str = ".") -> Graph:
    """Ask DVC. Raises UnigrecError when the folder holds no DVC project or dvc.yaml is broken."""
    try:
        with Repo(root) as repo:
            edges = repo.index.graph  # from a stage to what it depends on
            order = [stage.addressing for stage in nx.dfs_postorder_nodes(edges)]
            downstream = {
                stage.addressing: {below.addressing for below in nx.ancestors(edges, stage)} for stage in edges
            }
            return Graph(order, downstream, set(repo.status()))
    except DvcException as error:
        raise UnigrecError(f"DVC cannot read the pipeline in {root}: {error}") from error


def cache_folder(root: str = ".") -> Path:
    """The cache of this project, of outputs and runs, as `cache.dir` names it; absolute. Raises UnigrecError."""
    try:
        with Repo(root) as repo:
            return Path(repo.cache.local_cache_dir).absolute()
    except DvcException as error:
        raise UnigrecError(f"DVC cannot open the project in {root}: {error}") from error
