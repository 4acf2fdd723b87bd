"""The schema of a request and of its answers, one for every way to ask: Python, command line, MLflow, HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Integral
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)

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
Weight = Annotated[float, Field(ge=-1000.0, le=1000.0, allow_inf_nan=False)]  # added to log-probabilities
ItemIdOrNull = Annotated[str | None, BeforeValidator(_as_text)]
Users = tuple[tuple[ItemIdOrNull, ...], ...]  # a history per user


class Parsed(BaseModel):
    """A request, checked field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """Check values from outside. Raises UnigrecError, which names the first wrong field."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UnigrecError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


class AnyRequest(Parsed):
    """What every request for items has."""

    k: StrictInt = Field(10, ge=1, description="Number of items per answer.")
    allow: frozenset[ItemId] | None = Field(None, description="Only these items are recommended; null: all may be.")
    deny: frozenset[ItemId] | None = Field(None, description="These items are not recommended.")
    filter: str | None = Field(
        None, description='Only items that this holds for, as brand = "Canon" and price < 20; null: all may be.'
    )


class Diversity(BaseModel):
    """At most so many items per value of a column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per: str = Field(description="A column of the catalogue, or `first code`: the kind, by the identifiers.")
    at_most: StrictInt = Field(ge=1, description="Items of one value; of a list, every entry counts.")


