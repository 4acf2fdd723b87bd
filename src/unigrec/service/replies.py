"""What a worker computes: a bundle's replies to a batch of questions, searched for together where they agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from unigrec.base.errors import UnigrecError
from unigrec.service.kinds import KINDS, Answers
from unigrec.serving.schema import Answer, Request

if TYPE_CHECKING:
    from unigrec.serving.bundle import Bundle

OK, INTERNAL = 200, 500  # HTTP


class Question(NamedTuple):
    """kind: a key of KINDS. body: a request of that kind, as JSON without line breaks."""

    kind: str
    body: bytes

    def line(self) -> bytes:
        return self.kind.encode() + b" " + self.body

    @classmethod
    def of_line(cls, line: bytes) -> Question:
        kind, _, body = line.partition(b" ")
        return cls(kind.decode(), body)


class Reply(NamedTuple):
    """status: of HTTP. body: the answer, or why there is none, as JSON without line breaks.

    unknown: items of histories and baskets that the catalogue lacks. popular: answers by popularity alone.
    """

    status: int
    body: bytes
    unknown: int = 0
    popular: int = 0

    def line(self) -> bytes:
        return b"%d %d %d %s" % (self.status, self.unknown, self.popular, self.body)

    @classmethod
    def of_line(cls, line: bytes) -> Reply:
        status, unknown, popular, body = line.split(b" ", 3)
        return cls(int(status), body, int(unknown), int(popular))


def replies(bundle: Bundle, questions: Sequence[Question]) -> list[Reply]:
    """A reply per question. Histories of requests whose other fields are equal are searched for together."""
    found: dict[int, Reply] = {}
    groups: dict[str, list[tuple[int, Request]]] = {}  # by the other fields, as JSON
    for place, question in enumerate(questions):
        try:
            asked = KINDS[question.kind].request.model_validate_json(question.body)
        except ValueError as error:  # the service has checked it with the same schema
            found[place] = _refused(error, KINDS[question.kind].refused)
            continue
        if isinstance(asked, Request):
            groups.setdefault(asked.model_dump_json(exclude={"histories"}), []).append((place, asked))
        else:
            found[place] = _single(bundle, question.kind, asked)
    for members in groups.values():
        found |= _together(bundle, members)
    return [found[place] for place in range(len(questions))]


def _together(bundle: Bundle, members: list[tuple[int, Request]]) -> dict[int, Reply]:
    """Replies by place. If the search fails, each request is searched for alone, so that one cannot fail others."""
    first = members[0][1]
    merged = first.model_copy(update={"histories": tuple(row for _, asked in members for row in asked.histories)})
    try:
        answers = iter(bundle.recommend(**dict(merged)))
    except Exception as error:  # whatever it is, other requests go on
        if len(members) == 1:
            return {members[0][0]: _refused(error, KINDS["recommend"].refused)}
        return {place: reply for member in members for place, reply in _together(bundle, [member]).items()}
    return {place: _of_answers([next(answers) for _ in asked.histories]) for place, asked in members}


def _of_answers(answers: list[Answer]) -> Reply:
    body = Answers(answers=tuple(answers)).model_dump_json().encode()
    unknown, popular = (sum(getattr(answer, name) for answer in answers) for name in ("unknown", "by_popularity"))
    return Reply(OK, body, unknown, popular)


def _single(bundle: Bundle, name: str, asked: BaseModel) -> Reply:
    try:
        answer = _method(bundle, name)(**dict(asked))
    except Exception as error:  # as in `_together`
        return _refused(error, KINDS[name].refused)
    return Reply(OK, answer.model_dump_json().encode(), unknown=getattr(answer, "unknown", 0))


def _method(bundle: Bundle, name: str) -> Callable[..., Any]:
    """What answers a kind of question."""
    if not KINDS[name].explores:
        return getattr(bundle, name)
    from unigrec.service.explorer import answers  # reads tables: for workers alone

    return partial(getattr(answers, name), bundle)


def _refused(error: Exception, status: int) -> Reply:
    """The bundle's own words, or, for an error that no one foresaw, its kind and place for the log."""
    if isinstance(error, UnigrecError):
        return Reply(status, problem(str(error)))
    return Reply(INTERNAL, problem(f"{type(error).__name__} at {place_of(error)}"))


def place_of(error: BaseException) -> str:
    """File and line of the innermost call: what a log may hold of an error whose text may hold ids."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown place" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def problem(text: str) -> bytes:
    """The JSON of an answer that says what was wrong."""
    # ASCII: a text may quote half a surrogate pair, which UTF-8 cannot hold.
    return json.dumps({"detail": text}).encode()
