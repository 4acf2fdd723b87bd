"""The registered model's code: MLflow runs this file when it loads the model, and hands it the bundle's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from unigrec.bundle import Bundle


class RecommenderModel(PythonModel):
    """One row a history in, one row of recommendations out; see `unigrec.registry.signature`."""

    def load_context(self, context: Any) -> None:
        """MLflow calls this once, with this very argument name."""
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """`history` (item ids, oldest first) -> item_ids, titles, scores, best first, and how many ids were unknown."""
        histories = [[str(item) for item in history] for history in model_input["history"]]
        answers = self.bundle.recommend(histories, k=int((params or {}).get("k", 10)))
        return pd.DataFrame(
            {
                "item_ids": [[item.item_id for item in answer.items] for answer in answers],
                "titles": [[item.title for item in answer.items] for answer in answers],
                "scores": [[item.score for item in answer.items] for answer in answers],
                "unknown": [answer.unknown for answer in answers],
                "by_popularity": [answer.by_popularity for answer in answers],
            }
        )


set_model(RecommenderModel())
