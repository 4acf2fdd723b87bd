"""A tiny bundle and a log of users, some of whom it does not know."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from support.project import PARAMS_FILE
from support.tiny_model import bundle_in, item_ids
from unigrec.base import files
from unigrec.config.read import load_params
from unigrec.config.schema import IngestParams
from unigrec.scoring.local import Job
from unigrec.serving.bundle import Bundle
from unigrec.serving.schema import ListRequest

USERS = 60


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Bundle:
    return Bundle.load(bundle_in(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="session")
def ingest() -> IngestParams:
    return load_params(Path(PARAMS_FILE)).ingest


@pytest.fixture(scope="session")
def histories() -> dict[str, list[str]]:
    """The history of each user. Every tenth knows an item that is gone, and one user nothing else."""
    items = item_ids()
    found = {
        f"u{user}": [items[(user + 3 * step) % len(items)] for step in range(1 + user % 7)] for user in range(USERS)
    }
    return found | {name: [*own, "gone"] for name, own in list(found.items())[::10]} | {"new": ["gone", "gone too"]}


@pytest.fixture
def log(tmp_path, histories) -> Path:
    """The histories as interactions, step by step of all users, newest first."""
    rows = [
        {"user_id": user, "item_id": item, "timestamp": step}
        for user, own in histories.items()
        for step, item in enumerate(own)
    ]
    files.write_table(tmp_path / "log.parquet", pa.Table.from_pylist(sorted(rows, key=lambda row: -row["timestamp"])))
    return tmp_path / "log.parquet"


@pytest.fixture
def job(tmp_path, bundle, ingest, log) -> Job:
    return Job(bundle, "version 7", ListRequest(k=3), log, ingest, tmp_path / "out" / "lists.parquet")
