"""`unigrec similar` and `unigrec complement`: print items that go with items."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from unigrec.commands.recommend import parse_ids, print_items, read_lists
from unigrec.registry.versions import load_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unigrec.config.schema import Params


def print_similar(
    params: Params,
    model: str,
    item: str,
    k: int,
    allow: Sequence[str],
    deny: Sequence[str],
    filter: str | None,
    as_json: bool,
) -> None:
    """Print the items most like one. model: alias, version number, or a bundle's folder. allow, deny: as `read_ids`."""
    bundle = load_bundle(params.register_, model)
    allowed, denied = read_lists(bundle.index_of, allow, deny)
    answer = bundle.similar(item, k, allow=allowed, deny=denied, filter=filter)
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        print_items(answer.items, {"codes shared": lambda found: str(found.shared_codes)})


def print_complements(
    params: Params,
    model: str,
    basket: Sequence[str],
    k: int,
    allow: Sequence[str],
    deny: Sequence[str],
    filter: str | None,
    as_json: bool,
) -> None:
    """Print what is bought with the items of a basket. basket: as `parse_ids`. Further arguments: as above."""
    bundle = load_bundle(params.register_, model)
    allowed, denied = read_lists(bundle.index_of, allow, deny)
    items = parse_ids(basket, bundle.index_of)
    answer = bundle.complement(items, k, allow=allowed, deny=denied, filter=filter)
    if as_json:
        print(answer.model_dump_json(indent=2))
        return
    if answer.unknown:
        print(f"{answer.unknown} of {len(items)} items of the basket are not in the catalogue", file=sys.stderr)
    if answer.stand_ins:
        print(f"items like these stand in, for lack of baskets: {', '.join(answer.stand_ins)}", file=sys.stderr)
    if not answer.by_day:
        print("the log does not tell days: a basket is all that a customer bought", file=sys.stderr)
    print_items(
        answer.items,
        {"together": lambda found: ", ".join(f"{count} x with {item}" for item, count in found.together.items())},
    )
