"""The schema of a request and of its answers, one for every way to ask: Python, command line, MLflow, HTTP."""

from __future__ import annotations

from numbers import Integral
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.rank_by import RankBy


def _as_text(value: Any) -> str | None:
    """Shops number their items, so a whole number is an id too. Raises ValueError for what cannot be an id."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{value!r} is no item id; expected text or a whole number")


ItemId = Annotated[str, BeforeValidator(_as_text)]
ItemIdOrNull = Annotated[str | None, BeforeValidator(_as_text)]


class AnyRequest(BaseModel):
    """What every request has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: StrictInt = Field(10, ge=1, description="Number of items per answer.")
    allow: frozenset[ItemId] | None = Field(None, description="Only these items are recommended; null: all may be.")
    deny: frozenset[ItemId] | None = Field(None, description="These items are not recommended.")
    filter: str | None = Field(
        None, description='Only items that this holds for, as brand = "Canon" and price < 20; null: all may be.'
    )

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """Check values from outside. Raises UnigrecError, which names the first wrong field."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UnigrecError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


class SimilarRequest(AnyRequest):
    """What `Bundle.similar` takes, field by field."""

    item: ItemId = Field(description="The item to be replaced.")


class ComplementRequest(AnyRequest):
    """What `Bundle.complement` takes, field by field."""

    basket: tuple[ItemId, ...] = Field(min_length=1, description="The items that others shall go with.")


class Request(AnyRequest):
    """What `Bundle.recommend` takes, field by field: `bundle.recommend(**dict(request))`."""

    histories: tuple[tuple[ItemIdOrNull, ...], ...] = Field(
        description="One list of item ids per answer, oldest first. A null counts as an unknown item."
    )
    exclude_history: StrictBool = Field(False, description="No item of a history is recommended for it.")
    rank_by: RankBy | None = Field(
        None, description="What ranks the items: fused, generative or dense; null: what validation chose."
    )
    new_places: StrictInt = Field(
        0, ge=0, description="The last so many places are for items that were added after the training."
    )


class AnyAnswer(BaseModel):
    """What every answer, and every item of one, has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RecommendedItem(AnyAnswer):
    """One item of an answer."""

    item_id: str
    title: str
    score: float = Field(
        description="Higher is better. generative: the log-probability of the item's identifier given the history; "
        "dense: that of the item; fused: a weighted sum of both and of the neighbours' terms. Among the most popular "
        "items: the log of its share of interactions. Among new places: a "
        "sum of the dense part's score and a term of the texts."
    )


class Answer(AnyAnswer):
    """The answer to one history."""

    items: tuple[RecommendedItem, ...] = Field(description="At most k distinct items, best first.")
    unknown: int = Field(description="How many items of the history the catalogue does not hold.")
    by_popularity: bool = Field(
        description="True if no item of the history is known: then the items are the most popular ones."
    )


# As a table, answers have one row per history: a list per field of an item, and a value per other field.
ITEM_COLUMNS = {name: f"{name}s" for name in RecommendedItem.model_fields}  # field -> column
ANSWER_COLUMNS = tuple(name for name in Answer.model_fields if name != "items")


class SimilarItem(AnyAnswer):
    """One item like the asked one."""

    item_id: str
    title: str
    score: float = Field(description="Cosine of the items' texts.")
    shared_codes: int = Field(description="First codes of the identifier that are the same: more, a nearer kind.")


class SimilarAnswer(AnyAnswer):
    """The answer for one item."""

    items: tuple[SimilarItem, ...] = Field(description="At most k distinct items, best first.")


class ComplementItem(AnyAnswer):
    """One item that goes with a basket."""

    item_id: str
    title: str
    score: float = Field(description="Sum of the lifts with the items of the basket; above 0: more often than chance.")
    together: dict[str, int] = Field(description="Item of the basket -> number of baskets with it and this item.")


class ComplementAnswer(AnyAnswer):
    """The answer for one basket."""

    items: tuple[ComplementItem, ...] = Field(description="At most k distinct items, best first.")
    unknown: int = Field(description="How many items of the basket the catalogue does not hold.")
    by_day: bool = Field(
        description="True if a counted basket is what a user bought in a day. False: the log does not tell days, so it "
        "is all that a user bought."
    )
    stand_ins: tuple[str, ...] = Field(
        description="Items of the basket that were never bought with another; the baskets of items like them count."
    )
