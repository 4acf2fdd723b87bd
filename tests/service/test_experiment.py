"""An experiment: who gets which version, what is logged of it, and what happens when either version goes or comes."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from support.local_service import LocalFleet, LocalWorker
from unigrec.service.app import ASSIGNED_HEADER, REQUEST_HEADER, VARIANT_HEADER, VERSION_HEADER, batcher_of
from unigrec.service.experiment import Experiment
from unigrec.service.metrics import Metrics
from unigrec.service.variants import CHALLENGER, is_challenged
from unigrec.service.watch import Version

ASKED = {"histories": [["P3", "P5"], []], "k": 3}
NAME = "2-vs-1"
USERS = [f"user {number}" for number in range(20)]


def challenge(parts, bundle, version="2"):
    """Let a bundle be the challenger."""
    parts.client.portal.call(LocalFleet.take, parts.service.experiment.challenger, LocalWorker(bundle, version))


def told(answer):
    return tuple(answer.headers.get(name) for name in (VERSION_HEADER, VARIANT_HEADER, ASSIGNED_HEADER))


def test_the_split_is_even_sticky_nested_and_independent_of_another_experiment():
    users = [str(number) for number in range(4000)]
    tenth, third = (np.array([is_challenged(user, NAME, share) for user in users]) for share in (0.1, 0.3))
    assert abs(third.mean() - 0.3) < 4 * (0.21 / 4000) ** 0.5
    assert third[tenth].all()
    other = np.array([is_challenged(user, "3-vs-1", 0.3) for user in users])
    assert abs(np.corrcoef(third, other)[0, 1]) < 4 / 4000**0.5


def test_a_user_gets_one_version_and_the_answer_says_which(served, tiny_bundle, other_bundle):
    with served(share=0.5) as parts:
        challenge(parts, other_bundle)
        found = set()
        for user in USERS:
            expected = ("2", "challenger") if is_challenged(user, NAME, 0.5) else ("1", "champion")
            answer = parts.client.post("/v1/recommend", json=ASKED | {"user_id": user})
            assert told(answer) == (*expected, "split")
            bundle = other_bundle if expected[0] == "2" else tiny_bundle
            assert answer.json()["answers"] == [one.model_dump(mode="json") for one in bundle.recommend(**ASKED)]
            found.add(expected)
            assert REQUEST_HEADER not in answer.headers
        assert len(found) == 2
        labels = {"assigned": "split", "status": "200", "variant": "challenger", "version": "2"}
        expected = sum(is_challenged(user, NAME, 0.5) for user in USERS)
        assert parts.figure("unigrec_answers_total", **labels) == expected


def test_a_request_without_a_user_gets_the_champion_and_one_may_ask_for_a_version(served, other_bundle):
    with served(share=0.99) as parts:
        challenge(parts, other_bundle)
        ask = parts.client.post
        assert told(ask("/v1/recommend", json=ASKED)) == ("1", "champion", "no user_id")
        assert told(ask("/v1/similar", json={"item": "P3", "user_id": 7})) == ("2", "challenger", "split")
        asked = ASKED | {"user_id": "u", "variant": "champion"}
        assert told(ask("/v1/recommend", json=asked)) == ("1", "champion", "asked")
        assert told(ask("/v1/recommend", json=ASKED | {"variant": "challenger"})) == ("2", "challenger", "asked")
        assert told(parts.client.get("/v1/items/P3"))[1:] == ("champion", "no user_id")


def test_without_a_challenger_the_champion_answers(served, other_bundle):
    with served(share=0.99) as parts:
        assert told(parts.client.post("/v1/recommend", json=ASKED | {"user_id": "u"}))[1:] == (
            "champion",
            "no challenger",
        )
        named = parts.client.post("/v1/recommend", json=ASKED | {"variant": "challenger"})
        assert (named.status_code, named.json()["detail"]) == (503, "the challenger does not answer")
        state = parts.client.get("/readyz").json()
        assert state["ready"] is True
        assert (state["challenger"]["running"], state["challenger"]["version"]) == (False, None)
        challenge(parts, other_bundle)
        state = parts.client.get("/readyz").json()["challenger"]
        assert (state["running"], state["experiment"], state["share"]) == (True, NAME, 0.99)
        model = parts.client.get("/v1/model").json()
        assert (model["version"], model["challenger"]["version"]) == ("1", "2")
        assert model["challenger"]["bundle"] == other_bundle.id
    with served() as parts:
        named = parts.client.post("/v1/recommend", json=ASKED | {"variant": "challenger"})
        assert (named.status_code, "--challenger" in named.json()["detail"]) == (422, True)
        assert told(parts.client.post("/v1/recommend", json=ASKED | {"user_id": "u"}))[1:] == (None, None)


@pytest.mark.parametrize("user", ["", "x" * 257, True, 1.5, ["u"], "\ud800"])
def test_what_is_no_user_id_is_refused(client, user):
    body = json.dumps(ASKED | {"user_id": user})
    answer = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


def test_what_waits_for_a_challenger_that_goes_is_answered_by_the_champion(served, other_bundle):
    with served(share=0.99) as parts:
        challenge(parts, other_bundle)
        experiment, call = parts.service.experiment, parts.client.portal.call
        (worker,) = experiment.challenger.current.workers
        call(worker.go.clear)
        first, second = (
            parts.client.portal.start_task_soon(_post, parts.guard, ASKED | {"user_id": "u"}) for _ in range(2)
        )
        call(asyncio.sleep, 0.05)
        parts.client.portal.start_task_soon(LocalFleet.end, experiment.challenger)
        call(asyncio.sleep, 0.05)
        call(worker.go.set)
        assert {first.result()[0], second.result()[0]} <= {200}
        later = parts.client.post("/v1/recommend", json=ASKED | {"user_id": "u"})
        assert told(later) == ("1", "champion", "no challenger")


async def _post(guard, body):
    """Status and headers of a request, within the service's loop."""
    content, sent = json.dumps(body).encode(), []
    messages = [{"type": "http.request", "body": content}]
    scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"", "query_string": b""}
    scope["headers"] = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]

    async def receive():
        if not messages:
            await asyncio.sleep(60)
        return messages.pop()

    async def send(message):
        sent.append(message)

    await guard(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def test_a_promoted_challenger_ends_the_experiment_which_does_not_come_back_after_a_rollback(
    tiny_bundle, other_bundle, serve_params
):
    def version(label):
        return Version(label=label, folder=tiny_bundle.folder)

    async def case():
        metrics = Metrics()
        fleets = [LocalFleet(batcher_of(serve_params, metrics, name)) for name in ("champion", CHALLENGER)]
        champion, challenger = fleets
        experiment = Experiment(champion, challenger, 0.1)
        await champion.take(LocalWorker(tiny_bundle, "1"))
        await experiment.settle()
        assert experiment.wants(version("2"))
        await challenger.take(LocalWorker(other_bundle, "2"))
        await experiment.settle()
        assert experiment.name == NAME
        await champion.take(LocalWorker(other_bundle, "2"))
        assert experiment.name is None  # from the moment on
        await experiment.settle()
        assert (challenger.current, experiment.over) == (None, "2")
        await champion.take(LocalWorker(tiny_bundle, "1"))
        await experiment.settle()
        assert not experiment.wants(version("2"))
        assert experiment.wants(version("3"))
        assert not experiment.wants(version("1"))

    asyncio.run(case())


def test_impressions_hold_what_was_shown(served, other_bundle, tmp_path):
    with served(share=0.5, impressions=str(tmp_path / "log")) as parts:
        challenge(parts, other_bundle)
        shown = [parts.client.post("/v1/recommend", json=ASKED | {"user_id": user}) for user in USERS]
        parts.client.post("/v1/recommend", json=ASKED)
        parts.client.post("/v1/recommend", json=ASKED | {"user_id": "u", "k": 10**6})
        parts.client.post("/v1/recommend", json=ASKED | {"user_id": "asking", "variant": "challenger"})
        parts.service.impressions.close()
    rows = pq.read_table(tmp_path / "log").to_pylist()
    assert [row["user_id"] for row in rows[::2]] == [*USERS, "asking"]
    assert [row["history"] for row in rows] == [0, 1] * 21
    for number, answer in enumerate(shown):
        for place, own in enumerate(rows[2 * number : 2 * number + 2]):
            assert own["items"] == [item["item_id"] for item in answer.json()["answers"][place]["items"]]
            assert (own["version"], own["variant"], own["assigned"]) == told(answer)
            assert own["request_id"] == answer.headers[REQUEST_HEADER]
            assert (own["experiment"], own["share"], own["k"]) == (NAME, 0.5, 3)
    assert rows[-1]["assigned"] == "asked"
