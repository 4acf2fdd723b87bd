"""The lists of Spark are those of a local run. Skipped without pyspark and a Java (requirements-spark.lock)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.spark import small_session
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.scoring import spark as on_spark
from unigrec.scoring.local import Watcher, score_log
from unigrec.serving.schema import ListRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Iterator:
    with small_session(tmp_path_factory.mktemp("spark")) as made:
        yield made


def rows_of(rows) -> list[tuple]:
    return sorted((r["user_id"], r["rank"], r["item_id"], r["by_popularity"]) for r in rows)


@pytest.mark.parametrize("send", [False, True], ids=["by path", "sent"])
def test_the_lists_are_those_of_a_local_run(session, job, send):
    options = {"k": 3, "filter": "price > 2", "rank_by": "fused"} if send else {"k": 3}
    score_log(job._replace(request=ListRequest.parse(**options)), 1, Watcher(print, lambda progress: None))
    expected = files.read_table(job.out)
    histories = on_spark.histories_of(session.read.parquet(str(job.log)))
    found = on_spark.score(histories, job.bundle.folder, send=send, **options)
    assert found.columns == expected.column_names
    lists = found.collect()
    assert rows_of(lists) == rows_of(expected.to_pylist())
    scores = {(row["user_id"], row["rank"]): row["score"] for row in lists}
    assert {(r["user_id"], r["rank"]): r["score"] for r in expected.to_pylist()} == pytest.approx(scores, abs=1e-5)


def test_histories_are_sorted_by_time_and_equal_times_keep_their_order(session):
    rows = [
        (1, "c", 2),
        (1, "b", 1),
        (1, "z", 2),
        (1, "late", None),
        (1, "c", 2),
        (1, "b", 3),
        (2, None, 5),
        (None, "x", 1),
    ]
    frame = session.createDataFrame(rows, "user_id int, item_id string, timestamp long").coalesce(1)
    found = {row["user_id"]: row["history"] for row in on_spark.histories_of(frame).collect()}
    assert found == {"1": ["b", "c", "z", "b", "late"], "2": [None]}


def test_an_option_that_is_not_understood_fails_before_spark_begins():
    with pytest.raises(UnigrecError, match="diversity: 'two' is not understood"):
        on_spark.score(None, "bundle", diversity="two")
