"""What `data/prepare.py` does, on Spark: the same result, row for row, from a log that need not fit into memory.

Spark does what moves rows: duplicates, the latest of each user, the rounds of the k-core that remove many, the order.
Each step is written as Parquet and read again, so that no plan is longer than a step, and a lost executor costs its
tasks alone. The sorted rows then stream to the driver, which keeps integers: 16 bytes per interaction, 24 with event
types. From there on both engines run the same code (`finish`).

Legend: n interactions, N items.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import PrepareParams
from unigrec.data.partitions import Partition, partitions_of
from unigrec.data.prepare import (
    REQUIRED,
    Done,
    InteractionLog,
    Prepared,
    check_items,
    event_types,
    finish,
    hashes,
    mixed,
    refuse_nulls,
)
from unigrec.data.warning_signs import MAX_NULL_WORD_SHARE, null_texts, null_words

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

LAST_ROUNDS = 0.01  # share of the rows: once a round of the k-core removes no more, the driver does the others
ROWS_AT_ONCE = 1_000_000  # that the driver reads
SCHEMA = "user_id string, item_id string, timestamp bigint"
TIE = "tie bigint"


def prepare_dataset(
    session: SparkSession,
    interactions: Path,
    items: pa.Table,
    params: PrepareParams,
    events: Mapping[str, float] | None = None,
    *,
    scratch: Path,
    last_rounds: float = LAST_ROUNDS,
) -> Prepared:
    """As `prepare_tables`, for interactions in a file or a folder of Parquet files.

    Args:
        interactions: columns as in `prepare_tables`; executors find it, and `scratch`, at the same path.
        scratch: a folder for what is written between the steps, removed at the end; it holds two steps at a time.
        last_rounds: share of the rows; 0: Spark does all rounds of the k-core.

    Raises:
        UnigrecError: as `prepare_tables` and `partitions_of`; or Spark failed.
    """
    parts = partitions_of(interactions, bool(events))
    rows = sum(part.rows for part in parts)
    with _scratch(scratch) as folder, _spark_errors():
        log = _read(session, interactions, parts, bool(events))
        steps = _Steps(session, folder)
        nulls = log.select([_nulls(name) for name in REQUIRED]).first().asDict()
        refuse_nulls("interactions", rows, nulls)
        item_ids, of_item = _items_of(log)
        check_items(items, item_ids, of_item)
        users = _users_of(log, rows)
        warnings = [
            *null_words("user_id", *users.frequent, total=rows),
            *null_words("item_id", item_ids, of_item),
            *null_texts(items),
        ]
        log, left = steps.written("distinct", _distinct(log, params.ties == "shuffled"))
        duplicates, capped = rows - left, 0
        if params.max_user_interactions:
            log, latest = steps.written("latest", _latest(log, params.max_user_interactions))
            capped, left = left - latest, latest
        rounds: list[int] = []
        while params.k_core > 1 and left:
            log, after = steps.written(f"round-{len(rounds)}", _one_round(log, params.k_core))
            removed, left = left - after, after
            rounds += [removed] if removed else []
            if removed <= last_rounds * (left + removed):
                break
        steps.written("sorted", log.orderBy(*_order(log)).drop("position", "tie"))
        indexed, user_ids = _collect(steps.files(), left, item_ids, events)
    before = {"users": users.number, "items": len(item_ids), "interactions": rows}
    done = Done(before, duplicates, capped, rounds, warnings)
    return finish(indexed, user_ids, item_ids, done, items=items, params=params, events=events)


class _Users(NamedTuple):
    number: int
    frequent: tuple[pa.Array, np.ndarray]  # ids with a large share of the rows, in byte order, and their rows


class _Steps:
    """Writes the frame of a step to its own folder and reads it again; the folder of the step before goes away."""

    def __init__(self, session: SparkSession, folder: Path):
        self.session, self.folder, self.before = session, folder, ""

    def written(self, name: str, frame: DataFrame) -> tuple[DataFrame, int]:
        """The frame, read from its files, and its number of rows."""
        frame.write.parquet(_uri(self.folder / name))
        if self.before:
            shutil.rmtree(self.folder / self.before)
        self.before = name
        rows = sum(pq.read_metadata(file).num_rows for file in self.files())
        return self.session.read.schema(frame.schema).parquet(_uri(self.folder / name)), rows

    def files(self) -> list[Path]:
        """Files of the last step, in the order of its partitions."""
        return sorted((self.folder / self.before).glob("part-*.parquet"))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="prepare-", dir=folder))
    own.chmod(0o755)  # executors may run as another user
    try:
        yield own.resolve()
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def _spark_errors() -> Iterator[None]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        lines = [line.strip(": ") for line in str(error).splitlines() if line.strip()]
        told = lines[1:2] if lines and lines[0].startswith("An error occurred while calling") else lines[:1]
        told += [line for line in lines if line.startswith("Caused by")][-1:]
        raise UnigrecError(
            f"prepare: Spark failed, and nothing was written: {'; '.join(told) or type(error).__name__}"
        ) from error


def _uri(path: Path) -> str:
    """As Spark reads a path: as text with wildcards, which names may hold too."""
    return "file://" + re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path.resolve()))


def _read(session: SparkSession, path: Path, parts: list[Partition], with_events: bool) -> DataFrame:
    """The columns of the log, and `position` bigint: the place of the row among all, in the order of the partitions."""
    from pyspark.sql import functions as sql

    reader = session.read.schema(SCHEMA + (", event string" if with_events else ""))
    reader = reader.option("recursiveFileLookup", "true").option("parquet.page.verify-checksum.enabled", "true")
    frame = reader.parquet(_uri(path))
    found = frame.groupBy(sql.col("_metadata.file_path").alias("file")).count().collect()
    rows_of = {unquote(urlsplit(row["file"]).path): row["count"] for row in found}
    before, at = {}, 0
    for part in parts:
        name = str(part.path.resolve())
        if rows_of.get(name, 0) != part.rows:
            raise UnigrecError(
                f"{part.path}: {part.rows:,} rows at first, then {rows_of.get(name, 0):,}: it was changed"
            )
        before[name], at = at, at + part.rows
    places = [(row["file"], before[unquote(urlsplit(row["file"]).path)]) for row in found]
    first = session.createDataFrame(places, "file string, first bigint")
    log = frame.select("*", sql.col("_metadata.file_path").alias("file"), sql.col("_metadata.row_index").alias("row"))
    log = log.join(sql.broadcast(first), "file")
    return log.withColumn("position", sql.col("first") + sql.col("row")).drop("file", "first", "row")


def _nulls(name: str) -> Column:
    from pyspark.sql import functions as sql

    return sql.count_if(sql.col(name).isNull()).alias(name)


def _items_of(log: DataFrame) -> tuple[pa.Array, np.ndarray]:
    """Distinct items in byte order, and the rows of each: (N,)."""
    counted = log.groupBy("item_id").count().toArrow()
    order = pc.sort_indices(counted["item_id"])
    counted = counted.take(order).combine_chunks()
    return counted["item_id"].combine_chunks(), counted["count"].to_numpy()


def _users_of(log: DataFrame, rows: int) -> _Users:
    from pyspark.sql import functions as sql

    is_frequent = sql.col("count") >= MAX_NULL_WORD_SHARE / 2 * rows  # half: no quarrel about the last bit
    frequent = sql.collect_list(sql.when(is_frequent, sql.struct("user_id", "count")))
    counted = log.groupBy("user_id").count()
    found = counted.agg(sql.count("*").alias("users"), frequent.alias("frequent")).first()
    pairs = sorted((row["user_id"].encode(), row["count"]) for row in found["frequent"])
    ids = pa.array([name.decode() for name, _ in pairs], pa.string())
    return _Users(found["users"], (ids, np.array([count for _, count in pairs], np.int64)))


def _distinct(log: DataFrame, shuffled: bool) -> DataFrame:
    """The first of rows equal in user, item, time and event; with `tie`, if equal times are shuffled."""
    from pyspark.sql import functions as sql

    keys = [name for name in log.columns if name != "position"]
    distinct = log.groupBy(*keys).agg(sql.min("position").alias("position"))
    if not shuffled:
        return distinct
    schema = ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in distinct.schema.fields)
    return distinct.mapInArrow(_with_ties, f"{schema}, {TIE}")


def _with_ties(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What a Python worker does: add the hash that decides the order of equal times."""
    for batch in batches:
        ties = mixed(hashes(batch["user_id"]), hashes(batch["item_id"]))
        signed = (ties ^ np.uint64(1 << 63)).view(np.int64)  # the same order as a signed number, which Spark has alone
        yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(signed)], names=[*batch.schema.names, "tie"])


