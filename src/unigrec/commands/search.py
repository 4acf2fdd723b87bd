"""`unigrec search`: prints the items that words ask for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from unigrec.commands.recommend import parse_ids, print_items, read_lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from unigrec.config.schema import Params
    from unigrec.serving.bundle import Bundle


def print_found(
    params: Params,
    model: str,
    query: str,
    history: Sequence[str],
    search_weight: float | None,
    k: int,
    allow: Sequence[str],
    deny: Sequence[str],
    filter: str | None,
    as_json: bool,
) -> None:
    """Print what a query finds. model: alias, version or folder. history: as `parse_ids`; lists: as `read_ids`."""
    from unigrec.registry.versions import load_bundle
    from unigrec.serving.schema import SearchRequest

    bundle = load_bundle(params.register_, model)
    allowed, denied = read_lists(bundle.index_of, allow, deny)
    request = SearchRequest.parse(
        query=query,
        history=parse_ids(history, bundle.index_of) if history else (),
        search_weight=search_weight,
        k=k,
        allow=allowed,
        deny=denied,
        filter=filter,
    )
    answer = bundle.search(**dict(request), vector=_embedded(bundle, query))
    if as_json:
        print(answer.model_dump_json(indent=2))
        return
    if answer.unknown:
        print(f"{answer.unknown} items of the history are not in the catalogue", file=sys.stderr)
    if answer.unknown_words:
        print(f"no text of the catalogue has: {', '.join(answer.unknown_words)}", file=sys.stderr)
    print_items(answer.items, {})


def _embedded(bundle: Bundle, query: str) -> np.ndarray | None:
    """The query's vector where the bundle's encoder is a language model, which a bundle does not hold."""
    from unigrec.embedding.encoder import load_encoder
    from unigrec.embedding.sentence import SentenceModel
    from unigrec.serving.manifest import TEXT_ENCODER

    encoder = load_encoder(bundle.folder / TEXT_ENCODER)
    return encoder.transform([query])[0] if isinstance(encoder.text, SentenceModel) else None
