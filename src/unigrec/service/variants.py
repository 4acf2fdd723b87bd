"""Which of two models answers a visitor: the split of an experiment, and what a request may say of its visitor."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from unigrec.serving.schema import ComplementRequest, Request, SearchRequest, SimilarRequest

CHAMPION, CHALLENGER = "champion", "challenger"
LONGEST_USER = 256  # letters of a user id
BITS = 64  # of a hash that are read


class Assigned(StrEnum):
    """How the version that answers was chosen. Only `SPLIT` is a part of the experiment."""

    SPLIT = "split"  # data.sources.impressions reads it: by the hash of user_id
    NO_USER = "no user_id"  # to the champion
    ASKED = "asked"  # the request named the variant
    NO_CHALLENGER = "no challenger"  # to the champion: the challenger does not answer now, or there is none


def _user_id(value: Any) -> Any:
    """Shops number their users, too. Raises ValueError for what cannot be kept in a file."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("is not valid Unicode") from error
    return value


UserId = Annotated[str, BeforeValidator(_user_id), Field(min_length=1, max_length=LONGEST_USER)]


class Visit(BaseModel):
    """What a request may say of its visitor; no model reads it."""

    user_id: UserId | None = Field(
        None, description="The visitor: the same one gets the same version. null: the champion answers."
    )
    variant: Literal["champion", "challenger"] | None = Field(
        None, description="Which version answers, outside the experiment; null: as `user_id` decides."
    )


OF_VISIT = set(Visit.model_fields)


class RecommendBody(Visit, Request):
    """A request for recommendations."""


class SimilarBody(Visit, SimilarRequest):
    """A request for similar items."""


class ComplementBody(Visit, ComplementRequest):
    """A request for complementary items."""


class SearchBody(Visit, SearchRequest):
    """A request with words."""


def is_challenged(user_id: str, experiment: str, share: float) -> bool:
    """Whether the challenger answers a user: `share` of all users, the same ones in every process.

    With a larger share, the users of the smaller one keep the challenger. experiment: its name, the salt: two
    experiments split the users independently of each other.
    """
    found = hashlib.sha256(f"{experiment}\0{user_id}".encode()).digest()
    return int.from_bytes(found[: BITS // 8], "big") < share * 2**BITS


def name_of(champion: str, challenger: str) -> str:
    """The name of the experiment with two versions."""
    return f"{challenger}-vs-{champion}"
