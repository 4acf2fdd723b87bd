"""The scheduled job, beside people: `flows.retrain` in a git worktree of its own. `python -m flows.scheduled`."""

from __future__ import annotations

from typing import Any

from prefect import flow


@flow(name="scheduled-retrain")
def scheduled_retrain(profile: str | None = None, data: str | None = None, overrides: list[str] | None = None) -> Any:
    """Retrain in a worktree, and commit params.yaml and dvc.lock of the run on a branch."""
    raise NotImplementedError
