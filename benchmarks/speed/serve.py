"""The service under load, in turn with MLflow's server of the same bundle: throughput, latency, start, memory."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.harness import Options, Table, in_child, run_command, say
from benchmarks.speed.latency import make_bundle, requests_of
from benchmarks.speed.load import under_load
from benchmarks.speed.project import UNIGREC, make_project, path_of_tools
from benchmarks.speed.served import UNTRAINED
from benchmarks.speed.server import Server, mlflow_server, service
from benchmarks.speed.shapes import learning_data

CLIENTS = (1, 8, 32)
ROUNDS, SECONDS = 3, 20.0
WORKERS = 2
DEADLINE_MS = 30_000  # MLflow's server has none
DESIGN = "published"
RATIOS = ("per s", "CPU ms")
REFUSED = 1  # exit code of `unigrec register` for a bundle whose gates refused it: it is a version without alias
OURS, THEIRS = "unigrec serve", "mlflow models serve"


def run(options: Options) -> list[Table]:
    rounds, seconds = (1, 2.0) if options.quick else (ROUNDS, SECONDS)
    artifacts = str(options.artifacts.absolute()) if options.artifacts else None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        project, bundle = folder / "project", folder / "made"
        bundle.mkdir()
        given: dict[str, Any] = {"artifacts": artifacts, "quick": options.quick}
        found, _ = in_child(make_bundle, folder=str(bundle), design=DESIGN, **given)
        histories, _ = in_child(histories_of, **given)
        register(project, found)
        with (
            service(found, WORKERS, project, folder / "ours.log") as ours,
            mlflow_server("models:/unigrec/1", project, folder / "theirs.log") as theirs,
        ):
            rows = compared({OURS: ours, THEIRS: theirs}, histories, rounds, seconds)
            starts = [start_row(OURS, ours), start_row(THEIRS, theirs)]
        memory = [memory_row(found, workers, project, folder, histories, seconds) for workers in (1, 2, 3)]
    for row, before in zip(memory[1:], memory, strict=False):
        row["MB more"] = row["MB"] - before["MB"]
    notes = [
        UNTRAINED,
        f"The paper's network and catalogue, beam 30, k 10. {WORKERS} workers of ours, one thread each; MLflow's "
        "server at its defaults. The clients are another process; each sends a request as soon as it has the answer to "
        "the one before. The servers are loaded in turn; the other one waits.",
        f"{rounds} rounds of {seconds:.0f} s: medians over the rounds. `CPU ms` is the time of all processes of a "
        "server per answer; it hardly depends on other work of the machine, requests per second and percentiles do.",
    ]
    how = "Ours reads a bundle's folder; MLflow's reads a version from a registry in SQLite."
    return [
        Table("load", rows, notes),
        Table("start to ready", starts, [how]),
        Table("memory", memory, ["Of all processes after a load of 8 clients; shared pages count once (PSS)."]),
    ]


def histories_of(artifacts: str | None, quick: bool) -> list[list[str]]:
    """Histories of test users. Runs in its own process."""
    sequences = learning_data(artifacts, 1, quick).sequences
    return [call["histories"][0] for call in requests_of(sequences, 500, {})]


def register(project: Path, bundle: str) -> None:
    """Make a project whose registry has the bundle as one more version. Raises RuntimeError."""
    if not project.is_dir():
        make_project(project, "--profile", "sample", "--set", f"serve.deadline_ms={DEADLINE_MS}")
    usage = run_command([*UNIGREC, "register", "--bundle", bundle], folder=project, PATH=path_of_tools())
    if usage.code not in (0, REFUSED):
        raise RuntimeError(f"unigrec register ended with code {usage.code}; its output is above")


def bodies_of(name: str, histories: list[list[str]]) -> tuple[str, list[str]]:
    """Path and bodies of requests to one of the servers."""
    if name == OURS:
        return "/v1/recommend", [json.dumps({"histories": [history], "k": 10}) for history in histories]
    asked = [{"columns": ["history"], "data": [[history]]} for history in histories]
    return "/invocations", [json.dumps({"dataframe_split": table, "params": {"k": 10}}) for table in asked]


def compared(
    servers: dict[str, Server], histories: list[list[str]], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """A row per number of clients and server."""
    rows: list[dict[str, Any]] = []
    for name, server in servers.items():
        under_load(server, *bodies_of(name, histories), 2, min(seconds, 5.0))  # a warm-up
    for clients in CLIENTS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                found[name].append(under_load(server, *bodies_of(name, histories), clients, seconds))
        medians = {
            name: {column: median(cells[column] for cells in measured) for column in measured[0]}
            for name, measured in found.items()
        }
        for name, cells in medians.items():
            row = {"clients": clients, "server": name, **cells}
            if name == OURS:
                row |= {f"{column}: times MLflow's": cells[column] / medians[THEIRS][column] for column in RATIOS}
            rows.append(row)
            say(f"serve: {clients} clients, {name}: {cells['per s']:.1f} per s, {cells['CPU ms']:.1f} CPU ms")
    return rows


def start_row(name: str, server: Server) -> dict[str, Any]:
    return {"server": name, "CPU s": server.ready_cpu, "wall s": server.ready}


def memory_row(
    bundle: str, workers: int, project: Path, folder: Path, histories: list[list[str]], seconds: float
) -> dict[str, Any]:
    with service(bundle, workers, project, folder / "memory.log") as server:
        under_load(server, *bodies_of(OURS, histories), 8, min(seconds, 10.0))
        return {"workers": workers, "MB": server.memory() / 1e6}
