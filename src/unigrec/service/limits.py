"""Limits on a request's size, whatever its fields are called: fields of later schemas are limited too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from unigrec.serving.schema import UsersRequest

if TYPE_CHECKING:
    from unigrec.config.schema import ServeParams

ALONE = 64  # more than a batch holds by default: visitors' requests do not wait in a batch with such a question


def check_size(asked: BaseModel, params: ServeParams) -> str | None:
    """What is too large, or None.

    A field that holds lists is limited in their number (histories, or users) and length; a list, in its length; a set
    of ids (allow, deny), by `max_list`.
    """
    if getattr(asked, "k", 1) > params.max_k:
        return f"k = {asked.k}: at most {params.max_k}"  # type: ignore[attr-defined]
    for name, value in asked:
        if isinstance(value, frozenset) and len(value) > params.max_list:
            return f"{name}: {len(value)} ids; at most {params.max_list}"
        if not isinstance(value, tuple):
            continue
        rows = [row for row in value if isinstance(row, tuple)]
        most = params.max_users if isinstance(asked, UsersRequest) else params.max_histories
        if len(rows) > most:
            return f"{name}: {len(rows)} of them; at most {most}"
        longest = max(map(len, rows), default=len(value))
        if longest > params.max_history:
            return f"{name}: {longest} items; at most {params.max_history}"
    return None


def weight_of(asked: BaseModel) -> int:
    """Histories that a question holds; a question of another kind counts as one, and one about users as `ALONE`."""
    if isinstance(asked, UsersRequest):
        return ALONE
    return max(len(getattr(asked, "histories", ())), 1)
