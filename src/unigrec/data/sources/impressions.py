"""What users were shown and what they took afterwards: the service's log of impressions, joined with interactions.

DuckDB reads the log's files in pieces, so that it may be larger than the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.data.sources.duck import connection, quoted, without_wildcards

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pyarrow as pa

DAY = 86_400  # seconds

LOG = """
    CREATE VIEW log AS
        SELECT * FROM read_parquet({files}, filename = true, file_row_number = true, hive_partitioning = false)
"""
EXPERIMENTS = """
    SELECT experiment, count(*) AS impressions, max(time) AS last
    FROM log WHERE assigned = 'split' AND experiment IS NOT NULL GROUP BY ALL ORDER BY last DESC
"""
# Rows are read from the files again by each query: none of them keeps all lists of items in memory.
SHOWN = """
    CREATE VIEW shown AS
        SELECT filename, file_row_number, user_id, variant, share, items, epoch_us(time) AS moment
        FROM log WHERE assigned = 'split' AND experiment = {experiment}
"""
# What a user was shown first decides to which version the user belongs.
FIRST = """
    CREATE TEMP TABLE first AS
        SELECT user_id, arg_min(variant, moment) AS variant, arg_min(share, moment) AS share,
               count(DISTINCT variant) AS variants
        FROM shown GROUP BY user_id
"""
OWN = """
    CREATE VIEW own AS
        SELECT shown.* FROM shown JOIN first ON shown.user_id = first.user_id AND shown.variant = first.variant
"""
# A time of the log has microseconds, one of an interaction whole seconds, or whole days ($step).
USERS = """
    WITH hit AS (
        SELECT DISTINCT own.user_id, own.filename, own.file_row_number
        FROM own JOIN taken ON taken.user_id = own.user_id
            AND taken.moment >= own.moment // 1000000 // $step * $step
            AND taken.moment <= own.moment // 1000000 + $window
            AND list_contains(own.items, taken.item_id)
    ), hits AS (
        SELECT user_id, count(*) AS hits FROM hit GROUP BY user_id
    ), offers AS (
        SELECT user_id, count(*) AS impressions FROM own GROUP BY user_id
    )
    SELECT first.variant = 'challenger' AS challenger, first.share, first.variants > 1 AS both, offers.impressions,
           coalesce(hits.hits, 0) AS hits
    FROM first JOIN offers USING (user_id) LEFT JOIN hits USING (user_id)
    ORDER BY user_id
"""
FACTS = """
    SELECT variant, any_value(version) AS version, any_value(bundle) AS bundle, count(DISTINCT bundle) AS bundles
    FROM log WHERE assigned = 'split' AND experiment = $experiment GROUP BY variant
"""
SPAN = """
    SELECT min(moment) // 1000000, max(moment) // 1000000, count(*),
           count(*) FILTER (moment // 1000000 + $window > (SELECT max(moment) FROM taken))
    FROM shown
"""


def schema() -> pa.Schema:
    """The columns of the log.

    items: best first, so that an item's rank is its place, from 1. history: its place in the request, from 0.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    names = ("request_id", "user_id", "experiment", "assigned", "variant", "version", "bundle", "kind")
    return pa.schema(
        [
            ("time", pa.timestamp("us", "UTC")),
            *((name, text) for name in names),
            *(("share", pa.float64()), ("history", number), ("k", number), ("items", pa.list_(text))),
        ]
    )


class Experiment(NamedTuple):
    """Two versions, and what their users did. Arrays: (U,) per user, each counted under the version shown first.

    versions: variant -> {version, bundle}. both: who were shown the other version too; those impressions are left out.
    since, until: unix seconds of the first and last impression. impressions: all of them, those left out too.
    open: those whose window ends after the last interaction. others: names of further experiments in the log.
    days_only: the interactions' times are whole days.
    """

    name: str
    versions: dict[str, dict[str, str]]
    is_challenger: np.ndarray
    shares: np.ndarray
    both: np.ndarray
    shown: np.ndarray
    hits: np.ndarray
    since: int
    until: int
    impressions: int
    open: int
    others: list[str]
    days_only: bool


def read_experiment(folder: Path, taken: pa.Table, window: int, name: str | None = None) -> Experiment:
    """Join a log of impressions with interactions.

    An impression is a hit if its user took an item of it within the window after it. With times of whole days, those
    of the impression's day count too: whether they came after it is not known.

    Args:
        folder: of the log. taken: user_id, item_id and timestamp (unix seconds) of interactions. window: seconds.
        name: of the experiment, as `2-vs-1`; by default the one with the latest impression.

    Raises:
        UnigrecError: there is no log, no such experiment in it, or a file is damaged.
    """
    import duckdb

    if not folder.is_dir():
        raise UnigrecError(f"{folder}: no such folder; name the one that unigrec serve --impressions wrote")
    names = f"{paths.IMPRESSIONS}*.parquet"
    if not any(folder.glob(names)):
        raise UnigrecError(f"{folder}: no file of impressions; name the folder that unigrec serve --impressions wrote")
    try:
        with connection() as database:
            database.execute(LOG.format(files=quoted(f"{without_wildcards(folder)}/{names}")))
            return _read(database, folder, taken, window, name)
    except duckdb.Error as error:
        raise UnigrecError(f"{folder}: the log of impressions cannot be read: {error}") from error


def _read(
    database: duckdb.DuckDBPyConnection, folder: Path, taken: pa.Table, window: int, name: str | None
) -> Experiment:
    import numpy as np
    import pyarrow.compute as pc

    names = [row[0] for row in database.sql(EXPERIMENTS).fetchall()]
    if name is None and not names:
        raise UnigrecError(
            f"{folder}: no impression of an experiment; serve with --challenger, and user_id in requests"
        )
    if name is not None and name not in names:
        raise UnigrecError(f"{folder}: no experiment {name!r}; there are: {', '.join(names) or 'none'}")
    name = name or names[0]
    chosen = {"experiment": name}
    versions = {row[0]: row[1:] for row in database.execute(FACTS, chosen).fetchall()}
    if (several := [variant for variant, facts in versions.items() if facts[2] > 1]) or len(versions) < 2:
        why = f"several bundles as {several[0]}" if several else "impressions of one version alone"
        raise UnigrecError(f"{folder}: experiment {name} has {why}: nothing can be compared; a folder per experiment")
    at = taken["timestamp"].combine_chunks()
    days_only = bool(pc.all(pc.equal(pc.multiply(pc.divide(at, DAY), DAY), at)).as_py())
    database.register("given", taken.select(["user_id", "item_id", "timestamp"]))
    database.execute("CREATE TEMP TABLE taken AS SELECT DISTINCT user_id, item_id, timestamp AS moment FROM given")
    for statement in (SHOWN.format(experiment=quoted(name)), FIRST, OWN):
        database.execute(statement)
    since, until, impressions, still_open = map(int, database.execute(SPAN, {"window": window}).fetchall()[0])
    found: dict[str, Any] = database.execute(USERS, {"window": window, "step": DAY if days_only else 1}).fetchnumpy()
    return Experiment(
        name,
        {variant: {"version": facts[0], "bundle": facts[1]} for variant, facts in versions.items()},
        is_challenger=np.asarray(found["challenger"], bool),
        shares=np.asarray(found["share"], float),
        both=np.asarray(found["both"], bool),
        shown=np.asarray(found["impressions"], float),
        hits=np.asarray(found["hits"], float),
        since=since,
        until=until,
        impressions=impressions,
        open=still_open,
        others=[other for other in names if other != name],
        days_only=days_only,
    )
