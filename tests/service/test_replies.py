"""A batch is replied to as each of its questions alone, and one that fails harms no other."""

from __future__ import annotations

import json
import socket

import pytest

from unigrec.service import frames
from unigrec.service.replies import Question, Reply, replies


def asked(kind: str = "recommend", **fields: object) -> Question:
    return Question(kind, json.dumps(fields).encode())


QUESTIONS = [
    asked(histories=[["P3"], []], k=3),
    asked(histories=[["P3", "gone"]], k=2),
    asked("similar", item="P4", k=2),
    asked(histories=[["квас"]], k=3),
    asked(histories=[], k=3),
    asked(histories=[["P3"]], k=99),
    asked("complement", basket=["P3", "P5"], k=1),
    asked("item", item="a,b"),
    asked("item", item="gone"),
    asked(histories=[["P3"]], k=2, boost={"item_index > 5": 0.5}),
    asked(histories=[["P4"]], k=2, boost={"item_index > 5": 0.5}),
    asked(histories=1),
    asked(histories=[["P5"]], k=3, allow=["P3", "P4", "P5"], deny=["P4"]),
]


def without_scores(reply: Reply) -> str:
    """Scores of a batch differ in their last digits from those of a single search."""
    return json.dumps(json.loads(reply.body, parse_float=lambda text: round(float(text), 3)))


def test_a_batch_is_replied_to_as_each_question_alone(tiny_bundle):
    together = replies(tiny_bundle, QUESTIONS)
    alone = [replies(tiny_bundle, [question])[0] for question in QUESTIONS]
    assert [without_scores(reply) for reply in together] == [without_scores(reply) for reply in alone]
    assert [reply._replace(body=b"") for reply in together] == [reply._replace(body=b"") for reply in alone]
    assert [reply.status for reply in together] == [200, 200, 200, 200, 200, 422, 200, 200, 404, 200, 200, 500, 200]


def test_requests_that_agree_are_searched_for_together(tiny_bundle, monkeypatch):
    calls = []
    recommend = tiny_bundle.recommend
    monkeypatch.setattr(
        tiny_bundle, "recommend", lambda histories, **more: calls.append(len(histories)) or recommend(histories, **more)
    )
    replies(tiny_bundle, [asked(histories=[["P3"], ["P4"]]), asked(histories=[["P5"]], k=2), asked(histories=[["P6"]])])
    assert calls == [3, 1]


def test_an_unforeseen_failure_is_of_one_request_and_says_where_not_what(tiny_bundle, monkeypatch):
    recommend = tiny_bundle.recommend

    def fails(histories, **more):
        if ("P7",) in histories:
            raise KeyError("P7")
        return recommend(histories, **more)

    monkeypatch.setattr(tiny_bundle, "recommend", fails)
    good, bad = replies(tiny_bundle, [asked(histories=[["P3"]]), asked(histories=[["P7"]])])
    assert (good.status, bad.status) == (200, 500)
    assert b"KeyError at" in bad.body
    assert b"P7" not in bad.body


def test_unknown_items_and_popular_answers_are_counted(tiny_bundle):
    (reply,) = replies(tiny_bundle, [asked(histories=[["gone", "P3", None], ["gone"], []])])
    assert (reply.unknown, reply.popular) == (3, 2)


def test_lines_keep_questions_and_replies():
    question, reply = Question("item", b'{"item": "a b"}'), Reply(200, b'{"a": "b c"}', 1, 2)
    assert Question.of_line(question.line()) == question
    assert Reply.of_line(reply.line()) == reply


def test_frames_arrive_whole_and_an_end_is_none():
    here, there = socket.socketpair()
    with here, there:
        here.sendall(frames.packed([b"one", b"", b"three"]))
        here.sendall(frames.packed([b"four"]) + b"\0")
        here.shutdown(socket.SHUT_WR)
        assert frames.receive(there) == [b"one", b"", b"three"]
        assert frames.receive(there) == [b"four"]
        assert frames.receive(there) is None


def test_a_length_that_none_of_ours_has_is_refused():
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ValueError, match="a frame of"):
            frames.receive(there)
