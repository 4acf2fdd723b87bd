"""The only package that uses Prefect. Importing it sets what Prefect reads from the environment, and writes nothing."""

import os
import warnings
from pathlib import Path

from unigrec.base.process import keep_quiet

keep_quiet()
os.environ.setdefault("PREFECT_HOME", str(Path("state/prefect").absolute()))  # not in the user's home
# Prefect tries to make that folder when it is imported, and warns where `state` is missing. A run makes it: server.py.
warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
# The run's log holds everything. The terminal shows the stages' own lines, and errors, which `main` prints.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")  # `main` reports a server that is gone
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_CLI_PROMPT", "false")
