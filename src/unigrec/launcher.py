"""Several ranks of one stage on this machine, started, watched and stopped by torchrun's own agent.

The agent is called directly: the command `torchrun` prints a table and ends with 1, whatever the ranks ended with.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.errors import UnigrecError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set for each rank by the agent: where it may leave its last words


def is_rank() -> bool:
    """Whether this process was started by torchrun, as one of its ranks."""
    return "WORLD_SIZE" in os.environ


def run_ranks(arguments: list[str], processes: int) -> None:
    """Run this Python with `arguments` as so many ranks, and return when all have ended well.

    Raises:
        UnigrecError: a rank failed. Its own error, with its exit code, where it left one by `report`; otherwise which
            rank ended how. The others have been stopped.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_devices(processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    logging.disable()  # the agent's table of failed ranks; what there is to say is in the error
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


def report(error: UnigrecError) -> None:
    """Print an error that a person can act on; a rank leaves it to the launcher, which prints it once for all ranks."""
    file = os.environ.get(ERROR_FILE)
    if file:
        Path(file).write_text(json.dumps({"message": str(error), "timestamp": int(time.time())}), encoding="utf-8")
    else:
        print(f"error: {error}", file=sys.stderr)


def _error_of(failed: ChildFailedError) -> UnigrecError:
    rank, failure = failed.get_first_failure()
    for reported in failed.failures.values():
        if Path(reported.error_file).is_file():
            error = UnigrecError(reported.message)
            error.exit_code = reported.exitcode
            return error
    by_signal, code = failure.exitcode < 0, failure.exitcode
    how = f"was killed by {failure.signal_name()}" if by_signal else f"ended with exit code {code}"
    return UnigrecError(f"rank {rank} {how}; what it said is above")


def _check_devices(processes: int) -> None:
    """One rank, one device. Raises UnigrecError when there are fewer GPUs than ranks."""
    import torch

    devices = torch.cuda.device_count()
    if torch.cuda.is_available() and devices < processes:
        raise UnigrecError(f"joint.processes = {processes}, but this machine has {devices} GPU: one is for one rank")
