"""Scores all users with the champion, after each promotion: `python -m flows.score [MODEL]`.

Params say whom, and where the lists go (section `score`). Without them, nothing is scored.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.states import Completed

from flows.prefect_server.output import emitter
from flows.prefect_server.server import run_here
from flows.states import StateName
from unigrec.base.errors import EXIT_OK
from unigrec.base.git import PARAMS
from unigrec.commands import score as commands
from unigrec.config.read import load_params


@flow(name="score")
def score(model: str | int = "champion") -> Any:
    """Write the lists of all users that params name. The state is named Skipped if they name none.

    Args:
        model: alias, version number, or a bundle's folder. `prefect deployment run --param model=11` gives an int.

    Raises:
        UnigrecError: as `unigrec score`. What was scored is kept, and the next run continues.
    """
    params = load_params(PARAMS)
    asked = params.score
    if not asked.histories:
        message = "nothing is scored: score.histories is not set"
        return Completed(message=message, data=message, name=StateName.SKIPPED)
    told = commands.score(
        params,
        str(model),
        Path(asked.histories),
        Path(asked.out),
        asked.workers,
        say=emitter(),
        k=asked.k,
        filter=asked.filter or None,
        exclude_history=asked.exclude_history,
    )
    return Completed(message=told, data=told)


def _say(state: Any) -> int:
    """Print what was written. Raises the error that ended the run."""
    print(state.result())
    return EXIT_OK


def main() -> int:
    """Run the flow in this process. Returns an exit code of errors.py."""
    model = sys.argv[1] if len(sys.argv) > 1 else "champion"
    return run_here(lambda: _say(score(model, return_state=True)))


if __name__ == "__main__":
    sys.exit(main())
