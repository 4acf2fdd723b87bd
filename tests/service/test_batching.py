"""Questions that arrive together are searched for together; a full queue, a late, gone or lost one is settled."""

from __future__ import annotations

import asyncio
import json

import pytest

from support.local_service import LocalWorker
from unigrec.service.batching import Batcher, Lost, QueueFull
from unigrec.service.metrics import Metrics
from unigrec.service.replies import Question


def question(*histories: list[str], k: int = 2) -> Question:
    return Question("recommend", json.dumps({"histories": histories, "k": k}).encode())


def batcher(**settings: float) -> Batcher:
    return Batcher(
        **{"limit": 8, "size": 4, "wait_seconds": 0.005, "slow_seconds": 60.0, "metrics": Metrics()} | settings
    )


class DyingWorker(LocalWorker):
    async def ask(self, questions):
        self.batches.append(questions)
        raise EOFError


def test_what_arrives_within_the_wait_is_one_batch(tiny_bundle):
    async def case():
        queue, worker = batcher(), LocalWorker(tiny_bundle)
        queue.add(worker)
        jobs = [queue.put(question(["P3"]), 1) for _ in range(3)]
        found = [await job.reply for job in jobs]
        assert [len(batch) for batch in worker.batches] == [3]
        assert len({reply.body for reply in found}) == 1
        assert {job.version for job in jobs} == {"1"}

    asyncio.run(case())


def test_a_question_after_a_lone_one_does_not_wait_for_more_and_one_after_a_batch_does(tiny_bundle):
    async def case():
        queue, worker = batcher(wait_seconds=3600.0), LocalWorker(tiny_bundle)
        queue.add(worker)
        for _ in range(2):
            async with asyncio.timeout(60):
                await queue.put(question(["P3"]), 1).reply
        queue.wait_seconds = 0.05
        await asyncio.gather(*(queue.put(question(["P3"]), 1).reply for _ in range(2)))
        first = queue.put(question(["P3"]), 1)
        await asyncio.sleep(0.001)
        second = queue.put(question(["P3"]), 1)
        await asyncio.gather(first.reply, second.reply)
        assert [len(batch) for batch in worker.batches] == [1, 1, 2, 2]

    asyncio.run(case())


def test_a_batch_holds_no_more_histories_than_its_size_and_a_large_question_goes_alone(tiny_bundle):
    async def case():
        queue, worker = batcher(limit=100), LocalWorker(tiny_bundle)
        jobs = [queue.put(question(*[["P3"]] * count), count) for count in (2, 2, 1, 9, 1)]
        queue.add(worker)
        await asyncio.gather(*(job.reply for job in jobs))
        assert [len(batch) for batch in worker.batches] == [2, 1, 1, 1]

    asyncio.run(case())


def test_batches_shrink_while_they_are_slow_and_grow_again(tiny_bundle):
    async def case():
        queue, worker = batcher(limit=100, slow_seconds=0.0), LocalWorker(tiny_bundle)
        jobs = [queue.put(question(["P3"]), 1) for _ in range(8)]
        queue.add(worker)
        await asyncio.gather(*(job.reply for job in jobs))
        assert [len(batch) for batch in worker.batches] == [4, 2, 1, 1]
        queue.slow_seconds = 60.0
        await asyncio.gather(*(queue.put(question(["P3"]), 1).reply for _ in range(6)))
        assert [len(batch) for batch in worker.batches[4:]] == [1, 2, 3]

    asyncio.run(case())


def test_a_full_queue_takes_no_more_until_there_is_room(tiny_bundle):
    async def case():
        queue = batcher(limit=2)
        first = queue.put(question(["P3"]), 1)
        queue.put(question(["P3"]), 1)
        with pytest.raises(QueueFull):
            queue.put(question(["P3"]), 1)
        queue.drop(first)
        queue.put(question(["P3"]), 1)

    asyncio.run(case())


def test_a_dropped_question_is_not_searched_for(tiny_bundle):
    async def case():
        queue, worker = batcher(), LocalWorker(tiny_bundle)
        dropped, kept = queue.put(question(["P3"]), 1), queue.put(question(["P4"]), 1)
        queue.drop(dropped)
        queue.add(worker)
        await kept.reply
        assert worker.batches == [[kept.question]]

    asyncio.run(case())


