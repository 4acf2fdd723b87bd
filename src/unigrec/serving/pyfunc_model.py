"""The registered model's entry point: MLflow runs this file to load the model and hands it the bundle's folder."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from unigrec.base.errors import UnigrecError
from unigrec.serving.bundle import Bundle, Recommended


class RecommenderModel(PythonModel):
    """Recommends one list per history; the signature that it is registered with describes tables and parameters."""

    def load_context(self, context: Any) -> None:
        """MLflow calls this once, with this very argument name."""
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raises MlflowException, which MLflow's server answers with status 400 and the message, for a bad request."""
        try:
            histories = [_item_ids(history) for history in model_input["history"]]
            answers = self._recommend(histories, params or {})
        except (UnigrecError, ValueError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(
            {
                "item_ids": [[item.item_id for item in answer.items] for answer in answers],
                "titles": [[item.title for item in answer.items] for answer in answers],
                "scores": [[item.score for item in answer.items] for answer in answers],
                "unknown": [
                    answer.unknown + history.count(None) for answer, history in zip(answers, histories, strict=True)
                ],
                "by_popularity": [answer.by_popularity for answer in answers],
            }
        )

    def _recommend(self, histories: list[list[str | None]], params: dict[str, Any]) -> list[Recommended]:
        """Raises UnigrecError."""
        return self.bundle.recommend(
            [[item for item in history if item is not None] for history in histories],
            k=int(params.get("k", 10)),
            allow=params.get("allow") or None,
            deny=params.get("deny"),
            exclude_history=bool(params.get("exclude_history", False)),
        )


def _item_ids(history: Iterable[Any] | None) -> list[str | None]:
    """A null history is an empty one; a null in it stays None. Raises ValueError for what cannot be an item id."""
    ids: list[str | None] = []
    for item in () if history is None else history:
        if isinstance(item, str | Integral) and not isinstance(item, bool):
            ids.append(str(item))
        elif item is None or item is pd.NA or (isinstance(item, float) and item != item):
            ids.append(None)
        else:
            raise ValueError(f"history: {item!r} is no item id; expected text or a whole number")
    return ids


set_model(RecommenderModel())
