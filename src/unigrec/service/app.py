"""The addresses of the service."""

from __future__ import annotations

import asyncio
import json
import logging
import string
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

from fastapi import FastAPI, HTTPException
from fastapi import Path as InPath
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from unigrec.service.batching import Batcher, Job, Lost, QueueFull
from unigrec.service.explorer.addresses import add_explorer
from unigrec.service.impressions import Shown
from unigrec.service.kinds import Answers, ItemRequest
from unigrec.service.limits import check_size, weight_of
from unigrec.service.replies import INTERNAL, OK, Question, problem
from unigrec.service.responses import NO_MODEL, refusal, unavailable
from unigrec.service.users import add_users
from unigrec.service.variants import (
    CHALLENGER,
    CHAMPION,
    OF_VISIT,
    Assigned,
    ComplementBody,
    RecommendBody,
    SearchBody,
    SimilarBody,
    is_challenged,
)
from unigrec.serving.schema import ComplementAnswer, ItemAnswer, SearchAnswer, SimilarAnswer

if TYPE_CHECKING:
    from unigrec.config.schema import ServeParams
    from unigrec.service.experiment import Experiment
    from unigrec.service.fleet import Fleet, Generation
    from unigrec.service.impressions import Impressions
    from unigrec.service.metrics import Metrics

PAGE = Path(__file__).with_name("docs.html")
VERSION_HEADER = "X-Unigrec-Version"
PLAIN = string.punctuation.replace("%", "") + " "  # what a header shows as it is, beside letters and digits of ASCII
VARIANT_HEADER = "X-Unigrec-Variant"  # in an experiment: champion or challenger
ASSIGNED_HEADER = "X-Unigrec-Assigned"  # in an experiment: a value of Assigned
REQUEST_HEADER = "X-Unigrec-Request"  # of an answer in the log of impressions
CLIENT_GONE = 499  # nobody reads it; nginx's number for its log

log = logging.getLogger("unigrec.service")


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read."},
    401: {"model": Problem, "description": "No token, or a wrong one."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The request is not of the schema, too large, or cannot be met."},
    503: {
        "model": Problem,
        "description": "Too many wait, or there was no answer in time. Retry-After: seconds.",
    },
}


class Chosen(NamedTuple):
    """Where a question goes, and why. experiment: its name, if it runs."""

    variant: str
    assigned: Assigned
    experiment: str | None = None


