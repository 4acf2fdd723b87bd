"""The registered model's entry point: MLflow runs this file to load the model and passes it the bundle's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from unigrec.base.errors import UnigrecError
from unigrec.serving.bundle import Bundle
from unigrec.serving.schema import ANSWER_COLUMNS, ITEM_COLUMNS, REASONS_COLUMN, Answer, Request


class PyfuncModel(PythonModel):
    """Recommends one list per history; the signature that it is registered with describes tables and parameters."""

    def load_context(self, context: Any) -> None:
        """MLflow calls this once and passes the argument by this name."""
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raises MlflowException for a bad request; MLflow's server responds with status 400 and the message."""
        options = dict(params or {})
        for name in ("allow", "rank_by", "filter", "diversity", "new_share", "boost"):
            options[name] = options.get(name) or None  # MLflow has no null for a parameter
        try:
            request = Request.parse(histories=[_with_nulls(row) for row in model_input["history"]], **options)
            return as_table(self.bundle.recommend(**dict(request)))
        except UnigrecError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _with_nulls(history: Any) -> Any:
    """A null history is an empty one. In a history, each of pandas' nulls (None, NA, NaN) becomes None."""
    if _is_null(history):
        return []
    if isinstance(history, str) or not isinstance(history, Iterable):
        return history  # the schema refuses it, with its words
    return [None if _is_null(item) else item for item in history]


def _is_null(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def as_table(answers: list[Answer]) -> pd.DataFrame:
    """The answers as a table with one row each."""
    columns: dict[str, list[Any]] = {
        column: [[getattr(item, field) for item in answer.items] for answer in answers]
        for field, column in ITEM_COLUMNS.items()
    }
    columns[REASONS_COLUMN] = [[item.reason.text if item.reason else "" for item in a.items] for a in answers]
    columns |= {name: [getattr(answer, name) for answer in answers] for name in ANSWER_COLUMNS}
    return pd.DataFrame(columns)


set_model(PyfuncModel())