def _order(log: DataFrame) -> list[str]:
    return ["user_id", "timestamp", *(["tie"] if "tie" in log.columns else []), "position"]


def _latest(log: DataFrame, maximum: int) -> DataFrame:
    from pyspark.sql import functions as sql
    from pyspark.sql.window import Window

    newest_first = Window.partitionBy("user_id").orderBy(*[sql.col(name).desc() for name in _order(log)[1:]])
    ranked = log.withColumn("back", sql.row_number().over(newest_first))
    return ranked.where(sql.col("back") <= maximum).drop("back")


def _one_round(log: DataFrame, k: int) -> DataFrame:
    """Without the rows whose user or item has fewer than `k` rows."""
    from pyspark.sql import functions as sql

    def rare(name: str) -> DataFrame:
        return log.groupBy(name).count().where(sql.col("count") < k).select(name)

    return log.join(rare("user_id"), "user_id", "left_anti").join(rare("item_id"), "item_id", "left_anti")


def _collect(
    paths: list[Path], rows: int, item_ids: pa.Array, events: Mapping[str, float] | None
) -> tuple[InteractionLog, pa.Array]:
    """Read sorted rows into integers, one batch at a time. Returns the log and the users' ids in byte order."""
    users, items = np.empty(rows, np.int32), np.empty(rows, np.int32)
    times, types = np.empty(rows, np.int64), np.empty(rows, np.int64) if events else None
    at, chunks, count, last = 0, [], 0, None
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                place = slice(at, at := at + batch.num_rows)
                runs = pc.run_end_encode(batch["user_id"])
                ids = runs.values
                if ids[0].as_py() == last:  # the user began in the batch before
                    ids, count = ids[1:], count - 1
                lengths = np.diff(runs.run_ends.to_numpy(), prepend=0)
                users[place] = np.repeat(np.arange(count, count + len(lengths)), lengths)
                count, last = count + len(lengths), runs.values[-1].as_py()
                chunks.append(ids)
                known = batch["item_id"].dictionary_encode()
                of_known = pc.index_in(known.dictionary, value_set=item_ids).to_numpy()
                items[place] = of_known[known.indices.to_numpy()]
                times[place] = batch["timestamp"].to_numpy()
                if types is not None and events:
                    types[place] = event_types(batch["event"], events)
    user_ids = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
    return InteractionLog(users, items, times, types), user_ids
