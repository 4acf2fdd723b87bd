"""`unigrec audience` and `unigrec lookalike`: users who take an item next, and users who are like given ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base.errors import UnigrecError
from unigrec.commands.histories import read_histories

if TYPE_CHECKING:
    from unigrec.config.schema import Params
    from unigrec.core.retrieval.rank_by import RankBy


def print_audience(
    params: Params, model: str, item: str, histories: Path, k: int, rank_by: RankBy | None, as_json: bool
) -> None:
    """Print the k users of a file of interactions who are most likely to take an item next, as CSV or JSON.

    Args:
        model: alias, version number, or a bundle's folder. histories: Parquet, CSV or JSON lines, as the shop's
            interactions.

    Raises:
        UnigrecError: the file cannot be read, or as `Bundle.audience`.
    """
    from unigrec.registry.versions import load_bundle

    bundle = load_bundle(params.register_, model)
    users, items = read_histories(histories, params)
    answer = bundle.audience(item, items, k, rank_by)
    if answer.unread:
        print(f"{answer.unread} of {len(users)} users have no item of the catalogue", file=sys.stderr)
    if as_json:
        named = [{"user_id": users[found.row], "score": found.score} for found in answer.users]
        print(json_of({"item": item, "users": named, "unread": answer.unread}))
        return
    print("user_id,score")
    for found in answer.users:
        print(f"{quoted(users[found.row])},{found.score:.4f}")


def print_lookalikes(params: Params, model: str, seeds: Path, histories: Path, k: int) -> None:
    """Print the k users of a file of interactions who are most like the seeds, as CSV; the AUC goes to standard error.

    Args:
        seeds: user ids, one per line; those who are not in `histories` are counted. Other arguments: as above.

    Raises:
        UnigrecError: a file cannot be read, there are too few seeds or others, or the bundle is of an earlier version.
    """
    from unigrec.registry.versions import load_bundle

    try:
        wanted = {line.strip() for line in seeds.read_text(encoding="utf-8-sig").split("\n")} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise UnigrecError(f"--seed {seeds}: expected UTF-8 text with one user id per line: {error}") from error
    bundle = load_bundle(params.register_, model)
    users, histories_of_users = read_histories(histories, params)
    read = dict(zip(users, histories_of_users, strict=True))
    others = [user for user in users if user not in wanted]
    given = [read.get(user, []) for user in sorted(wanted)]
    found = bundle.lookalike(given, [read[user] for user in others], k, params.seed)
    print(f"{found.seeds} of {len(wanted)} seeds read; AUC of unseen seeds {found.auc:.3f}", file=sys.stderr)
    print("user_id,score")
    for one in found.users:
        print(f"{quoted(others[one.row])},{one.score:.4f}")


def quoted(text: str) -> str:
    """A value of a CSV file."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n\r') else text


def json_of(value: object) -> str:
    """Indented JSON."""
    import json

    return json.dumps(value, indent=2, ensure_ascii=False)
