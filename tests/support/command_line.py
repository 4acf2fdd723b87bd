"""The command line, called within the test's process."""

from __future__ import annotations

from typer.testing import CliRunner

from unigrec.base.errors import UnigrecError
from unigrec.cli import app


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", "MLFLOW_TRACKING_URI": ""})
    if isinstance(result.exception, UnigrecError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output
