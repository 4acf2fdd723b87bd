"""Says whether dvc.lock fits code, params and outputs: `python infra/up_to_date.py`, for promote.yml.

It asks `dvc status`, except that the source of the data (`ingest.path`) and the bundle of a warm start
(`warm_start.path`) may be missing: no stage makes them, so `dvc pull` brings neither. dvc.lock holds their hashes.
Exit code 1: something does not fit; it is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from unigrec.base.git import PARAMS
from unigrec.config.read import load_params

DEPS = "changed deps"


def misfits(status: dict[str, list[Any]], sources: set[str]) -> dict[str, list[Any]]:
    """What is left of DVC's status, by stage, without sources that are missing."""
    left = {stage: [_without(change, sources) for change in changes] for stage, changes in status.items()}
    return {stage: [change for change in changes if change] for stage, changes in left.items() if any(changes)}


def _without(change: Any, sources: set[str]) -> Any:
    """One change without missing sources; None if nothing is left. DVC writes a dict, or a string for a command."""
    if not isinstance(change, dict) or DEPS not in change:
        return change
    missing = {os.path.abspath(path) for path in sources}  # DVC does not spell a path as the params do
    found = change[DEPS].items()
    kept = {path: how for path, how in found if not (os.path.abspath(path) in missing and how == "deleted")}
    return {DEPS: kept} if kept else None


def main() -> int:
    """Print what does not fit. Returns the exit code."""
    asked = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], stdout=subprocess.PIPE, text=True)
    if asked.returncode:
        return asked.returncode
    params = load_params(PARAMS)
    found = misfits(json.loads(asked.stdout), {params.ingest.path, params.warm_start.path})
    for stage, changes in found.items():
        print(f"{stage} is not up to date: {json.dumps(changes)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
