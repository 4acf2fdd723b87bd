"""Compares a challenger with the champion and promotes it if it passes: `python -m flows.promote [VERSION]`.

Two promotions at once are safe in one folder: the second waits for the first, up to `promotion.wait_seconds`.
"""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.prefect_server.server import run_here
from flows.states import StateName
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED
from unigrec.base.git import PARAMS
from unigrec.commands import promotion as commands
from unigrec.config.read import load_params
from unigrec.config.schema import Params
from unigrec.promotion.champion import Promotion


def promote_and_show(params: Params, version: str | None) -> tuple[StateName, Promotion]:
    """Promote within a flow or task, with the comparison as an artifact of the run.

    Returns:
        The state's name, and what became of the version. `Promoted`: it is champion now. `Kept`: the champion stays,
        only because the challenger is no better. `Refused`: another gate refuses the challenger.
    """
    done = commands.promote(params, version)
    if done.page is not None:
        create_markdown_artifact(done.page, key="promotion", description=f"version {done.version}: {done.reason}")
    name = StateName.PROMOTED if done.moved else StateName.REFUSED if done.refused else StateName.KEPT
    return name, done


@flow(name="promote")
def promote(version: str | int | None = None) -> Any:
    """Judge a version (the challenger by default) and promote it if it passes.

    Args:
        version: its number. `prefect deployment run --param version=12` gives an int.

    Raises:
        UnigrecError: no decision is possible, another promotion took too long, or MLflow does not answer.
    """
    name, done = promote_and_show(load_params(PARAMS), None if version is None else str(version))
    return Completed(message=done.reason, data=done, name=name)


def _say(state: Any) -> int:
    """Print the decision and return the exit code. Raises the error that ended the run."""
    done = state.result()
    print(f"{state.name}: version {done.version}: {done.reason}")
    return EXIT_OK if done.champion == done.version else EXIT_REFUSED


def main() -> int:
    """Run the flow in this process. Returns the exit code of `unigrec promote`."""
    version = sys.argv[1] if len(sys.argv) > 1 else None
    return run_here(lambda: _say(promote(version, return_state=True)))


if __name__ == "__main__":
    sys.exit(main())
