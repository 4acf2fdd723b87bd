"""Schemas of what the explorer asks beyond the questions of `unigrec.serving.schema`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from unigrec.serving.schema import AnyAnswer, ItemId

MOST_FOUND = 50  # items of an answer
MOST_ITEMS = 300  # ids of a question
LONGEST_QUERY = 200  # letters
PREFIX = r"^(\d{1,9}(-\d{1,9}){0,19})?$"  # codes with hyphens between them; empty: the root of the tree

Count = Annotated[int, Field(ge=1, le=MOST_FOUND)]
Ids = Annotated[tuple[ItemId, ...], Field(max_length=MOST_ITEMS)]
QueryText = Annotated[str, Field(max_length=LONGEST_QUERY)]
PrefixText = Annotated[str, Field(pattern=PREFIX)]
UserNumber = Annotated[int, Field(ge=0, lt=1 << 31)]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TitlesRequest(_Asked):
    """Items whose titles have all words of a query."""

    query: QueryText
    k: Count = 10


class ItemsRequest(_Asked):
    """Titles and identifiers of items."""

    items: Ids


class BranchesRequest(_Asked):
    """What lies below a prefix of identifiers."""

    prefix: PrefixText = ""


class UserRequest(_Asked):
    """A test user. number: 0 to `of`, excluded; None: drawn by chance."""

    number: UserNumber | None = None


class NamedItem(AnyAnswer):
    """An item as the page shows it."""

    item_id: str
    title: str
    identifier: tuple[int, ...]


class TitlesAnswer(AnyAnswer):
    """What a query found."""

    items: tuple[NamedItem, ...] = Field(description="At most k items, best first.")
    found: int = Field(description="How many items have all words of the query.")


class ItemsAnswer(AnyAnswer):
    """The asked items that the catalogue holds, in the order asked for."""

    items: tuple[NamedItem, ...]
    absent: tuple[str, ...] = Field(description="Ids that the catalogue lacks.")


class Branch(AnyAnswer):
    """One next code after a prefix."""

    code: int
    items: int = Field(description="How many items share the prefix and this code.")
    example: NamedItem = Field(description="The most popular of them.")


class BranchesAnswer(AnyAnswer):
    """A node of the tree of identifiers."""

    prefix: tuple[int, ...]
    length: int = Field(description="Codes of a whole identifier.")
    items: int = Field(description="How many items share the prefix.")
    branches: tuple[Branch, ...] = Field(description="By number of items, most first.")
    members: tuple[NamedItem, ...] = Field(description=f"The most popular of the items, {MOST_FOUND} at most.")


class UserAnswer(AnyAnswer):
    """A user whose last item was held out from the training."""

    number: int
    of: int = Field(description="How many test users there are.")
    source: str = Field(description="artifacts: all test users. report: the examples that the bundle's report has.")
    history: tuple[NamedItem, ...] = Field(description="Oldest first.")
    earlier: int = Field(description="How many items before these are left out.")
    held_out: NamedItem = Field(description="What the user took next.")
    rank: int | None = Field(
        description="The rank of the held-out item in the run's evaluation, over the whole catalogue; null: not found."
    )
