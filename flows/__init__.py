"""Prefect lives here alone. Importing this package settles its surroundings, which it reads when imported."""

import os
from pathlib import Path

from unigrec.base.process import keep_quiet

keep_quiet()
os.environ.setdefault("PREFECT_HOME", str(Path("state/prefect").absolute()))  # nothing is written to the user's home
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
# The run's log has everything; the terminal gets the stages' own lines, and errors from `main`.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")  # of a server that is gone, `main` tells
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_CLI_PROMPT", "false")
