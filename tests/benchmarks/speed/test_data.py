"""Tests of the part data of the speed benchmark: pandas does the same work as the stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from benchmarks.speed.data import PANDAS, SOURCE, pandas_prepare, write_source

from unigrec.base import files
from unigrec.base.paths import Artifacts
from unigrec.config.schema import PrepareParams
from unigrec.data.prepare import prepare_tables


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with the outputs of ingest."""
    folder: Path = tmp_path_factory.mktemp("project")
    (folder / SOURCE).mkdir()
    write_source(str(folder / SOURCE), 6_000)
    (folder / Artifacts().interactions).parent.mkdir(parents=True)
    for name in (Artifacts().interactions, Artifacts().items):
        (folder / SOURCE / name.name).rename(folder / name)
    return folder


def test_pandas_finds_the_same_sequences_and_counts(project: Path):
    pandas_prepare(str(project))
    theirs = {name: pq.read_table(project / PANDAS / f"{name}.parquet") for name in ("sequences", "users", "items")}
    params = PrepareParams(k_core=5, ties="given", max_user_interactions=0, min_users_after=1, min_items_after=1)
    ours = prepare_tables(
        files.read_table(project / Artifacts().interactions), files.read_table(project / Artifacts().items), params
    )
    assert len(ours.stats["k_core_rounds"]) > 1
    assert theirs["sequences"]["item_index"].to_pylist() == ours.sequences["items"].tolist()
    assert theirs["sequences"]["timestamp"].to_pylist() == ours.sequences["timestamps"].tolist()
    assert theirs["users"]["user_id"].to_pylist() == ours.users["user_id"].to_pylist()
    for column in ("item_id", "title", "train_count"):
        assert theirs["items"][column].to_pylist() == ours.catalogue[column].to_pylist()
    lengths = np.diff(ours.sequences["offsets"])
    assert theirs["sequences"]["split"].to_pylist().count("test") == len(lengths)


def test_generated_interactions_have_long_tails(project: Path):
    items = pq.read_table(project / Artifacts().interactions)["item_id"].to_pandas().value_counts()
    assert items.iloc[: len(items) // 10].sum() > 0.3 * items.sum()
