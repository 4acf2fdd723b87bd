"""What `data/prepare.py` does, on Spark: the same result, row for row, from a log that need not fit into memory.

Spark counts the items and sorts the rows, by user, time and place in the log. The sorted rows then stream to the
driver, which keeps integers (sorted_rows.py): 16 bytes per interaction, 24 with event types. From there on both
engines run the same code. Of a log with more rows than the driver takes, Spark first removes duplicates and what the
first rounds of the k-core remove. Each step is written as Parquet and read again, so that no plan is longer than a
step, and a lost executor costs its tasks alone.

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
    finish,
    hashes,
    keep_latest,
    mixed,
    refuse_nulls,
    unknown_items,
)
from unigrec.data.spark.sorted_rows import collect
from unigrec.data.warning_signs import MAX_NULL_WORD_SHARE, null_texts, null_words

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DRIVER_ROWS = 300_000_000  # of which the driver holds the integers: 5 GB
LAST_ROUNDS = 0.01  # share of the rows: once a round of the k-core removes no more, the driver does the others
SCHEMA = "user_id string, item_id string, timestamp bigint"
TIE = "tie bigint"


class Gathered(NamedTuple):
    """What Spark's part ends with: arguments of `prepare.finish`."""

    log: InteractionLog
    user_ids: pa.Array
    item_ids: pa.Array
    done: Done


def prepare_dataset(
    session: SparkSession,
    interactions: Path,
    items: pa.Table,
    params: PrepareParams,
    events: Mapping[str, float] | None = None,
    *,
    scratch: Path,
    max_unknown: float = 0.0,
    driver_rows: int = DRIVER_ROWS,
) -> Prepared:
    """As `prepare_tables`, for interactions in a file or a folder of Parquet files. Arguments, errors: as `gather`."""
    gathered = gather(
        session, interactions, items, params, events, scratch=scratch, max_unknown=max_unknown, driver_rows=driver_rows
    )
    return finish(*gathered, items=items, params=params, events=events)


def gather(
    session: SparkSession,
    interactions: Path,
    items: pa.Table,
    params: PrepareParams,
    events: Mapping[str, float] | None = None,
    *,
    scratch: Path,
    max_unknown: float = 0.0,
    driver_rows: int = DRIVER_ROWS,
) -> Gathered:
    """What needs the session; `finish` does the rest without it, when Java's memory may be free again.

    Args:
        interactions: columns as in `prepare_tables`; executors find it, and `scratch`, at the same path.
        scratch: a folder for what is written between the steps, removed at the end; it holds two steps at a time.
        max_unknown: as in `prepare_tables`.
        driver_rows: of more rows, Spark removes duplicates and what the first rounds of the k-core remove.

    Raises:
        UnigrecError: as `prepare_tables` and `partitions_of`; or Spark failed.
    """
    parts = partitions_of(interactions, bool(events))
    rows = sum(part.rows for part in parts)
    with scratch_folder(scratch) as folder, spark_errors("prepare"):
        log = read_log(session, interactions, parts, bool(events))
        steps = Steps(session, folder)
        item_ids, of_item, nulls = items_of(log)
        if (found := int(of_item.sum()) + nulls["item_id"]) != rows:
            raise UnigrecError(f"{interactions}: {rows:,} rows at first, then {found:,}: it was changed")
        refuse_nulls("interactions", rows, nulls)
        unknown, all_rows, users = unknown_items(items, item_ids, of_item, max_unknown), rows, None
        if unknown.rows or rows > driver_rows:
            users = _users_of(log, rows)
        if unknown.rows:
            log, rows = steps.written("known", _without(log, item_ids.filter(pa.array(unknown.items)), folder))
        narrowed = Narrowed(log, rows, 0, 0, [])
        if rows > driver_rows:
            latest, tied = params.max_user_interactions, params.ties == "shuffled"
            narrowed = narrow(steps, log, rows, params.k_core, driver_rows, latest=latest, shuffled=tied)
        steps.written("sorted", narrowed.log.orderBy("user_id", "timestamp", "position").drop("position", "tie"))
        shuffled = params.ties == "shuffled"
        collected = collect(steps.files(), narrowed.rows, item_ids, events, shuffled=shuffled)
    if users is None:
        users = _Users(len(collected.user_ids), (collected.user_ids, collected.of_user))
    kept, capped = keep_latest(collected.log, params.max_user_interactions)
    warnings = [
        *unknown.warnings(all_rows),
        *null_words("user_id", *users.frequent, total=all_rows),
        *null_words("item_id", item_ids, of_item),
        *null_texts(items),
    ]
    before = {"users": users.number, "items": len(item_ids), "interactions": all_rows}
    duplicates = narrowed.duplicates + narrowed.rows - len(collected.log.users)
    done = Done(before, unknown.rows, duplicates, narrowed.capped + capped, narrowed.rounds, warnings)
    return Gathered(kept, collected.user_ids, item_ids, done)


