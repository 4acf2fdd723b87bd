"""`unigrec serve` as processes: changes of the model and deaths fail no request; malformed requests; the end."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from support.living import command_of, processes_of, wait_for
from support.promotions import MODEL, says, store
from support.running_service import Clients, Running, make_registry, running
from unigrec.promotion.champion import promote, rollback
from unigrec.registry.tracking import mlflow_client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FUZZED = 10_000
ADDRESSES = ("/v1/recommend", "/v1/similar", "/v1/complement", "/v1/items/P3", "/v1/model", "/readyz", "/", "/none")
EXPLORED = ("titles?query=%FF%00(", "titles?query=t&k=1e9", "items?item=%ED%A0%80", "branches?prefix=9", "test-user")


@pytest.fixture(scope="module")
def project(tmp_path_factory, empty_store) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return make_registry(tmp_path_factory.mktemp("project"), empty_store, seeds=[0, 1, 2])


def generations(folder: Path) -> list[int]:
    """Processes that hold a bundle, and their workers."""
    return [process for process in processes_of(folder) if "unigrec.service.generation" in command_of(process)]


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_promotion_rollback_broken_version_and_deaths_fail_no_request(project, monkeypatch):
    monkeypatch.chdir(project)
    registry = store(project)
    shutil.rmtree(project / "stored/3/artifacts/bundle/report")  # version 3 is damaged
    with running(project, "--workers", "2") as service, Clients(service.port) as clients:
        clients.wait_for_more()
        assert set(clients.versions) == {"1"}

        assert promote(registry, says("promote"), "2").moved
        wait_for(lambda: service.ready()["version"] == "2", 120)
        clients.wait_for_more()
        wait_for(lambda: service.ask("GET", "/v1/model")[2]["why"] == "promote: 2 beside 1")

        assert rollback(registry, None, "complaints").champion == "1"
        wait_for(lambda: service.ready()["version"] == "1", 120)
        clients.wait_for_more()

        with mlflow_client(registry) as client:
            client.set_registered_model_alias(MODEL, "champion", "3")
        wait_for(lambda: service.ready()["problem"], 120)
        ready = service.ready()
        assert (ready["ready"], ready["version"]) == (True, "1")
        assert "3 does not load" in ready["problem"]
        assert "3 does not load" in service.log.read_text()
        clients.wait_for_more()
        shutil.copytree(project / "stored/2/artifacts/bundle/report", project / "stored/3/artifacts/bundle/report")
        wait_for(lambda: service.ready()["version"] == "3", 120)  # repaired, and tried again without a move
        assert service.ready()["problem"] is None
        with mlflow_client(registry) as client:
            client.set_registered_model_alias(MODEL, "champion", "1")
        wait_for(lambda: service.ready()["version"] == "1" and len(generations(project)) == 3, 120)

        holder = next(process for process in generations(project) if parent_of(process) == service.process.pid)
        worker = next(process for process in generations(project) if parent_of(process) == holder)
        os.kill(worker, signal.SIGKILL)
        clients.wait_for_more(50)
        wait_for(lambda: service.ready()["workers"] == 2, 60)
    assert clients.failed == []
    assert set(clients.versions) == {"1", "2", "3"}


def test_a_process_that_holds_the_bundle_is_started_again(project):
    with running(project, "--workers", "1") as service:
        holder = next(process for process in generations(project) if parent_of(process) == service.process.pid)
        os.kill(holder, signal.SIGKILL)
        wait_for(lambda: not service.ready()["ready"], 60)
        wait_for(lambda: service.ready()["ready"], 120)
        assert service.ask("POST", "/v1/similar", {"item": "P3", "k": 1})[0] == 200


def test_sigterm_answers_what_is_asked_then_ends_everything(project):
    with running(project, "--workers", "1") as service, Clients(service.port) as clients:
        clients.wait_for_more()
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in service.log.read_text())
        status, _, ready = service.ask("GET", "/readyz")
        assert (status, ready["draining"]) == (503, True)
        assert service.ask("POST", "/v1/similar", {"item": "P3", "k": 1})[0] == 200
        clients.end()  # as a load balancer does that has seen /readyz: who connects at the very end may be reset
        assert service.process.wait(60) == 0
        with pytest.raises(ConnectionRefusedError):
            service.ask("GET", "/readyz")
    assert clients.failed == []  # what was asked was answered
    assert processes_of(project) == []
    assert "Traceback" not in service.log.read_text()


def test_an_experiment_survives_its_challenger_and_ends_with_its_promotion(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    registry = store(project)
    options = ("--challenger", "2", "--share", "0.5", "--workers", "1", "--impressions", str(tmp_path / "log"))
    with running(project, *options) as service, Clients(service.port, users=200) as clients:
        wait_for(lambda: service.ready()["challenger"]["running"], 120)
        clients.wait_for_more(10)
        before = dict(clients.versions)
        clients.wait_for_more(100)
        assert all(clients.versions[version] > before.get(version, 0) + 20 for version in ("1", "2"))

        holders = [one for one in generations(project) if parent_of(one) == service.process.pid]
        os.kill(max(holders), signal.SIGKILL)  # the challenger's is started after the champion's
        wait_for(lambda: not service.ready()["challenger"]["running"], 60)
        clients.wait_for_more(50)
        wait_for(lambda: service.ready()["challenger"]["running"], 120)

        assert promote(registry, says("promote"), "2").moved
        wait_for(lambda: service.ready()["challenger"]["over"] == "2", 120)
        assert service.ready()["version"] == "2"
        clients.wait_for_more(50)
        assert rollback(registry, None, "complaints").champion == "1"
        wait_for(lambda: service.ready()["version"] == "1", 120)
        clients.wait_for_more(50)
        assert service.ready()["challenger"]["running"] is False
    assert clients.failed == []
    log = pq.read_table(tmp_path / "log")
    assert log.num_rows == clients.answered  # nothing is lost at the end
    assert set(log["assigned"].to_pylist()) == {"split", "no challenger"}


def test_a_challenger_that_does_not_load_leaves_the_champion_answering(project):
    with running(project, "--challenger", "9", "--share", "0.5", "--workers", "1") as service:
        wait_for(lambda: service.ready()["challenger"]["problem"], 60)
        ready = service.ready()
        assert (ready["ready"], ready["problem"], ready["challenger"]["running"]) == (True, None, False)
        assert "no version or alias '9'" in ready["challenger"]["problem"]
        asked = {"histories": [["P3"]], "k": 1, "user_id": "u"}
        assert service.ask("POST", "/v1/recommend", asked)[1]["x-unigrec-assigned"] == "no challenger"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--challenger", "2"], "go together"),
        (["--share", "0.1"], "go together"),
        (["--challenger", "2", "--share", "1"], "between 0 and 1"),
        (["--challenger", "champion", "--share", "0.1"], "the same as --model"),
        (["--impressions", "params.yaml/log"], "no folder for impressions"),
        (["--model", "staging"], "no version or alias 'staging'"),
        (["--model", "./nothing"], "no such bundle"),
        (["--host", "203.0.113.1"], "cannot be bound"),
    ],
)
def test_a_service_without_a_model_or_address_is_bad_input(project, options, said):
    with pytest.raises(AssertionError, match=said), running(project, *options):
        pass


# --- malformed requests ----------------------------------------------------------------------------------------------


def malformed(chance: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """Method, path, body and headers of a request that is wrong in some way, or by luck is not."""
    method = chance.choice(["POST"] * 8 + ["GET", "PUT", "DELETE", "PATCH"])
    strange = ("/v1/items/" + "%FF" * 5, "/v1/items/" + "x" * 3000, "/../etc/passwd", "/%00")
    explored = tuple(f"/v1/explore/{address}" for address in EXPLORED)
    path = chance.choice(ADDRESSES * 3 + strange + explored)
    body = chance.choice([_of_values, _broken_json, _bytes])(chance)
    kind = chance.choice(["application/json"] * 6 + ["text/plain", "application/xml; charset=\x7f", ""])
    return method, path, body, {"Content-Type": kind} if kind else {}


def _of_values(chance: random.Random) -> bytes:
    """JSON with fields of the schema, and values of any kind."""
    names = ["histories", "k", "allow", "deny", "filter", "exclude_history", "rank_by", "item", "basket", "unknown"]
    names += ["user_id", "variant"]
    return json.dumps({name: _value(chance, 0) for name in chance.sample(names, chance.randrange(6))}).encode()


def _value(chance: random.Random, depth: int) -> object:
    plain = ["P3", "gone", "", 3, -1, 0, 2**70, 1.5, 1e308, True, None, "\ud800", "x" * 5000, "price < 3", "(" * 50]
    if depth > 3 or chance.random() < 0.5:
        return chance.choice(plain)
    inner = [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return inner if chance.random() < 0.7 else {str(place): value for place, value in enumerate(inner)}


def _broken_json(chance: random.Random) -> bytes:
    text = bytearray(b'{"histories": [["P3", "P5"]], "k": 3, "filter": "item_index > 2"}')
    for _ in range(chance.randrange(1, 5)):
        text[chance.randrange(len(text))] = chance.randrange(256)
    return bytes(text[: chance.randrange(len(text))]) + b"[" * chance.choice([0, 0, 10, 20_000])


def _bytes(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([0, 1, 10, 1000]))


def test_ten_thousand_malformed_requests_leave_the_service_answering(project):
    chance = random.Random(0)
    statuses: dict[int, int] = {}
    with running(project, "--workers", "1") as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for number in range(FUZZED):
            method, path, body, headers = malformed(chance)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
            except (http.client.HTTPException, ConnectionError):
                connection.close()  # the server ends a connection after what is no HTTP
                continue
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            if number % 100 == 0:
                no_http(service, chance)
        bad = {status: count for status, count in statuses.items() if status >= 500 and status != 503}
        assert not bad, service.log.read_text()[-3000:]
        assert sum(statuses.values()) > 0.95 * FUZZED
        assert {200, 404, 405, 422} <= set(statuses)
        assert service.ask("POST", "/v1/recommend", {"histories": [["P3"]], "k": 3})[0] == 200
        assert "Traceback" not in service.log.read_text()


def no_http(service: Running, chance: random.Random) -> None:
    """Send what is no request, or half of one, and leave."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        half = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        connection.sendall(chance.choice([chance.randbytes(200), half, b"\r\n" * 50, half.replace(b"100", b"-1")]))
        time.sleep(0.01)