class Service:
    """Answers requests with the fleet's workers; in an experiment, with those of the challenger's fleet too."""

    def __init__(
        self,
        params: ServeParams,
        fleet: Fleet,
        batcher: Batcher,
        metrics: Metrics,
        experiment: Experiment | None = None,
        impressions: Impressions | None = None,
    ):
        self.params, self.fleet, self.batcher, self.metrics = params, fleet, batcher, metrics
        self.experiment, self.impressions = experiment, impressions
        self.is_draining = False

    async def ask(self, kind: str, asked: BaseModel, http: HttpRequest) -> Response:
        """Queue a question, and wait for its reply, its deadline, or the end of its client."""
        if (found := check_size(asked, self.params)) is not None:
            raise HTTPException(422, found)
        try:
            question = Question(kind, asked.model_dump_json(exclude=OF_VISIT).encode())
        except PydanticSerializationError as error:  # JSON may hold half of a surrogate pair
            raise HTTPException(422, "a text is not valid Unicode") from error
        chosen = self._choose(asked)
        fleet, batcher = self._of(chosen.variant)
        if fleet.current is None:
            absent = NO_MODEL if chosen.variant == CHAMPION else "the challenger does not answer"
            return unavailable(fleet.problem or absent)
        unanswered = self.metrics.answers.labels(chosen.variant, fleet.current.version.label, chosen.assigned, 503)
        try:
            job = batcher.put(question, weight_of(asked))
        except QueueFull:
            unanswered.inc()
            return unavailable("too many requests wait")
        gone = asyncio.ensure_future(_gone(http))
        seconds = self.params.deadline_ms / 1e3
        both: set[asyncio.Future[Any]] = {job.reply, gone}
        try:
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if job.reply.done():
                return self._answer(job, asked, chosen)
            if gone.done():
                self.metrics.gone.inc()
                return Response(status_code=CLIENT_GONE)
            self.metrics.late.inc()
            unanswered.inc()
            return unavailable(f"no answer within {seconds:g} s")
        finally:
            gone.cancel()
            job.queue.drop(job)

    def _of(self, variant: str) -> tuple[Fleet, Batcher]:
        if variant == CHALLENGER and self.experiment is not None:
            return self.experiment.challenger, self.experiment.challenger.batcher
        return self.fleet, self.batcher

    def _choose(self, asked: BaseModel) -> Chosen:
        """Which version answers. Raises HTTPException for a challenger that the service does not have."""
        variant, user = getattr(asked, "variant", None), getattr(asked, "user_id", None)
        if variant == CHALLENGER and self.experiment is None:
            raise HTTPException(422, "variant: no challenger is served; unigrec serve --challenger VERSION")
        if variant is not None:
            return Chosen(variant, Assigned.ASKED)
        if user is None:
            return Chosen(CHAMPION, Assigned.NO_USER)
        name = self.experiment.name if self.experiment is not None else None
        if name is None or self.experiment is None:
            return Chosen(CHAMPION, Assigned.NO_CHALLENGER)
        return Chosen(
            CHALLENGER if is_challenged(user, name, self.experiment.share) else CHAMPION, Assigned.SPLIT, name
        )

    def _answer(self, job: Job, asked: BaseModel, chosen: Chosen) -> Response:
        if isinstance(job.reply.exception(), Lost):
            return unavailable("the workers that computed the answer died")
        reply, variant = job.reply.result(), job.queue.variant
        assigned = chosen.assigned if variant == chosen.variant else Assigned.NO_CHALLENGER
        self.metrics.unknown.inc(reply.unknown)
        self.metrics.popular.inc(reply.popular)
        self.metrics.answers.labels(variant, job.version, assigned, reply.status).inc()
        self.metrics.answered.labels(variant, job.version).observe(time.monotonic() - job.arrived)
        headers = {VERSION_HEADER: quote(job.version, safe=PLAIN)}
        if self.experiment is not None:
            headers |= {VARIANT_HEADER: variant, ASSIGNED_HEADER: assigned}
        body = reply.body
        if reply.status == INTERNAL:
            log.error("%s failed: %s", job.question.kind, json.loads(body)["detail"])
            body = problem("internal error")
        if reply.status == OK and self.impressions is not None and getattr(asked, "user_id", None) is not None:
            headers[REQUEST_HEADER] = self._note(job, asked, chosen._replace(variant=variant, assigned=assigned), body)
        return Response(body, reply.status, headers, media_type="application/json")

    def _note(self, job: Job, asked: Any, chosen: Chosen, body: bytes) -> str:
        """Give the answer to the log of impressions; returns the request's id."""
        assert self.impressions is not None
        shown = Shown(
            time=time.time(),
            request_id=uuid.uuid4().hex,
            user_id=asked.user_id,
            experiment=chosen.experiment,
            share=self.experiment.share if self.experiment is not None and chosen.experiment else None,
            assigned=chosen.assigned,
            variant=chosen.variant,
            version=job.version,
            bundle=job.bundle,
            kind=job.question.kind,
            k=asked.k,
            body=body,
        )
        self.impressions.add(shown)
        return shown.request_id


def batcher_of(params: ServeParams, metrics: Metrics, variant: str = CHAMPION) -> Batcher:
    """The queue of a service. A batch may take a third of the deadline: a question may wait for one and is in one."""
    return Batcher(
        params.queue,
        params.batch_size,
        params.batch_wait_ms / 1e3,
        slow_seconds=params.deadline_ms / 3e3,
        metrics=metrics,
        variant=variant,
    )


