"""Responses of the service that say why there is no answer. Workers have no web framework, and do not import this."""

from __future__ import annotations

from fastapi.responses import Response

from unigrec.service.replies import problem

NO_MODEL = "no model is loaded yet"
RETRY = {"Retry-After": "1"}  # seconds


def unavailable(why: str) -> Response:
    """503: another attempt may be answered."""
    return refusal(why, 503, RETRY)


def refusal(why: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """A status with its reason, as JSON."""
    return Response(problem(why), status, headers, media_type="application/json")