class Narrowed(NamedTuple):
    """A log, its rows, and how many were removed from it."""

    log: DataFrame
    rows: int
    duplicates: int
    capped: int
    rounds: list[int]


def narrow(
    steps: Steps, log: DataFrame, rows: int, k_core: int, enough: int, *, latest: int = 0, shuffled: bool = False
) -> Narrowed:
    """Remove rows on Spark, until `enough` are left, or a round of the k-core removes few.

    latest: `prepare.max_user_interactions`. shuffled: a hash decides the order of equal times.
    """
    log, left = steps.written("distinct", _distinct(log, bool(latest) and shuffled))
    duplicates, capped = rows - left, 0
    if latest:
        log, kept = steps.written("latest", _latest(log, latest))
        capped, left = left - kept, kept
    rounds: list[int] = []
    while k_core > 1 and left > enough:
        log, after = steps.written(f"round-{len(rounds)}", _one_round(log, k_core))
        removed, left = left - after, after
        rounds += [removed] if removed else []
        if removed <= LAST_ROUNDS * (left + removed):
            break
    return Narrowed(log, left, duplicates, capped, rounds)


def _without(log: DataFrame, unknown: pa.Array, folder: Path) -> DataFrame:
    """The rows of other items."""
    from pyspark.sql import functions as sql

    pq.write_table(pa.table({"item_id": unknown.cast(pa.string())}), folder / "unknown.parquet")
    items = log.sparkSession.read.schema("item_id string").parquet(uri(folder / "unknown.parquet"))
    return log.join(sql.broadcast(items), "item_id", "left_anti").select(*log.columns)


class _Users(NamedTuple):
    number: int
    frequent: tuple[pa.Array, np.ndarray]  # ids with a large share of the rows, in byte order, and their rows


