"""The tables that `validate` checks, of a log that need not fit into memory: frames of Spark with the computed columns.

Great Expectations reads the frames of interactions and users on Spark. The driver holds the items with their texts and,
for the k-core and for repeated interactions, the integers of sorted_rows.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unigrec.data.partitions import interaction_tables, partitions_of, schema_of
from unigrec.data.prepare import filter_k_core
from unigrec.data.spark.prepare import DRIVER_ROWS, Steps, items_of, narrow, read_log, scratch_folder, spark_errors, uri
from unigrec.data.spark.sorted_rows import collect
from unigrec.data.validation.tables import Checked, items_frame, known_items, sha256, typed, usable_columns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# What Arrow trims as white space; Spark's own trim knows blanks alone.
WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
NO_TIME = -(2**62)  # less the place in the log: a time of its own for a row without one


@contextmanager
def checked_on_spark(
    session: SparkSession,
    interactions: Path,
    items: pa.Table,
    text_columns: Sequence[str],
    k_core: int,
    times: tuple[int, int],
    events: Mapping[str, float] | None = None,
    *,
    scratch: Path,
    driver_rows: int = DRIVER_ROWS,
) -> Iterator[Checked]:
    """As `tables.checked`, for interactions in a file or a folder of Parquet files. The frames live inside the block.

    Args:
        times: the least and the largest that are expected.
        events, scratch, driver_rows: as in `prepare.gather`.

    Raises:
        UnigrecError: a partition is missing, damaged or has other columns; or Spark failed.
    """
    parts = partitions_of(interactions, bool(events))
    rows, items = sum(part.rows for part in parts), typed(items)
    hashes = {"interactions": sha256(interaction_tables(interactions, bool(events))), "items": sha256([items])}
    with scratch_folder(scratch) as folder, spark_errors("validate"):
        steps = Steps(session, folder)
        log = read_log(session, interactions, parts, bool(events))
        log = log.withColumns({name: _given(name) for name in ("user_id", "item_id")})
        item_ids, _, _ = items_of(log)
        is_known = pc.is_in(item_ids, value_set=known_items(items).cast(pa.string()))
        unknown = item_ids.filter(pc.invert(is_known))
        kept = is_known.to_numpy(zero_copy_only=False)
        core = _core(steps, log, item_ids, kept, k_core, events=events, driver_rows=driver_rows)
        frame = _with_findings(log, times, _table(session, folder, "unknown", unknown), core.repeats)
        if core.repeats is not None or len(unknown):
            frame = steps.kept("interactions", frame)
        users = steps.kept("users", _users_frame(log, _table(session, folder, "left", core.users)))
        frames = {
            "interactions": frame,
            "items": items_frame(items, text_columns, core.items.cast(pa.large_string())),
            "users": users,
        }
        sizes = {"interactions": rows, "items": items.num_rows, "users": users.count()}
        usable = usable_columns(typed(schema_of(bool(events)).empty_table()), items)
        yield Checked(frames, sizes, usable, hashes)


def examples(frame: DataFrame, column: str, count: int, *, nulls: bool) -> list[Any]:
    """The first values of a column of findings; with `nulls`, the numbers of the first rows without a value."""
    from pyspark.sql import functions as sql

    found = frame.where(sql.col(column).isNull() if nulls else sql.col(column).isNotNull())
    shown = "position" if nulls else column
    return [row[0] for row in found.orderBy("position").limit(count).select(shown).collect()]


class _Core(NamedTuple):
    items: pa.Array  # that the k-core keeps
    users: pa.Array
    repeats: DataFrame | None  # interactions that are there twice, and the place of the first; None: there are none


def _core(
    steps: Steps,
    log: DataFrame,
    item_ids: pa.Array,
    is_known: np.ndarray,
    k_core: int,
    *,
    events: Mapping[str, float] | None,
    driver_rows: int,
) -> _Core:
    """is_known: (N,) bool, of the item ids; the k-core is that of the interactions of these."""
    from pyspark.sql import functions as sql

    kinds = ["event"] if events else []
    own_time = sql.coalesce("timestamp", sql.lit(NO_TIME) - sql.col("position"))
    named = log.dropna(subset=["user_id", "item_id"]).withColumn("timestamp", own_time)
    rows, duplicates = named.count(), 0
    if rows > driver_rows:
        smaller = narrow(steps, named, rows, k_core, driver_rows)
        named, duplicates = smaller.log, smaller.duplicates
    _, left = steps.written("sorted", named.orderBy("user_id", "timestamp", "position").drop("position"))
    collected = collect(steps.files(), left, item_ids, events, shuffled=False)
    duplicates += left - len(collected.log.users)
    core, _ = filter_k_core(collected.log.take(np.flatnonzero(is_known[collected.log.items])), k_core)
    repeats = None
    if duplicates:
        complete = log.dropna(subset=["user_id", "item_id", "timestamp"])
        counted = complete.groupBy("user_id", "item_id", "timestamp", *kinds)
        repeats = counted.agg(sql.min("position").alias("first"), sql.count("*").alias("times")).where("times > 1")
    return _Core(
        item_ids.take(pa.array(np.unique(core.items))),
        collected.user_ids.take(pa.array(np.unique(core.users))),
        repeats,
    )


def _given(name: str) -> Column:
    """A text, or null if it is blank."""
    from pyspark.sql import functions as sql

    return sql.when(sql.btrim(sql.col(name), sql.lit(WHITE_SPACE)) != "", sql.col(name)).alias(name)


def _table(session: SparkSession, folder: Path, name: str, ids: pa.Array) -> DataFrame | None:
    """Ids as a frame with the column `id`; None without any."""
    if not len(ids):
        return None
    pq.write_table(pa.table({"id": ids.cast(pa.string())}), folder / f"{name}.parquet")
    return session.read.schema("id string").parquet(uri(folder / f"{name}.parquet"))


def _with_findings(
    log: DataFrame, times: tuple[int, int], unknown: DataFrame | None, repeats: DataFrame | None
) -> DataFrame:
    """The log with the columns of `tables.frames`."""
    from pyspark.sql import functions as sql

    nothing = sql.lit(None).cast("string")
    outside = ~sql.col("timestamp").between(*times)
    frame = log.withColumn("time_out_of_range", sql.when(outside, sql.col("timestamp")))
    if unknown is None:
        frame = frame.withColumn("unknown_item_id", nothing)
    else:
        frame = frame.join(unknown, frame["item_id"] == unknown["id"], "left").withColumnRenamed(
            "id", "unknown_item_id"
        )
    if repeats is None:
        frame = frame.withColumn("repeated_interaction", nothing)
    else:
        keys = [name for name in repeats.columns if name not in ("first", "times")]
        other = repeats.select(*(sql.col(name).alias(f"of_{name}") for name in keys), "first")
        alike = [frame[name].eqNullSafe(other[f"of_{name}"]) for name in keys]
        frame = frame.join(other, alike, "left")
        shown = sql.concat_ws(" | ", "user_id", "item_id", sql.col("timestamp").cast("string"))
        frame = frame.withColumn("repeated_interaction", sql.when(sql.col("position") > sql.col("first"), shown))
    findings = ("unknown_item_id", "time_out_of_range", "repeated_interaction")
    return frame.select("user_id", "item_id", "timestamp", *findings, "position")


def _users_frame(log: DataFrame, left: DataFrame | None) -> DataFrame:
    """One row per user with a usable id; `position` is that of the user's first row."""
    from pyspark.sql import functions as sql

    figures = (
        sql.count("*").alias("rows"),
        sql.min("timestamp").alias("since"),
        sql.max("timestamp").alias("until"),
        sql.min("position").alias("position"),
    )
    users = log.dropna(subset=["user_id"]).groupBy("user_id").agg(*figures)
    one_time = (sql.col("rows") >= 2) & (sql.col("since") == sql.col("until"))
    is_left = sql.lit(False)
    if left is not None:
        users = users.join(left, users["user_id"] == left["id"], "left")
        is_left = sql.col("id").isNotNull()
    findings = (sql.when(one_time, sql.col("user_id")).alias("user_with_one_time"), is_left.cast("bigint"))
    return users.select("user_id", findings[0], findings[1].alias("left_after_k_core"), "position")
