"""The retraining that a schedule starts."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.retrain import retrain


@flow(name="scheduled-retrain")
def scheduled_retrain(profile: str | None = None, data: str | None = None, overrides: list[str] | None = None) -> Any:
    """A stand-in: the clone's own params."""
    return retrain(return_state=True)
