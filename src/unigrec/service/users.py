"""The addresses that answer about many users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from unigrec.serving.schema import (
    AudienceAnswer,
    AudienceRequest,
    LookalikeAnswer,
    LookalikeRequest,
    SegmentsAnswer,
    SegmentsRequest,
)

if TYPE_CHECKING:
    from unigrec.service.app import Service


def add_users(app: FastAPI, service: Service, refusals: dict[int | str, dict[str, Any]]) -> None:
    """Add them to the service."""

    @app.post("/v1/audience", response_model=AudienceAnswer, responses=refusals, tags=["users"])
    async def audience(asked: AudienceRequest, http: HttpRequest) -> Response:
        """Which of these users take the item next?"""
        return await service.ask("audience", asked, http)

    @app.post("/v1/lookalike", response_model=LookalikeAnswer, responses=refusals, tags=["users"])
    async def lookalike(asked: LookalikeRequest, http: HttpRequest) -> Response:
        """Which of the other users are like the seeds?"""
        return await service.ask("lookalike", asked, http)

    @app.post("/v1/segments", response_model=SegmentsAnswer, responses=refusals, tags=["users"])
    async def segments(asked: SegmentsRequest, http: HttpRequest) -> Response:
        """Which kinds of users are these?"""
        return await service.ask("segments", asked, http)