def test_questions_of_a_worker_that_dies_go_to_another_one_each_alone(tiny_bundle):
    async def case():
        queue, lost = batcher(), []
        queue.on_lost = lost.append
        jobs = [queue.put(question(["P3"]), 1), queue.put(question(["P4"]), 1)]
        dying, living = DyingWorker(tiny_bundle), LocalWorker(tiny_bundle)
        queue.add(dying)
        await asyncio.sleep(0.02)
        assert lost == [dying]
        queue.add(living)
        assert [(await job.reply).status for job in jobs] == [200, 200]
        assert living.batches == [[job.question] for job in jobs]

    asyncio.run(case())


def test_a_question_that_kills_two_workers_is_given_up(tiny_bundle):
    async def case():
        queue = batcher()
        job = queue.put(question(["P3"]), 1)
        for _ in range(2):
            queue.add(DyingWorker(tiny_bundle))
        with pytest.raises(Lost):
            await job.reply

    asyncio.run(case())


def test_a_retired_worker_finishes_its_batch_and_takes_no_other(tiny_bundle):
    async def case():
        queue, old, new = batcher(wait_seconds=0.0), LocalWorker(tiny_bundle), LocalWorker(tiny_bundle, version="2")
        queue.add(old)
        old.go.clear()
        first = queue.put(question(["P3"]), 1)
        await asyncio.sleep(0.01)
        retiring = asyncio.create_task(queue.retire(old))
        second = queue.put(question(["P3"]), 1)
        queue.add(new)
        await second.reply
        old.go.set()
        await asyncio.gather(retiring, first.reply)
        assert (first.version, second.version) == ("1", "2")

    asyncio.run(case())


def test_another_queue_takes_over_what_waits_and_what_a_dying_worker_had(tiny_bundle):
    async def case():
        full, other = batcher(variant="challenger"), batcher(limit=1)
        full.on_lost = lambda worker: full.hand_over(other)
        jobs = [full.put(question(["P3"]), 1) for _ in range(5)]
        full.add(DyingWorker(tiny_bundle, version="2"))
        await asyncio.sleep(0.02)
        other.add(LocalWorker(tiny_bundle))
        assert [(await job.reply).status for job in jobs] == [200] * 5
        assert {(job.version, job.queue.variant) for job in jobs} == {("1", "champion")}

    asyncio.run(case())


def test_a_full_queue_a_missed_deadline_and_a_late_answer_get_503(served):
    with served(deadline_ms=400.0, queue=1) as parts:
        asked = {"histories": [["P3"]]}
        parts.client.portal.call(parts.worker.go.clear)
        late = parts.client.post("/v1/recommend", json=asked)
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert "within 0.4 s" in late.json()["detail"]
        parts.client.portal.call(parts.service.batcher.put, question(["P3"]), 1)
        assert "too many" in parts.client.post("/v1/recommend", json=asked).json()["detail"]
        parts.client.portal.call(parts.worker.go.set)
        parts.client.portal.call(asyncio.sleep, 0.1)
        assert parts.client.post("/v1/recommend", json=asked).status_code == 200
        assert parts.figure("unigrec_deadlines_missed_total") == 1.0
        labels = {"variant": "champion", "version": "1", "assigned": "no user_id"}
        counted = [parts.figure("unigrec_answers_total", status=status, **labels) for status in ("503", "200")]
        assert counted == [2.0, 1.0]  # late, too many, and then an answer


def test_a_client_that_is_gone_costs_no_search(served):
    asked = question(["P3"]).body
    messages = [{"type": "http.request", "body": asked}, {"type": "http.disconnect"}]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/recommend",
        "raw_path": b"/v1/recommend",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(asked)).encode())],
    }

    async def case(guard):
        sent = []

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        await guard(scope, receive, send)
        return sent

    with served() as parts:
        parts.client.portal.call(parts.worker.go.clear)
        first = parts.client.portal.call(parts.service.batcher.put, question(["P4"]), 1)
        parts.client.portal.call(asyncio.sleep, 0.05)  # the worker is busy with it
        sent = parts.client.portal.call(case, parts.guard)
        parts.client.portal.call(parts.worker.go.set)
        parts.client.portal.call(asyncio.sleep, 0.05)
        assert parts.worker.batches == [[first.question]]
        assert sent[0]["status"] == 499
        assert parts.figure("unigrec_clients_gone_total") == 1.0
        assert parts.figure("unigrec_queue_histories", variant="champion") == 0.0
