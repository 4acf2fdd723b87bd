"""The Spark session: its settings, and what is said where pyspark is missing."""

from __future__ import annotations

import sys

import pytest

from support.spark import small_session
from unigrec.base.errors import EXIT_BAD_INPUT, UnigrecError
from unigrec.config.spark import SparkParams
from unigrec.data.spark.session import settings_of, spark_session


def test_without_pyspark_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "py4j", None)
    monkeypatch.delitem(sys.modules, "py4j.protocol", raising=False)
    with (
        pytest.raises(UnigrecError, match=r"pip install -r requirements-spark\.lock") as raised,
        spark_session(SparkParams()),
    ):
        pass
    assert raised.value.exit_code == EXIT_BAD_INPUT


def test_a_local_session_listens_on_this_machine_alone_and_has_no_page():
    settings = settings_of(SparkParams(master="local[4]"))
    assert settings["spark.driver.bindAddress"] == "127.0.0.1"
    assert settings["spark.ui.enabled"] == "false"


def test_a_cluster_is_reached_by_its_own_settings_and_those_of_params_win():
    settings = settings_of(SparkParams(master="spark://host:7077", conf={"spark.executor.memory": "8g"}))
    assert settings["spark.master"] == "spark://host:7077"
    assert settings["spark.executor.memory"] == "8g"
    assert "spark.driver.bindAddress" not in settings
    assert "spark.master" not in settings_of(SparkParams(master=""))
    assert settings_of(SparkParams(conf={"spark.ui.enabled": "true"}))["spark.ui.enabled"] == "true"


@pytest.mark.slow
def test_the_java_of_a_session_ends_with_it_and_the_next_session_has_its_own(tmp_path):
    with small_session(tmp_path) as session:
        java = session.sparkContext._gateway.proc
        assert java.poll() is None
    assert java.poll() is not None
    with small_session(tmp_path) as session:
        assert session.range(3).count() == 3
