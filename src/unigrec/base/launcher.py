"""Run several ranks of one stage on this machine: torchrun's own agent starts, watches and stops them.

The agent is called directly: the command `torchrun` prints a table and always ends with 1, so exit codes are lost.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from unigrec.base.errors import EXIT_OK, UnigrecError
from unigrec.base.masking import masked

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set by the agent for each rank: the file for its error
EXIT_CRASHED = 1  # the interpreter's exit code after a traceback


def is_rank() -> bool:
    """Whether this process was started by torchrun, as one of its ranks."""
    return "WORLD_SIZE" in os.environ


def run_ranks(arguments: list[str], processes: int) -> None:
    """Run this Python with `arguments` as `processes` ranks, and return when all have succeeded.

    Raises:
        UnigrecError: a rank failed, and the others have been stopped. If the rank left an error by `report`, this is
            that error with its exit code; otherwise it says which rank ended and how, after the rank's traceback.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_devices(processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    logging.disable()  # no table of failed ranks from the agent: the error says it
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a free port
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            raise _error_of(error) from error
        except SignalException as error:
            sys.exit(128 + error.sigval)
        finally:
            logging.disable(logging.NOTSET)


def run_and_end(work: Callable[[], None]) -> NoReturn:
    """Do the work of this process, report its error, and end the process at once, without the interpreter's teardown.

    Process groups leave threads behind (of gloo, of the store) on which the teardown may abort: successful work would
    look like a crash, and an error would lose its exit code. Nothing needs a teardown: files are complete when they are
    renamed.
    """
    code = EXIT_OK
    try:
        work()
    except UnigrecError as error:
        report(error)
        code = error.exit_code
    except Exception as error:
        report(error)
        code = EXIT_CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report(error: Exception) -> None:
    """Print an error for the user as one line, any other error with its traceback. Credentials are masked.

    A rank writes it to a file for the launcher, which prints one error for all ranks.
    """
    code = error.exit_code if isinstance(error, UnigrecError) else None
    message = masked("".join(traceback.format_exception(error)).rstrip() if code is None else str(error))
    file = os.environ.get(ERROR_FILE)
    if file:
        words = {"message": message, "timestamp": time.time(), "exit_code": code}
        Path(file).write_text(json.dumps(words), encoding="utf-8")
    else:
        print(message if code is None else f"error: {message}", file=sys.stderr)


def _error_of(failed: ChildFailedError) -> UnigrecError:
    rank, failure = min(failed.failures.items(), key=lambda item: _blame(item[1]))
    words = failure.error_file_data
    code = words.get("exit_code")
    if code is not None:
        error = UnigrecError(words["message"])
        error.exit_code = code  # of the report; the process may have ended otherwise afterwards
        return error
    if "exit_code" in words:  # written by `report`, not by the agent
        print(words["message"], file=sys.stderr)
    if failure.exitcode >= 0:
        return UnigrecError(f"rank {rank} ended with exit code {failure.exitcode}; what it said is above")
    error = UnigrecError(
        f"rank {rank} was killed by {failure.signal_name()}; what it said is above. The same command goes on from the "
        "last checkpoint"
    )
    error.exit_code = 128 - failure.exitcode  # as a shell reports it; retries recognise a killed process by it
    return error


def _blame(failure: ProcessFailure) -> tuple[int, float]:
    """Sort key: the failure that caused the others comes first. They crash without a peer, or the agent stops them."""
    words = failure.error_file_data
    if words.get("exit_code") is not None:
        place = 0
    elif failure.exitcode == -signal.SIGTERM:
        place = 3
    else:
        place = 1 if failure.exitcode < 0 else 2
    return place, words.get("timestamp", failure.timestamp)


def _check_devices(processes: int) -> None:
    """Each rank needs a GPU of its own. Raises UnigrecError when there are fewer GPUs than ranks."""
    import torch

    devices = torch.cuda.device_count()
    if torch.cuda.is_available() and devices < processes:
        raise UnigrecError(f"joint.processes = {processes}, but this machine has {devices} GPU: one is for one rank")
