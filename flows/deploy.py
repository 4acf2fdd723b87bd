"""Registers the work pool, the deployments of prefect.yaml and the notifications with the Prefect server.

Run `python -m flows.deploy` before the worker starts and after each change. It is safe to repeat.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.prefect_server.notifications import arrange, check_address
from flows.prefect_server.server import check_health
from flows.stages.processes import child_environment
from unigrec.base.errors import EXIT_OK, UnigrecError
from unigrec.base.launcher import report
from unigrec.base.loopback import ask_this_machine_directly, drop_proxies_that_httpx_refuses
from unigrec.base.masking import WEBHOOK_VARIABLE

DEPLOYMENTS = Path("prefect.yaml")
POOL = "training"


def register() -> None:
    """Make the work pool, and register every deployment of prefect.yaml in the working directory.

    Raises:
        UnigrecError: no server is configured, or it refuses them; the message says why.
    """
    if not PREFECT_API_URL.value():
        raise UnigrecError("PREFECT_API_URL: set it to the address of the server that schedules the deployments")
    check_health("start it, then register again")
    _make_pool()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    done = subprocess.run(command, env=child_environment(os.environ), capture_output=True, text=True)
    if done.returncode:
        raise UnigrecError(f"{DEPLOYMENTS} could not be registered: {(done.stdout + done.stderr).strip()}")


def _make_pool() -> None:
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=ProcessWorker.get_default_base_job_template())
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(pool)
        except ObjectAlreadyExists:
            return


def main() -> int:
    """Register everything. Returns an exit code of errors.py."""
    address = os.environ.get(WEBHOOK_VARIABLE) or None
    ask_this_machine_directly()
    drop_proxies_that_httpx_refuses()
    try:
        check_address(address)
        register()
        arrange(address)
    except Exception as error:
        return report(error)
    where = "go to the webhook" if address else f"are off: {WEBHOOK_VARIABLE} is not set"
    print(f"the deployments of {DEPLOYMENTS} are registered; notifications {where}", flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