async def _gone(http: HttpRequest) -> None:
    """Returns when the client has closed its connection. Only to be called after the body was read."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def build_app(service: Service) -> FastAPI:
    """All addresses. `unigrec.service.guard` stands before them."""
    app = FastAPI(
        title="UniGRec",
        summary="Recommendations by semantic identifiers: what next, what instead, what goes with it.",
        version="1",
        docs_url=None,
        redoc_url=None,
    )
    _add_questions(app, service)
    _add_state(app, service)
    add_users(app, service, REFUSALS)
    add_explorer(app, service, REFUSALS)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: HttpRequest, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        text = first["msg"].removeprefix("Value error, ")
        return refusal(f"{place}: {text}" if place else text, 422)

    @app.exception_handler(Exception)
    async def unforeseen(request: HttpRequest, error: Exception) -> Response:
        """Starlette raises the error again after this answer; the guard logs it."""
        return refusal("internal error", INTERNAL)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": PAGE_POLICY})

    return app


# The page holds its script and style, and asks this server alone.
PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/recommend", response_model=Answers, responses=REFUSALS, tags=["answers"])
    async def recommend(asked: RecommendBody, http: HttpRequest) -> Response:
        """What next? One answer per history. An empty history, or one of unknown items, gets the most popular items."""
        return await service.ask("recommend", asked, http)

    @app.post("/v1/similar", response_model=SimilarAnswer, responses=REFUSALS, tags=["answers"])
    async def similar(asked: SimilarBody, http: HttpRequest) -> Response:
        """What instead of this item?"""
        return await service.ask("similar", asked, http)

    @app.post("/v1/complement", response_model=ComplementAnswer, responses=REFUSALS, tags=["answers"])
    async def complement(asked: ComplementBody, http: HttpRequest) -> Response:
        """What goes with these items?"""
        return await service.ask("complement", asked, http)

    @app.post("/v1/search", response_model=SearchAnswer, responses=REFUSALS, tags=["answers"])
    async def search(asked: SearchBody, http: HttpRequest) -> Response:
        """What do these words ask for, after this history?"""
        return await service.ask("search", asked, http)

    absent: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "The catalogue lacks the item."}}

    @app.get("/v1/items/{item:path}", response_model=ItemAnswer, responses=REFUSALS | absent, tags=["answers"])
    async def item(item: Annotated[str, InPath(description="Its id.")], http: HttpRequest) -> Response:
        """What the bundle knows of an item."""
        return await service.ask("item", ItemRequest(item=item), http)


def _facts(generation: Generation) -> dict[str, Any]:
    version = generation.version
    return {"version": version.label, "since": version.since, "why": version.why} | generation.facts


def _add_state(app: FastAPI, service: Service) -> None:
    fleet = service.fleet

    @app.get("/v1/model", responses={401: REFUSALS[401], 503: REFUSALS[503]}, tags=["state"])
    async def model() -> Response:
        """The model that answers: version, figures, data, and since when. In an experiment, the challenger's too."""
        if fleet.current is None:
            return unavailable(fleet.problem or NO_MODEL)
        found = _facts(fleet.current)
        if service.experiment is not None:
            challenger = service.experiment.challenger.current
            found["challenger"] = service.experiment.state() | (_facts(challenger) if challenger else {})
        return JSONResponse(found)

    @app.get("/healthz", tags=["state"])
    async def healthz() -> Response:
        """200 while the process lives."""
        return JSONResponse({"alive": True})

    @app.get("/readyz", responses={503: {"description": "No model answers."}}, tags=["state"])
    async def readyz() -> Response:
        """200 while requests are answered. `problem`: why the model that is asked for is not the one that answers.

        A challenger without an answer is no reason for 503: the champion answers in its place.
        """
        ready = fleet.is_ready and not service.is_draining
        current = fleet.current
        state: dict[str, Any] = {
            "ready": ready,
            "version": current.version.label if current else None,
            "workers": fleet.alive,
            "draining": service.is_draining,
            "problem": fleet.problem,
        }
        if service.experiment is not None:
            state["challenger"] = service.experiment.state()
        return JSONResponse(state, OK if ready else 503)

    @app.get("/metrics", responses={401: REFUSALS[401]}, response_class=Response, tags=["state"])
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)
