"""The page at `/` with its script and style, and the addresses that it asks."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from unigrec.base import paths
from unigrec.service.explorer.schema import (
    BranchesAnswer,
    BranchesRequest,
    Count,
    Ids,
    ItemsAnswer,
    ItemsRequest,
    PrefixText,
    QueryText,
    TitlesAnswer,
    TitlesRequest,
    UserAnswer,
    UserNumber,
    UserRequest,
)
from unigrec.service.responses import NO_MODEL, refusal, unavailable
from unigrec.serving.manifest import REPORT

if TYPE_CHECKING:
    from fastapi import FastAPI

    from unigrec.service.app import Service

Refusals = dict[int | str, dict[str, Any]]  # HTTP status -> its description

ASSETS = Path(__file__).with_name("assets")
# Nothing is inline, and nothing comes from another host. Pictures are fetched with the token, and shown from memory.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
PICTURE_NAME = re.compile(r"[a-z0-9_]{1,60}")  # of a stage, and of a picture of it
LARGEST_PICTURE = 1 << 23  # bytes
FACTS = ("data", "warnings", "intervals", "checks", "shipped_as")  # of the report's; the rest is in the report's page


PAGE = {  # address -> file
    "/": "explorer.html",
    **{f"/assets/{name}": name for name in ("explorer.css", "explorer.js", "asking.js", "model.js")},
}
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def add_explorer(app: FastAPI, service: Service, refusals: Refusals) -> None:
    """Add the page and its addresses. refusals: answers that every question may get, for the description."""
    for address, name in PAGE.items():
        _add_file(app, address, ASSETS / name)
    _add_questions(app, service, refusals)
    _add_report(app, service, refusals)


def _add_file(app: FastAPI, address: str, path: Path) -> None:
    content, kind = path.read_bytes(), f"{KINDS[path.suffix]}; charset=utf-8"

    @app.get(address, include_in_schema=False)
    async def file() -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=kind)


def _add_questions(app: FastAPI, service: Service, refusals: Refusals) -> None:
    absent: Refusals = {404: {"model": refusals[422]["model"], "description": "There is none."}}

    @app.get("/v1/explore/titles", response_model=TitlesAnswer, responses=refusals, tags=["explorer"])
    async def titles(
        http: HttpRequest,
        query: Annotated[QueryText, Query(description="Words, or parts of words, of a title; or an item's id.")],
        k: Annotated[Count, Query(description="Number of items.")] = 10,
    ) -> Response:
        """Items by the words of their titles."""
        return await service.ask("titles", TitlesRequest(query=query, k=k), http)

    @app.get("/v1/explore/items", response_model=ItemsAnswer, responses=refusals, tags=["explorer"])
    async def items(
        http: HttpRequest, item: Annotated[Ids, Query(description="Their ids: item=P1&item=P2.")]
    ) -> Response:
        """Titles and identifiers of several items."""
        return await service.ask("items", ItemsRequest(items=item), http)

    @app.get("/v1/explore/branches", response_model=BranchesAnswer, responses=refusals | absent, tags=["explorer"])
    async def branches(
        http: HttpRequest, prefix: Annotated[PrefixText, Query(description="First codes, as 36-58; empty: all.")] = ""
    ) -> Response:
        """A node of the tree of identifiers: which items share a prefix, and how many each next code has."""
        return await service.ask("branches", BranchesRequest(prefix=prefix), http)

    @app.get("/v1/explore/test-user", response_model=UserAnswer, responses=refusals | absent, tags=["explorer"])
    async def user(
        http: HttpRequest, number: Annotated[UserNumber | None, Query(description="Left out: drawn by chance.")] = None
    ) -> Response:
        """The history of a test user, without the user's id, and the item after it, which the training did not see."""
        return await service.ask("user", UserRequest(number=number), http)


def _add_report(app: FastAPI, service: Service, refusals: Refusals) -> None:
    fleet = service.fleet
    unready: Refusals = {number: refusals[number] for number in (401, 503)}
    absent: Refusals = {404: {"model": refusals[422]["model"], "description": "The bundle has no such picture."}}

    def folder() -> Path | None:
        return None if fleet.current is None else fleet.current.version.folder / REPORT

    @app.get("/v1/explore/report", responses=unready, tags=["explorer"])
    async def report() -> Response:
        """What the bundle's report says: figures, gates, checks of the data, identifiers, and names of pictures."""
        if (found := folder()) is None:
            return unavailable(NO_MODEL)
        return JSONResponse(await asyncio.to_thread(report_of, found))

    @app.get(
        "/v1/explore/pictures/{stage}/{name}", responses=unready | absent, response_class=Response, tags=["explorer"]
    )
    async def picture(stage: str, name: str) -> Response:
        """A picture of the report, as PNG."""
        if (found := folder()) is None:
            return unavailable(NO_MODEL)
        content = await asyncio.to_thread(picture_of, found, stage, name)
        if content is None:
            return refusal(f"no picture {stage}/{name}", 404)
        return Response(content, headers={"X-Content-Type-Options": "nosniff"}, media_type="image/png")


def report_of(folder: Path) -> dict[str, Any]:
    """What a bundle's folder of reports says. What a bundle of an earlier version lacks is null."""
    facts = _read(folder / "report" / paths.FACTS_FILE) or {}
    return {
        "metrics": _read(folder / "evaluate" / paths.METRICS_FILE),
        "decision": _read(folder / "gate" / paths.DECISION_FILE),
        "identifiers": _read(folder / "harden" / paths.HEALTH_FILE),
        "pictures": [f"{path.parent.name}/{path.stem}" for path in sorted(folder.glob("*/*.png"))],
    } | {name: facts.get(name) for name in FACTS}


def picture_of(folder: Path, stage: str, name: str) -> bytes | None:
    """A picture's bytes; None if there is none of these names. The bundle's files were checked when it was loaded."""
    if not PICTURE_NAME.fullmatch(stage) or not PICTURE_NAME.fullmatch(name):
        return None
    path = folder / stage / f"{name}.png"
    try:
        return path.read_bytes() if path.stat().st_size <= LARGEST_PICTURE else None
    except OSError:  # none, or the model was exchanged just now
        return None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes(), parse_constant=lambda _: None)  # JSON has no NaN
    except (OSError, ValueError):
        return None
