"""Ten minutes of load on the service, with a change of the champion and back in the middle: no request may fail."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.harness import Options, Table, in_child, run_command, say
from benchmarks.speed.latency import make_bundle
from benchmarks.speed.load import load
from benchmarks.speed.serve import DEADLINE_MS, OURS, WORKERS, bodies_of, histories_of, register
from benchmarks.speed.served import UNTRAINED
from benchmarks.speed.server import service

CLIENTS, SECONDS, QUICK_SECONDS = 32, 600.0, 45.0
VERSIONS = {"1": "published", "2": "shipped"}  # version -> design of its network
# The gates refused these untrained models, so that `unigrec promote` would not promote them.
MOVE = "import mlflow, sys; mlflow.MlflowClient().set_registered_model_alias('unigrec', 'champion', sys.argv[1])"


def run(options: Options) -> list[Table]:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    artifacts = str(options.artifacts.absolute()) if options.artifacts else None
    given: dict[str, Any] = {"artifacts": artifacts, "quick": options.quick}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        project = folder / "project"
        for version, design in VERSIONS.items():
            made = folder / version
            made.mkdir()
            found, _ = in_child(make_bundle, folder=str(made), design=design, **given)
            register(project, found)
        histories, _ = in_child(histories_of, **given)
        path, bodies = bodies_of(OURS, histories)
        move(project, "1")
        with service("champion", WORKERS, project, folder / "log") as server:
            turns = ((1 / 3, "2"), (2 / 3, "1"))
            changes = [threading.Timer(seconds * part, move, (project, to)) for part, to in turns]
            for change in changes:
                change.start()
            found, _ = in_child(load, port=server.port, path=path, bodies=bodies, clients=CLIENTS, seconds=seconds)
            for change in changes:
                change.join()
            log = (folder / "log").read_text()
    taken = np.array(found["seconds"]) * 1e3
    failed = sum(found["failed"].values())
    row = {"clients": CLIENTS, "seconds": found["wall"], "answered": len(taken), "failed": failed}
    row |= {f"by version {version}": count for version, count in sorted(found["versions"].items())}
    row["changes"] = log.count(" answers, after") - 1
    row |= {f"p{share} ms": float(np.percentile(taken, share)) for share in (50, 99)}
    say(f"soak: {row} {found['failed']}")
    notes = [
        UNTRAINED,
        "The alias `champion` moves to version 2 after a third of the time and back after two thirds. "
        f"{WORKERS} workers; deadline {DEADLINE_MS / 1e3:.0f} s.",
    ]
    return [Table("soak", [row], notes)]


def move(project: Path, version: str) -> None:
    """Point the alias at a version. Raises RuntimeError."""
    command = [sys.executable, "-c", MOVE, version]
    usage = run_command(command, folder=project, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    if usage.code:
        raise RuntimeError(f"the alias could not be moved to version {version}")