class NewShare(BaseModel):
    """How many of the k items are young."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: float = Field(gt=0, allow_inf_nan=False, description="An item is new for so many days.")
    at_least: StrictInt = Field(default=0, ge=0, description="So many new ones, if so many may be recommended.")
    at_most: StrictInt | None = Field(default=None, ge=0, description="No more new ones; null: any number.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(f"at least {self.at_least} and at most {self.at_most}")
        return self


DIVERSITY_TEXT = re.compile(r"\s*(\d{1,9})\s+per\s+(\S.*?)\s*", re.IGNORECASE)
NEW_TEXT = re.compile(
    r"\s*(?:at least (?P<least>\d{1,9})|at most (?P<most>\d{1,9})|(?P<low>\d{1,9}) to (?P<high>\d{1,9}))"
    r" (?:younger|newer) than (?P<days>\d{1,9}(?:\.\d{1,9})?) days?\s*",
    re.IGNORECASE,
)
BOOST_TEXT = re.compile(r"\s*([+-]?\d{1,9}(?:\.\d{1,9})?)\s*:\s*(\S.*)", re.DOTALL)
LONGEST_QUERY = 1000  # letters
MOST_BOOSTS = 4  # conditions; each may double the number of searches


def _diversity(value: Any) -> Any:
    """The command line and MLflow write it as a text: `2 per brand`."""
    if not isinstance(value, str):
        return value
    if not (match := DIVERSITY_TEXT.fullmatch(value)):
        raise ValueError(f"{value!r} is not understood; for example: 2 per brand")
    return {"at_most": int(match[1]), "per": match[2]}


def _new_share(value: Any) -> Any:
    """As a text: `at least 2 younger than 30 days`, `at most 3 ...`, `2 to 3 ...`."""
    if not isinstance(value, str):
        return value
    if not (match := NEW_TEXT.fullmatch(value)):
        raise ValueError(f"{value!r} is not understood; for example: at least 2 younger than 30 days")
    least, most = match["least"] or match["low"], match["most"] or match["high"]
    return {"days": float(match["days"]), "at_least": int(least or 0), "at_most": None if most is None else int(most)}


def _boost(value: Any) -> Any:
    """As texts, one per condition: `0.3: brand = "Canon"`."""
    if value is None or isinstance(value, Mapping):
        return value
    if isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise ValueError("expected an object of conditions and weights, or texts such as: 0.3: brand = 'Canon'")
    found = {}
    for text in value:
        if not (match := BOOST_TEXT.fullmatch(text)):
            raise ValueError(f"{text!r} is not understood; for example: 0.3: brand = 'Canon'")
        found[match[2]] = float(match[1])
    return found


class SimilarRequest(AnyRequest):
    """What `Bundle.similar` takes, field by field."""

    item: ItemId = Field(description="The item to be replaced.")


class ComplementRequest(AnyRequest):
    """What `Bundle.complement` takes, field by field."""

    basket: tuple[ItemId, ...] = Field(min_length=1, description="The items that others shall go with.")


class SearchRequest(AnyRequest):
    """What `Bundle.search` takes, field by field."""

    query: str = Field(min_length=1, max_length=LONGEST_QUERY, description="Words.")
    history: tuple[ItemIdOrNull, ...] = Field((), description="What the visitor had, oldest first; may be empty.")
    search_weight: float | None = Field(
        None,
        ge=0.0,
        le=1000.0,
        description="Of the query, next to 1 for the history; 0: the history alone; null: what validation chose.",
    )


class ListRequest(AnyRequest):
    """What a list of recommendations has to keep to, whoever it is for. What `Bundle.rank` takes beside histories."""

    exclude_history: StrictBool = Field(False, description="No item of a history is recommended for it.")
    rank_by: RankBy | None = Field(
        None, description="What ranks the items: fused, generative or dense; null: what validation chose."
    )
    diversity: Annotated[Diversity | None, BeforeValidator(_diversity)] = Field(
        None, description="At most so many items per value of a column; also as a text: 2 per brand."
    )
    new_share: Annotated[NewShare | None, BeforeValidator(_new_share)] = Field(
        None, description="How many of the k are young; also as a text: at least 2 younger than 30 days."
    )
    boost: Annotated[dict[str, Weight] | None, BeforeValidator(_boost)] = Field(
        None, max_length=MOST_BOOSTS, description="Condition, as in `filter` -> what is added to the items' scores."
    )


class Request(ListRequest):
    """What `Bundle.recommend` takes, field by field: `bundle.recommend(**dict(request))`."""

    histories: tuple[tuple[ItemIdOrNull, ...], ...] = Field(
        description="One list of item ids per answer, oldest first. Send all that the user had: models read the last "
        "items, and the fused ranking counts them all, up to 1,000. A null counts as an unknown item."
    )
    reasons: StrictBool = Field(False, description="Say of every item why it is recommended.")


class UsersRequest(Parsed):
    """What every request about many users has. A user is a history: item ids, oldest first."""


class AudienceRequest(UsersRequest):
    """What `Bundle.audience` takes, field by field."""

    item: ItemId = Field(description="The item that users may take next.")
    histories: Users = Field(description="The users.")
    k: StrictInt = Field(10, ge=1, description="Number of users.")
    rank_by: RankBy | None = Field(None, description="What scores the item; null: what validation chose.")


class LookalikeRequest(UsersRequest):
    """What `Bundle.lookalike` takes, field by field."""

    seeds: Users = Field(description="The users whose like are looked for: at least 20.")
    others: Users = Field(description="The users among whom they are looked for: at least 20.")
    k: StrictInt = Field(10, ge=1, description="Number of users.")


class SegmentsRequest(UsersRequest):
    """What `Bundle.segments` takes, field by field."""

    histories: Users = Field(description="The users: at least ten per segment.")
    k: StrictInt = Field(12, ge=2, description="Number of segments.")
    parts: StrictInt = Field(3, ge=1, le=10, description="Parts of each segment, at most.")


class AnyAnswer(BaseModel):
    """What every answer, and every item of one, has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Because(AnyAnswer):
    """An item of the history that a recommendation rests on."""

    item_id: str
    title: str
    weight: float = Field(description="How much lower the item's score would be without it.")
    together: int = Field(description="Baskets with it and the recommended item; 0: none was counted.")
    words: tuple[str, ...] = Field(description="Telling words that both titles have.")


class Reason(AnyAnswer):
    """Why an item is recommended."""

    text: str = Field(description="For the shop's visitor.")
    kind: str = Field(description="The words that tell the kind of the item, by its first code; empty: none do.")
    because: tuple[Because, ...] = Field(description="Items of the history, the strongest first.")