class Steps:
    """Writes the frame of a step to its own folder and reads it again; the folder of the step before goes away."""

    def __init__(self, session: SparkSession, folder: Path):
        self.session, self.folder, self.before = session, folder, ""

    def written(self, name: str, frame: DataFrame) -> tuple[DataFrame, int]:
        """The frame, read from its files, and its number of rows."""
        frame.write.parquet(uri(self.folder / name))
        if self.before:
            shutil.rmtree(self.folder / self.before)
        self.before = name
        rows = sum(pq.read_metadata(file).num_rows for file in self.files())
        return self.session.read.schema(frame.schema).parquet(uri(self.folder / name)), rows

    def kept(self, name: str, frame: DataFrame) -> DataFrame:
        """The frame, read from files that stay."""
        frame.write.parquet(uri(self.folder / name))
        return self.session.read.schema(frame.schema).parquet(uri(self.folder / name))

    def files(self) -> list[Path]:
        """Files of the last step, in the order of its partitions."""
        return sorted((self.folder / self.before).glob("part-*.parquet"))


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder of its own inside, which executors can read; it is removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="unigrec-", dir=folder))
    own.chmod(0o755)  # executors may run as another user
    try:
        yield own.resolve()
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def spark_errors(stage: str) -> Iterator[None]:
    """Context manager: an error of Spark becomes a UnigrecError."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        lines = [line.strip(": ") for line in str(error).splitlines() if line.strip()]
        told = lines[1:2] if lines and lines[0].startswith("An error occurred while calling") else lines[:1]
        causes = [line for line in lines if line.startswith("Caused by")]
        told += [line for line in causes[:-1] if "FAILED_READ_FILE" in line] + causes[-1:]
        raise UnigrecError(
            f"{stage}: Spark failed, and nothing was written: {'; '.join(told) or type(error).__name__}"
        ) from error


def uri(path: Path) -> str:
    """As Spark reads a path: as text with wildcards, which names may hold too."""
    return "file://" + re.sub(r"([\[\]{}*?\\])", r"\\\1", str(path.resolve()))


def read_log(session: SparkSession, path: Path, parts: list[Partition], with_events: bool) -> DataFrame:
    """The columns of the log, and `position` bigint: the place of the row among all, in the order of the partitions."""
    from pyspark.sql import functions as sql

    reader = session.read.schema(SCHEMA + (", event string" if with_events else ""))
    reader = reader.option("recursiveFileLookup", "true").option("parquet.page.verify-checksum.enabled", "true")
    frame = reader.parquet(uri(path))
    spelled = {unquote(urlsplit(name).path): urlsplit(name).path for name in frame.inputFiles()}
    names = [str(part.path.resolve()) for part in parts]
    if changed := sorted(set(spelled) ^ set(names)):
        raise UnigrecError(f"{changed[0]}: it came or went while the log was read")
    before = np.cumsum([0, *(part.rows for part in parts)]).tolist()
    # Spark writes an address with one slash or with three. As an Arrow table it needs no Python on an executor.
    spelled_so = [f"file:{slashes}{spelled[name]}" for name in names for slashes in ("", "//")]
    places = pa.table({"file": spelled_so, "first": np.repeat(before[: len(names)], 2).astype(np.int64)})
    first = session.createDataFrame(places)
    log = frame.select("*", sql.col("_metadata.file_path").alias("file"), sql.col("_metadata.row_index").alias("row"))
    log = log.join(sql.broadcast(first), "file")
    return log.withColumn("position", sql.col("first") + sql.col("row")).drop("file", "first", "row")


def items_of(log: DataFrame) -> tuple[pa.Array, np.ndarray, dict[str, int]]:
    """Distinct items in byte order, the rows of each: (N,), and the rows without a value per column."""
    from pyspark.sql import functions as sql

    others = [name for name in REQUIRED if name != "item_id"]
    nulls = [sql.count_if(sql.col(name).isNull()).alias(name) for name in others]
    counted = log.groupBy("item_id").agg(sql.count("*").alias("rows"), *nulls).toArrow()
    without = {name: pc.sum(counted[name]).as_py() or 0 for name in others}
    no_item = counted["item_id"].is_null()
    without["item_id"] = pc.sum(counted["rows"].filter(no_item)).as_py() or 0
    counted = counted.filter(pc.invert(no_item))
    counted = counted.take(pc.sort_indices(counted["item_id"])).combine_chunks()
    return counted["item_id"].combine_chunks(), counted["rows"].to_numpy(), {name: without[name] for name in REQUIRED}


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


def _latest(log: DataFrame, maximum: int) -> DataFrame:
    from pyspark.sql import functions as sql
    from pyspark.sql.window import Window

    order = ("timestamp", *(["tie"] if "tie" in log.columns else []), "position")
    newest_first = Window.partitionBy("user_id").orderBy(*[sql.col(name).desc() for name in order])
    ranked = log.withColumn("back", sql.row_number().over(newest_first))
    return ranked.where(sql.col("back") <= maximum).drop("back")


def _one_round(log: DataFrame, k: int) -> DataFrame:
    """Without the rows whose user or item has fewer than `k` rows."""
    from pyspark.sql import functions as sql

    def rare(name: str) -> DataFrame:
        return log.groupBy(name).count().where(sql.col("count") < k).select(name)

    return log.join(rare("user_id"), "user_id", "left_anti").join(rare("item_id"), "item_id", "left_anti")
