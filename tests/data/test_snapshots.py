"""Snapshots: named by content, appended without repeats, never changed, and taken from complete deliveries alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, SampleParams, SnapshotParams
from unigrec.data import snapshots
from unigrec.data.snapshots import (
    Snapshot,
    content_id,
    current_snapshot,
    is_known,
    next_snapshot,
    read_incoming,
    write_snapshot,
)
from unigrec.data.sources.load import load_source
from unigrec.data.sources.source import Source

INCOMING = Path("data/incoming")
PARAMS = SnapshotParams(incoming=str(INCOMING), source="folder", mode="append", start="cold")
INGEST = IngestParams(
    source="sample", path="anything", min_rating=0.0, sample=SampleParams(users=1, items=10, interactions=1)
)
FIRST = [("u", "a", 1), ("u", "b", 2), ("v", "a", 1)]
ITEMS = {"item_id": ["a", "b"], "title": ["A", None]}


@pytest.fixture(autouse=True)
def _empty_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def log_of(rows: list[tuple]) -> pa.Table:
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema)


def deliver(rows: list[tuple], items: dict) -> None:
    INCOMING.mkdir(parents=True, exist_ok=True)
    pq.write_table(log_of(rows), INCOMING / "interactions.parquet")
    pq.write_table(pa.table(items), INCOMING / "items.parquet")


def take(mode: str = "append") -> Snapshot:
    before = current_snapshot()
    arrived = read_incoming(PARAMS.model_copy(update={"mode": mode}), INGEST, first=before is None)
    now = next_snapshot(before, arrived, mode)
    write_snapshot(now, None)
    return now


def rows_of(snapshot: Snapshot) -> list[tuple]:
    return list(zip(*snapshot.interactions.to_pydict().values(), strict=True))


def test_a_delivery_is_appended_without_repeats_and_newer_item_rows_win():
    deliver(FIRST, ITEMS)
    first = take()
    deliver([("v", "b", 1), ("u", "b", 2), ("w", "c", 3), ("u", "b", 3)], {"item_id": ["c", "b"], "title": ["C", "B"]})
    second = take()
    assert rows_of(second) == [
        *[("u", "a", 1), ("u", "b", 2), ("u", "b", 3)],
        *[("v", "a", 1), ("v", "b", 1)],  # the one that was there first stays first
        ("w", "c", 3),
    ]
    assert second.items.to_pydict() == {"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]}
    lineage = second.lineage
    assert (lineage["parent"], lineage["added"]) == (first.id, {"interactions": 3, "repeated": 1})
    assert lineage["rows"] == {"interactions": 6, "items": 3, "users": 3}
    assert (lineage["time_range"], lineage["delivery"]["time_range"]) == ([1, 3], [1, 3])
    assert [file["name"] for file in lineage["delivery"]["files"]] == ["interactions.parquet", "items.parquet"]


@pytest.mark.parametrize("missing", ["items", "interactions"])
def test_a_later_delivery_of_one_table_keeps_the_other_one(missing):
    deliver(FIRST, ITEMS)
    first = take()
    deliver([("w", "a", 9)], {"item_id": ["b", "c"], "title": ["B", "C"]})
    (INCOMING / f"{missing}.parquet").unlink()
    second = take()
    if missing == "items":
        assert rows_of(second) == [*rows_of(first), ("w", "a", 9)]
        assert second.items.equals(first.items)
    else:
        assert rows_of(second) == rows_of(first)
        assert second.items.to_pydict() == {"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]}
    warning = f"the delivery holds no {missing}: those of the snapshot before are kept"
    assert second.lineage["delivery"]["warnings"] == [warning]
    with pytest.raises(UnigrecError, match=f"holds no {missing}.parquet"):
        take("replace")


def test_the_first_delivery_needs_both_tables():
    deliver(FIRST, ITEMS)
    (INCOMING / "items.parquet").unlink()
    with pytest.raises(UnigrecError, match=r"holds no items\.parquet"):
        take()


def test_the_same_content_is_the_same_snapshot_in_any_files_order_and_number_of_deliveries():
    deliver(FIRST, ITEMS)
    first = take()
    assert take().id == first.id
    INCOMING.joinpath("interactions.parquet").unlink()
    lines = [f"{item},{user},{time}" for user, item, time in reversed(FIRST)]
    INCOMING.joinpath("interactions.csv").write_text("\n".join(["item_id,user_id,timestamp", *lines]) + "\n")
    assert take("replace").id == first.id
    assert len(list(paths.SNAPSHOTS.iterdir())) == 1


def test_a_replaced_snapshot_is_the_delivery_alone_and_the_way_back_finds_the_old_folder():
    deliver(FIRST, ITEMS)
    first = take()
    lineage = (paths.CURRENT / paths.LINEAGE_FILE).read_bytes()
    deliver(FIRST[:1], ITEMS)
    assert rows_of(take("replace")) == FIRST[:1]
    deliver(FIRST, ITEMS)
    assert take("replace").id == first.id
    assert (paths.CURRENT / paths.LINEAGE_FILE).read_bytes() == lineage
    assert os.readlink(paths.CURRENT) == f"snapshots/{first.id}"


def test_every_value_counts_for_the_id_and_the_way_it_is_stored_does_not():
    log, items = log_of(FIRST), pa.table({"item_id": ["a", "b"], "title": ["ab", None]})
    same = pa.concat_tables([log_of([("t", "x", 0)]), log]).slice(1)  # an offset, and chunks
    assert content_id(same, items) == content_id(log, items)
    others = [
        (log_of([*FIRST[:2], ("v", "a", 2)]), items),
        (log_of(FIRST[:2]), items),
        (log, pa.table({"item_id": ["a", "b"], "title": ["ab", ""]})),
        (log, pa.table({"item_id": ["a", "ba"], "title": ["b", None]})),
        (log, pa.table({"item_id": ["a", "b"], "name": ["ab", None]})),
    ]
    assert len({content_id(*tables) for tables in [(log, items), *others]}) == 6


def test_known_interactions_agree_with_sets_nulls_too():
    before = [("u", "a", 1), ("u", "a", 2), ("v", None, 1), (None, "a", -5)]
    arrived = [("u", "a", 2), ("u", "b", 1), ("v", None, 1), ("v", "a", 1), (None, "a", -5), (None, "a", 5)]
    assert is_known(log_of(before), log_of(arrived)).tolist() == [row in before for row in arrived]


def test_what_ingest_reads_of_a_snapshot_is_its_tables_and_its_lineage():
    deliver(FIRST, ITEMS)
    taken = take()
    source = load_source(INGEST.model_copy(update={"source": "folder", "path": str(paths.CURRENT)}), seed=0)
    assert source.interactions.equals(taken.interactions.combine_chunks())
    assert source.provenance["snapshot"]["id"] == taken.id
    assert source.provenance["snapshot"] == json.loads((paths.CURRENT / paths.LINEAGE_FILE).read_text())


def test_unfinished_files_are_not_read(tmp_path):
    deliver(FIRST, ITEMS)
    for name in (".interactions.parquet.tmp", "interactions.parquet.crdownload", "_items.parquet"):
        (INCOMING / name).write_text("half")
    assert len(rows_of(take())) == 3
    (INCOMING / "interactions.parquet").unlink()
    parts = INCOMING / "interactions.parquet"
    parts.mkdir()
    pq.write_table(log_of(FIRST), parts / "part-0.parquet")
    (parts / ".staging").mkdir()
    pq.write_table(log_of([("half", "a", 1)]), parts / ".staging/part-1.parquet")
    assert take("replace").lineage["rows"]["users"] == 2
    (parts / "_temporary/0").mkdir(parents=True)
    with pytest.raises(UnigrecError, match="a job is still writing"):
        take()


@pytest.mark.parametrize("change", ["rewritten", "removed", "added"])
def test_a_delivery_that_changes_while_it_is_read_is_refused(change, monkeypatch):
    deliver(FIRST, ITEMS)

    def meanwhile(*arguments, **named) -> Source:
        source = load_source(*arguments, **named)
        if change == "rewritten":
            deliver(FIRST[:2], ITEMS)
        elif change == "removed":
            (INCOMING / "items.parquet").unlink()
        else:
            (INCOMING / "more.parquet").touch()
        return source

    monkeypatch.setattr(snapshots, "load_source", meanwhile)
    with pytest.raises(UnigrecError, match="changed while it was read"):
        take()
    assert not paths.CURRENT.exists()


@pytest.mark.parametrize(
    "name", [".next.csv.part", "next.csv.part", "interactions.parquet.crdownload", "_next.parquet", ".next/items.csv"]
)
def test_the_next_delivery_under_a_temporary_name_does_not_disturb_this_one(name, monkeypatch):
    deliver(FIRST, ITEMS)

    def meanwhile(*arguments, **named) -> Source:
        source = load_source(*arguments, **named)
        (INCOMING / name).parent.mkdir(exist_ok=True)
        (INCOMING / name).write_text("half")
        return source

    monkeypatch.setattr(snapshots, "load_source", meanwhile)
    assert rows_of(take()) == FIRST


def test_a_change_of_files_that_a_source_knows_by_name_alone_is_seen(monkeypatch):
    INCOMING.mkdir(parents=True)
    (INCOMING / "ratings.dat").write_text("1::10::5::7\n")
    (INCOMING / "movies.dat").write_text("10::Heat (1995)::Crime\n")

    def meanwhile(*arguments, **named) -> Source:
        source = load_source(*arguments, **named)
        (INCOMING / "ratings.dat").write_text("1::10::5::7\n2::10::5::8\n")
        return source

    monkeypatch.setattr(snapshots, "load_source", meanwhile)
    with pytest.raises(UnigrecError, match=r"ratings\.dat: changed while it was read"):
        read_incoming(PARAMS.model_copy(update={"source": "movielens"}), INGEST)


def test_a_damaged_snapshot_or_a_folder_in_its_place_is_refused():
    deliver(FIRST, ITEMS)
    taken = take()
    file = paths.SNAPSHOTS / taken.id / "items.parquet"
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": ["A", "changed"]}), file)
    with pytest.raises(UnigrecError, match=r"items\.parquet: missing, or not what"):
        current_snapshot()
    paths.CURRENT.unlink()
    paths.CURRENT.mkdir()
    with pytest.raises(UnigrecError, match="should be a link"):
        current_snapshot()


def test_a_full_disk_leaves_current_as_it_was(monkeypatch):
    deliver(FIRST, ITEMS)
    first = take()
    deliver([*FIRST, ("w", "a", 9)], ITEMS)

    def full(*_):
        raise UnigrecError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_table", full)
        with pytest.raises(UnigrecError, match="no space left"):
            take()
    assert current_snapshot().id == first.id
    assert [folder.name for folder in paths.SNAPSHOTS.iterdir()] == [first.id]


def test_a_delivery_that_is_not_there_is_named_by_its_own_setting():
    with pytest.raises(UnigrecError, match=r"data/incoming: no such folder \(snapshot\.incoming\)"):
        read_incoming(PARAMS, INGEST)


def test_served_columns_go_through_snapshots(tmp_path):
    """A later delivery brings one item at another price; its other items keep theirs."""

    def taken(rows: list[tuple], items: dict) -> Snapshot:
        deliver(rows, items)
        before = current_snapshot()
        arrived = read_incoming(PARAMS, INGEST, (), {"price": None, "since": None}, first=before is None)
        now = next_snapshot(before, arrived, "append")
        write_snapshot(now, None)
        return now

    day = pa.array([0, 86_400], pa.timestamp("s"))
    first = taken(FIRST, {**ITEMS, "price": [1.5, 2.0], "since": day})
    assert taken(FIRST, {**ITEMS, "price": [1.5, 2.0], "since": day}).id == first.id
    second = taken([("v", "b", 9)], {"item_id": ["b"], "title": ["B"], "price": [3.0], "since": day[:1]})
    assert second.id != first.id
    ingest = INGEST.model_copy(update={"source": "folder", "path": str(paths.CURRENT)})
    served = load_source(ingest, 0, (), {"price": None}).served
    assert served.to_pylist() == [{"item_id": "a", "price": 1.5}, {"item_id": "b", "price": 3.0}]
    with pytest.raises(
        UnigrecError, match=r"was taken without colour \(it keeps: price, since\); deliver the items again"
    ):
        load_source(ingest, 0, (), {"colour": None})
    (INCOMING / "items.parquet").unlink()
    pq.write_table(log_of([("v", "a", 12)]), INCOMING / "interactions.parquet")
    arrived = read_incoming(PARAMS, INGEST, (), {"price": None, "since": None}, first=False)
    assert next_snapshot(current_snapshot(), arrived, "append").served.num_rows == 2