class RecommendedItem(AnyAnswer):
    """One item of an answer."""

    item_id: str
    title: str
    score: float = Field(
        description="Higher is better. generative: the log-probability of the item's identifier given the history; "
        "dense: that of the item; fused: a weighted sum of both, of the neighbours' terms and of how often the history "
        "holds the item. Among the most popular "
        "items: the log of its share of interactions. An item that was added after the training has a score of its "
        "own, less 1000: it stands below all others."
    )
    reason: Reason | None = Field(None, description="Why; null if it was not asked for.")


class Answer(AnyAnswer):
    """The answer to one history."""

    items: tuple[RecommendedItem, ...] = Field(description="At most k distinct items, best first.")
    unknown: int = Field(description="How many items of the history the catalogue does not hold.")
    by_popularity: bool = Field(
        description="True if no item of the history is known: then the items are the most popular ones."
    )


# As a table, answers have one row per history: a list per field of an item, and a value per other field.
ITEM_COLUMNS = {name: f"{name}s" for name in RecommendedItem.model_fields if name != "reason"}  # field -> column
REASONS_COLUMN = "reasons"  # the text of each item's reason; empty if it was not asked for
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


class FoundItem(AnyAnswer):
    """One item that a query finds."""

    item_id: str
    title: str
    score: float = Field(
        description="Of the query: BM25 of its words, and a little of what it means (codes and nearness of the text); "
        "with a history, that of the history plus the weighted one of the query."
    )


class SearchAnswer(AnyAnswer):
    """The answer to one query."""

    items: tuple[FoundItem, ...] = Field(description="At most k distinct items, best first.")
    unknown_words: tuple[str, ...] = Field(description="Words of the query that no text of the catalogue has.")
    unknown: int = Field(description="How many items of the history the catalogue does not hold.")


class ItemAnswer(AnyAnswer):
    """What a bundle knows of an item."""

    item_id: str
    title: str
    identifier: tuple[int, ...] = Field(description="Its codes; items that share first codes are alike.")
    columns: dict[str, Any] = Field(description="Its row of the catalogue.")


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


class AudienceUser(AnyAnswer):
    """One history of an audience."""

    row: int = Field(description="Its place among the histories, from 0.")
    score: float = Field(description="Higher is more likely: the item's score after the history, as in `recommend`.")


class AudienceAnswer(AnyAnswer):
    """The histories after which an item is most likely."""

    users: tuple[AudienceUser, ...] = Field(description="At most k, the most likely first.")
    unread: int = Field(description="Histories without an item of the catalogue, which have no score.")


class LookalikeAnswer(AnyAnswer):
    """The users who are most like the seeds."""

    users: tuple[AudienceUser, ...] = Field(
        description="At most k of the others, the most alike first; scores: log odds."
    )
    auc: float = Field(description="How well seeds that were not looked at are told from others; 0.5: by chance.")
    seeds: int = Field(description="Seeds that were read.")
    unread: int = Field(description="Histories of seeds and others without an item that the model was trained on.")


class TellingItem(AnyAnswer):
    """An item that the users of a segment have more often than all users."""

    item_id: str
    title: str
    users: int = Field(description="Of the segment that have it.")
    lift: float = Field(description="Their share of the segment, over the share of all users.")


class TellingWord(AnyAnswer):
    """A word of titles that the users of a segment have more often than all users."""

    word: str
    users: int = Field(description="Of the segment that have it.")
    lift: float = Field(description="Their share of the segment, over the share of all users.")


class Segment(AnyAnswer):
    """A kind of users, or a part of one."""

    segment: str = Field(description="Its number, as 2; of a part, as 2.1. The largest comes first.")
    users: int
    share: float = Field(description="Of all users that were read.")
    items: tuple[TellingItem, ...] = Field(description="The most telling first.")
    words: tuple[TellingWord, ...] = Field(description="The most telling first.")


class SegmentsAnswer(AnyAnswer):
    """Kinds of users."""

    segments: tuple[Segment, ...] = Field(description="Each is followed by its parts.")
    of_histories: tuple[str | None, ...] = Field(
        description="The part that each history is in; null if no item of it was in the training."
    )
    stability: float = Field(description="Adjusted Rand index of the segments of several starts; 1: all are the same.")
    stability_of_parts: float
