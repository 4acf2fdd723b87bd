"""Where Spark runs, and its settings."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator

from unigrec.base.masking import holds_credentials
from unigrec.config.section import Section

SPARK_MASTER = re.compile(r"local-cluster\[\d+,\d+,\d+\]|local(\[(\*|\d+)(, ?\d+)?\])?|yarn|spark://\S+|k8s://\S+")
SECRET_SETTING = re.compile(r"password|secret|token|credential|access\.?key|private", re.IGNORECASE)


class SparkParams(Section):
    master: str = "local[*]"
    conf: dict[str, str] = Field(default_factory=dict)

    @field_validator("master")
    @classmethod
    def _known_master(cls, master: str) -> str:
        if holds_credentials(master):
            raise ValueError("holds a user or a password; give them in Spark's own configuration (spark-defaults.conf)")
        if master and not SPARK_MASTER.fullmatch(master):
            known = "local[*], local[4], spark://HOST:PORT, yarn, k8s://https://HOST:PORT"
            raise ValueError(f"{master!r} is no master of Spark: {known}, or empty for that of spark-submit")
        return master

    @field_validator("conf", mode="before")
    @classmethod
    def _as_spark_reads_them(cls, conf: Any) -> Any:
        """Numbers and truth values too, as Spark's own files have them."""
        if not isinstance(conf, dict):
            return conf
        plain = {name: str(value).lower() for name, value in conf.items() if isinstance(value, int | float)}
        return conf | plain

    @field_validator("conf")
    @classmethod
    def _no_secrets(cls, conf: dict[str, str]) -> dict[str, str]:
        for name, value in conf.items():
            if not name.startswith("spark."):
                raise ValueError(f"{name!r}: names of Spark's settings begin with spark.")
            if SECRET_SETTING.search(name) or holds_credentials(value):
                raise ValueError(f"{name} may hold a secret; set it in spark-defaults.conf, not in params.yaml")
        return conf
