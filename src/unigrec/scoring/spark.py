"""Lists for all users on a Spark cluster: `mapInPandas` over a bundle, which each Python worker loads once.

    from unigrec.scoring import spark as on_spark

    histories = on_spark.histories_of(session.read.parquet("log.parquet"))
    on_spark.score(histories, "state/bundles/ID", k=10).write.parquet("lists")

Executors need this package (requirements.lock) and the bundle: at the same path, or sent to them (`send=True`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.data.histories import COLUMNS
from unigrec.scoring.lists import USERS_AT_ONCE
from unigrec.scoring.lists import score as score_users
from unigrec.serving.schema import ListRequest

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

    from unigrec.serving.bundle import Bundle

LISTS = "user_id string, rank int, item_id string, score float, by_popularity boolean"  # `SCHEMA`, as Spark writes it


def histories_of(interactions: DataFrame, event: str | None = None) -> DataFrame:
    """A row per user, with `user_id` and `history`: the item ids by time. Equal times keep the order of the rows.

    Rows equal in user, item, time and event are one interaction, as in the training.

    Args:
        interactions: columns user_id, item_id and timestamp; ids are text or whole numbers, times numbers or dates.
        event: column with the type of event, if the model was trained with `ingest.events`.
    """
    from pyspark.sql import functions as sql

    time = sql.col("timestamp")
    # Rows without a time come last, as in a local run.
    moment = sql.struct(time.isNull().alias("late"), time, "row", "item_id")
    numbered = interactions.where("user_id is not null").withColumn("row", sql.monotonically_increasing_id())
    once = numbered.groupBy(*COLUMNS, *([event] if event else [])).agg(sql.min("row").alias("row"))
    events = once.select(sql.col("user_id").cast("string"), moment.alias("event"))
    grouped = events.groupBy("user_id").agg(sql.sort_array(sql.collect_list("event")).alias("events"))
    return grouped.select("user_id", sql.col("events.item_id").cast("array<string>").alias("history"))


def score(histories: DataFrame, bundle: str | Path, send: bool = False, **options: Any) -> DataFrame:
    """The lists of all users: the columns of `unigrec.scoring.lists.SCHEMA`.

    Args:
        histories: as `histories_of` makes it. bundle: its folder. send: Spark copies the folder to the executors;
            False: they find it at this path.
        options: fields of `unigrec.serving.schema.ListRequest`.

    Raises:
        UnigrecError: an option is not understood. What only the bundle knows (a column of a filter) fails in Spark.
    """
    request = ListRequest.parse(**options).model_dump_json()
    folder = Path(bundle).absolute()
    if send:
        histories.sparkSession.sparkContext.addFile(str(folder), recursive=True)
    place = folder.name if send else str(folder)

    def lists(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        yield from _lists(frames, place, send, request)

    return histories.mapInPandas(lists, LISTS)


def _lists(frames: Iterator[pd.DataFrame], place: str, sent: bool, request: str) -> Iterator[pd.DataFrame]:
    """What a Python worker does: frames of histories to frames of lists."""
    bundle, asked = _loaded(place, sent), ListRequest.model_validate_json(request)
    for frame in frames:
        for start in range(0, len(frame), USERS_AT_ONCE):
            some = frame.iloc[start : start + USERS_AT_ONCE]
            histories = [list(history) for history in some["history"]]
            yield score_users(bundle, some["user_id"].tolist(), histories, asked)[0].to_pandas()


@functools.lru_cache(maxsize=1)
def _loaded(place: str, sent: bool) -> Bundle:
    """The bundle, loaded once per process: Spark gives a worker one task after the other."""
    from unigrec.base.process import keep_few_products

    keep_few_products()
    import torch
    from pyspark import SparkFiles

    from unigrec.serving.bundle import Bundle

    torch.set_num_threads(1)  # a worker per core
    return Bundle.load(Path(SparkFiles.get(place) if sent else place))
