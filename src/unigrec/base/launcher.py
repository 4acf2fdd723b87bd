"""Run several ranks of one stage, on this machine or on several: torchrun's own agent starts, watches and stops them.

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
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from unigrec.base.errors import EXIT_BROKEN, EXIT_OK, UnigrecError
from unigrec.base.hosts import Hosts, HostsError, Meeting, interface_of, meeting
from unigrec.base.masking import masked
from unigrec.base.process import LAUNCHER, cores

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # set by the agent for each rank: the file for its error


def is_rank() -> bool:
    """Whether this process was started by torchrun, as one of its ranks."""
    return "WORLD_SIZE" in os.environ


def run_ranks(arguments: list[str], processes: int, param: str = "joint.processes", met: Meeting | None = None) -> None:
    """Run this Python with `arguments` as `processes` ranks per host, and return when all have succeeded.

    Args:
        param: where `processes` is from, for messages.
        met: the hosts, if there are several. Ranks are numbered host by host, so rank 0 is on host 0.

    Raises:
        UnigrecError: a rank failed, and the others have been stopped. If the rank left an error by `report`, this is
            that error with its exit code; otherwise it says which rank ended and how, after the rank's traceback.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_devices(processes, param)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(cores() // processes, 1)))
    logging.disable()  # no table of failed ranks from the agent: the error says it
    os.environ[LAUNCHER] = str(os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            nproc_per_node=processes, max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=folder), **_rendezvous(met)
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            raise _error_of(error, met) from error
        except SignalException as error:
            if met is not None:
                stopped = signal.Signals(error.sigval).name
                met.tell(HostsError(f"it was stopped by {stopped}", 128 + error.sigval))
            sys.exit(128 + error.sigval)
        finally:
            del os.environ[LAUNCHER]
            logging.disable(logging.NOTSET)


def _rendezvous(met: Meeting | None) -> dict[str, Any]:
    """Where the agents of the hosts find each other.

    Several hosts have met already, and `static` numbers them as they are numbered. With `c10d`, torch would number them
    by their addresses, so rank 0, which writes and shows the progress, could be anywhere.
    """
    if met is None:
        return {
            "min_nodes": 1,
            "max_nodes": 1,
            "run_id": uuid.uuid4().hex,
            "rdzv_backend": "c10d",
            "rdzv_endpoint": "localhost:0",  # a free port
            "local_addr": "localhost",
        }
    return {
        "min_nodes": met.hosts.count,
        "max_nodes": met.hosts.count,
        "run_id": met.run,
        "rdzv_backend": "static",
        "rdzv_endpoint": met.hosts.rendezvous,
        "rdzv_configs": {"rank": met.hosts.rank, "timeout": int(met.hosts.join_seconds)},
        "local_addr": met.local_address,
    }


def run_on_hosts(
    arguments: list[str], processes: int, param: str, hosts: Hosts, inputs: dict[str, str], shared: Path
) -> None:
    """As `run_ranks`, on several hosts, each of which calls this. inputs, shared: as in `hosts.meeting`.

    Raises:
        UnigrecError: as `run_ranks`; or the hosts do not come together.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no warnings of hosts without a name
    with meeting(hosts, inputs, shared, end=_end) as met:
        interface = interface_of(met.local_address)
        for library in ("GLOO", "NCCL") if interface else ():  # by itself, gloo takes the address of the host's name
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", str(interface))
        run_ranks(arguments, processes, param, met)


def _end(error: HostsError) -> None:
    """End this process, from any thread: the agent may wait for a host that is gone. Its ranks end with it."""
    code = report(error)
    sys.stderr.flush()
    os._exit(code)


def run_and_end(work: Callable[[], None]) -> NoReturn:
    """Do the work of this process, report its error, and end the process at once, without the interpreter's teardown.

    Process groups leave threads behind (of gloo, of the store) on which the teardown may abort: successful work would
    look like a crash, and an error would lose its exit code. Nothing needs a teardown: files are complete when they are
    renamed.
    """
    code = EXIT_OK
    try:
        work()
    except Exception as error:
        code = report(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report(error: Exception) -> int:
    """Print an error for the user as one line, any other error with its traceback; returns the exit code.

    What the system says of a path is for the user too. Any other error without words of ours is a defect. Credentials
    are masked. A rank writes the error to a file for the launcher, which prints one for all ranks.
    """
    if isinstance(error, OSError) and error.filename is not None:
        error = UnigrecError(f"{error.filename}: {error.strerror}")
    code = error.exit_code if isinstance(error, UnigrecError) else None
    message = masked("".join(traceback.format_exception(error)).rstrip() if code is None else str(error))
    if not _left_for_launcher(error, message, code):
        print(message if code is None else f"error: {message}", file=sys.stderr)
    return EXIT_BROKEN if code is None else code


def _left_for_launcher(error: Exception, message: str, code: int | None) -> bool:
    """Write the error of a rank to its file, which is there as a whole or not at all: the agent may stop this rank now.

    Returns False if this is no rank, or the file cannot be written.
    """
    file = os.environ.get(ERROR_FILE)
    if file:
        from unigrec.base import files

        words = {"message": message, "timestamp": time.time(), "exit_code": code, "lost_peer": _lost_peer(error)}
        with suppress(OSError, UnigrecError):
            files.write_text(Path(file), json.dumps(words))  # ASCII: the agent reads it in the locale's encoding
            return True
    return False


def _lost_peer(error: Exception) -> bool:
    """Whether a collective operation failed because another rank ended or stalled."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and (isinstance(error, distributed.DistError) or "gloo/transport" in str(error))


def _error_of(failed: ChildFailedError, met: Meeting | None) -> UnigrecError:
    rank, failure = min(failed.failures.items(), key=lambda item: _blame(item[1]))
    words = failure.error_file_data
    if met is not None and words.get("lost_peer"):
        met.await_reason()
    error = _own_error(rank, failure)
    if met is not None:
        met.tell(error)
    return error


def _own_error(rank: int, failure: ProcessFailure) -> UnigrecError:
    words = failure.error_file_data
    code = words.get("exit_code")
    if code is not None:
        error = UnigrecError(words["message"])
        error.exit_code = code  # of the report; the process may have ended otherwise afterwards
        return error
    if "exit_code" in words:  # written by `report`, not by the agent
        print(words["message"], file=sys.stderr)
    if failure.exitcode >= 0:
        error = UnigrecError(f"rank {rank} ended with exit code {failure.exitcode}; what it said is above")
        error.exit_code = EXIT_BROKEN if failure.exitcode == EXIT_BROKEN else error.exit_code
        return error
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


def _check_devices(processes: int, param: str) -> None:
    """Each rank needs a GPU of its own. Raises UnigrecError when there are fewer GPUs than ranks."""
    import torch

    devices = torch.cuda.device_count()
    if torch.cuda.is_available() and devices < processes:
        raise UnigrecError(f"{param} = {processes}, but this machine has {devices} GPU: one is for one rank")
