"""What can be asked of the service, and of what schema the answers are."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from unigrec.service.explorer.schema import (
    BranchesAnswer,
    BranchesRequest,
    ItemsAnswer,
    ItemsRequest,
    TitlesAnswer,
    TitlesRequest,
    UserAnswer,
    UserRequest,
)
from unigrec.serving.schema import (
    Answer,
    AnyAnswer,
    AudienceAnswer,
    AudienceRequest,
    ComplementAnswer,
    ComplementRequest,
    ItemAnswer,
    ItemId,
    LookalikeAnswer,
    LookalikeRequest,
    Request,
    SearchAnswer,
    SearchRequest,
    SegmentsAnswer,
    SegmentsRequest,
    SimilarAnswer,
    SimilarRequest,
)


class Answers(AnyAnswer):
    """One answer per history, in their order."""

    answers: tuple[Answer, ...]


class ItemRequest(BaseModel):
    """What `Bundle.item` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: ItemId


class Kind(NamedTuple):
    """Schemas of a question and its answer. The method of `Bundle` that answers has the kind's name.

    refused: the HTTP status when the bundle refuses a question. explores: a function of the kind's name in
    `unigrec.service.explorer.answers` answers in place of a method.
    """

    request: type[BaseModel]
    answer: type[BaseModel]
    refused: int = 422
    explores: bool = False


KINDS = {
    "recommend": Kind(Request, Answers),
    "similar": Kind(SimilarRequest, SimilarAnswer),
    "complement": Kind(ComplementRequest, ComplementAnswer),
    "search": Kind(SearchRequest, SearchAnswer),
    "audience": Kind(AudienceRequest, AudienceAnswer),
    "lookalike": Kind(LookalikeRequest, LookalikeAnswer),
    "segments": Kind(SegmentsRequest, SegmentsAnswer),
    "item": Kind(ItemRequest, ItemAnswer, refused=404),
    "titles": Kind(TitlesRequest, TitlesAnswer, explores=True),
    "items": Kind(ItemsRequest, ItemsAnswer, explores=True),
    "branches": Kind(BranchesRequest, BranchesAnswer, refused=404, explores=True),
    "user": Kind(UserRequest, UserAnswer, refused=404, explores=True),
}
