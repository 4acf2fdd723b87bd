"""Interactions read a batch of rows at a time: the rows of `read_interactions`, and what cannot be read so."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from support.project import PARAMS_FILE
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.config.read import load_params
from unigrec.data.sources.folder import interaction_batches, read_interactions

PARAMS = load_params(Path(PARAMS_FILE)).ingest
ROWS = {"user_id": [1, 2, 3, None, 5] * 4, "item_id": ["a", "b", "", "d", "e"] * 4, "timestamp": range(20)}


def in_batches(path: Path, rows: int = 3, **changes) -> tuple[pa.Table, list[str]]:
    notes: list[str] = []
    read = list(interaction_batches(path, PARAMS.model_copy(update=changes), rows, notes))
    assert all(table.num_rows <= rows for table in read) or path.suffix != ".parquet"
    return pa.concat_tables(read), notes


@pytest.mark.parametrize("unit", [1, 1000])
def test_the_rows_of_batches_are_those_of_the_file(tmp_path, unit):
    times = [1_700_000_000 * unit + unit * row for row in ROWS["timestamp"]]
    for name, part in (("p-1", slice(0, 12)), ("p-2", slice(12, 20))):
        columns = {key: list(values)[part] for key, values in (ROWS | {"timestamp": times}).items()}
        files.write_table(tmp_path / f"log/{name}.parquet", pa.table(columns))
    whole, notes = read_interactions(tmp_path / "log", PARAMS)
    found, told = in_batches(tmp_path / "log")
    assert found.equals(whole)
    assert len(told) == len(notes) == (unit > 1)
    condition = {"where": "item_id = 'a' AND timestamp > 0"}
    chosen, _ = read_interactions(tmp_path / "log", PARAMS.model_copy(update=condition))
    assert in_batches(tmp_path / "log", **condition)[0].equals(chosen)


def test_a_column_that_a_folder_names_is_there(tmp_path):
    for item in "ab":
        files.write_table(tmp_path / f"item_id={item}/p.parquet", pa.table({"user_id": ["u"], "timestamp": [1]}))
    assert in_batches(tmp_path)[0]["item_id"].to_pylist() == ["a", "b"]


def test_text_comes_a_file_at_a_time(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "u,a,1\n" * 5)
    assert in_batches(tmp_path / "log.csv")[0].num_rows == 5


def test_what_cannot_be_read_is_an_error(tmp_path):
    times = [1_700_000_000, 1_700_000_001, 1_700_000_000_000, 1_700_000_000_001]
    files.write_table(
        tmp_path / "units.parquet", pa.table({"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": times})
    )
    with pytest.raises(
        UnigrecError,
        match=r"read otherwise than the ones before \(holds milliseconds: .*; before: taken as unix seconds\)",
    ):
        in_batches(tmp_path / "units.parquet", rows=2)
    files.write_table(tmp_path / "log/1.parquet", pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}))
    files.write_table(tmp_path / "log/2.parquet", pa.table({"user_id": ["u"], "item_id": [1], "timestamp": [1]}))
    with pytest.raises(UnigrecError, match="the parts differ in their columns: item_id is int64 and string"):
        in_batches(tmp_path / "log")
    files.write_table(
        tmp_path / "none.parquet",
        pa.table(
            {"user_id": pa.array([], pa.string())} | dict.fromkeys(("item_id", "timestamp"), pa.array([], pa.int64()))
        ),
    )
    with pytest.raises(UnigrecError, match="has a header but no rows"):
        in_batches(tmp_path / "none.parquet")
    with pytest.raises(UnigrecError, match=r"none of 4 rows is left by ingest\.where"):
        in_batches(tmp_path / "units.parquet", where="item_id = 'x'")
