"""What the log of impressions costs the service: the same requests to one that keeps it and to one that does not."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.harness import Options, Table, in_child, say
from benchmarks.speed.latency import make_bundle
from benchmarks.speed.load import under_load
from benchmarks.speed.project import make_project
from benchmarks.speed.serve import DEADLINE_MS, DESIGN, histories_of
from benchmarks.speed.served import UNTRAINED
from benchmarks.speed.server import Server, service

ROUNDS, SECONDS, CLIENTS, WORKERS = 6, 10.0, 8, 1
K = 10
WITHOUT, WITH = "without the log", "with the log"
RATIOS = ("per s", "p50 ms", "CPU ms")


def run(options: Options) -> list[Table]:
    rounds, seconds = (1, 1.0) if options.quick else (ROUNDS, SECONDS)
    given: dict[str, Any] = {
        "artifacts": str(options.artifacts.absolute()) if options.artifacts else None,
        "quick": options.quick,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "made").mkdir()
        found, _ = in_child(make_bundle, folder=str(folder / "made"), design=DESIGN, **given)
        histories, _ = in_child(histories_of, **given)
        project = folder / "project"
        make_project(project, "--profile", "sample", "--set", f"serve.deadline_ms={DEADLINE_MS}")
        kept = folder / "kept"
        with (
            service(found, WORKERS, project, folder / "without.log") as without,
            service(found, WORKERS, project, folder / "with.log", "--impressions", str(kept)) as logged,
        ):
            servers = {WITHOUT: without, WITH: logged}
            rows = [row for path in bodies_of(histories) for row in compared(servers, path, histories, rounds, seconds)]
        size = sum(path.stat().st_size for path in kept.iterdir())
        answers = sum(row["answers"] for row in rows if row["service"] == WITH)
    notes = [
        UNTRAINED,
        f"{WORKERS} worker, {CLIENTS} clients in another process, k {K}, a user_id in every request; {rounds} rounds "
        f"of {seconds:.0f} s, the services in turn: medians over the rounds. `/v1/similar` costs the worker least, so "
        "the log's share is largest there.",
        f"The log: {size / 1e6:.1f} MB for {answers:,.0f} answers, {size / max(answers, 1):.0f} bytes per answer.",
    ]
    return [Table("log of impressions", rows, notes)]


def bodies_of(histories: list[list[str]]) -> dict[str, list[str]]:
    """Path -> bodies of requests."""
    users = [f"user-{number}" for number in range(len(histories))]
    similar = [{"item": own[0], "k": K, "user_id": user} for own, user in zip(histories, users, strict=True)]
    recommend = [{"histories": [own], "k": K, "user_id": user} for own, user in zip(histories, users, strict=True)]
    asked = {"/v1/similar": similar, "/v1/recommend": recommend}
    return {path: [json.dumps(body) for body in bodies] for path, bodies in asked.items()}


def compared(
    servers: dict[str, Server], path: str, histories: list[list[str]], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """A row per service."""
    bodies = bodies_of(histories)[path]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for number in range(rounds + 1):
        for name, server in servers.items():
            cells = under_load(server, path, bodies, CLIENTS, seconds)
            if number:  # the first round is a warm-up
                found[name].append(cells)
    rows: list[dict[str, Any]] = []
    for name, measured in found.items():
        cells = {column: median(one[column] for one in measured) for column in measured[0]}
        cells |= {"answers": sum(one["answers"] for one in measured), "failed": sum(one["failed"] for one in measured)}
        if name == WITH:
            cells |= {
                f"{column}: times without": median(
                    one[column] / other[column] for one, other in zip(measured, found[WITHOUT], strict=True)
                )
                for column in RATIOS
            }
        rows.append({"address": path, "service": name, **cells})
        say(f"impressions: {path}, {name}: {cells['per s']:.1f} per s, {cells['CPU ms']:.2f} CPU ms")
    return rows
