"""A bundle's answers about many users, each given by a history: who is like some of them, and which kinds there are.

Shapes: U users, E width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from unigrec.base.errors import UnigrecError
from unigrec.core.models.ensemble import members_of
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.lookalike import lookalikes
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.retrieval.segments import find_segments, telling
from unigrec.core.sequences import pad_rows
from unigrec.serving.schema import (
    AudienceAnswer,
    AudienceUser,
    LookalikeAnswer,
    Segment,
    SegmentsAnswer,
    TellingItem,
    TellingWord,
)
from unigrec.serving.title_words import title_words

if TYPE_CHECKING:
    from torch import Tensor

    from unigrec.serving.bundle import Bundle

FEWEST_SEEDS = 20
USERS_PER_SEGMENT = 10  # at least, on average: fewer tell nothing
MOST_ITEMS, MOST_WORDS = 3, 5  # shown of each segment
Histories = Sequence[Sequence[str | None]]


def audience(bundle: Bundle, item: str, histories: Histories, k: int, rank_by: RankBy | None) -> AudienceAnswer:
    """As `Bundle.audience`."""
    index, retriever = bundle.index(item), bundle.retriever(rank_by)
    if k < 1:
        raise UnigrecError(f"k = {k}: expected at least 1")
    known = [bundle.known(history) for history in histories]
    rows = [row for row, history in enumerate(known) if history]
    if not rows:
        raise UnigrecError(f"none of the {len(known)} histories holds an item of the catalogue")
    only = torch.zeros(len(bundle.item_ids), dtype=torch.bool)
    only[index] = True
    scores = bundle.best_items(retriever, [known[row] for row in rows], only, 1).scores[:, 0]
    best = scores.sort(descending=True, stable=True).indices[:k].tolist()
    return AudienceAnswer(
        users=tuple(AudienceUser(row=rows[place], score=float(scores[place])) for place in best),
        unread=len(known) - len(rows),
    )


def lookalike(bundle: Bundle, seeds: Histories, others: Histories, k: int, seed: int) -> LookalikeAnswer:
    """As `Bundle.lookalike`."""
    (_, of_seeds), (rows, of_others) = (
        readable(bundle, [bundle.known(own) for own in part]) for part in (seeds, others)
    )
    if min(len(of_seeds), len(of_others)) < FEWEST_SEEDS:
        raise UnigrecError(
            f"{len(of_seeds)} of the {len(seeds)} seeds have a history, and {len(of_others)} other users; fewer than "
            f"{FEWEST_SEEDS} tell nothing"
        )
    is_seed = np.arange(len(of_seeds) + len(of_others)) < len(of_seeds)
    found = lookalikes(user_states(bundle, of_seeds + of_others), is_seed, seed)
    scores = found.scores[~is_seed]
    best = np.argsort(-scores, kind="stable")[:k].tolist()
    return LookalikeAnswer(
        users=tuple(AudienceUser(row=rows[place], score=float(scores[place])) for place in best),
        auc=found.auc,
        seeds=len(of_seeds),
        unread=len(seeds) + len(others) - len(is_seed),
    )


def segments(bundle: Bundle, histories: Histories, k: int, parts: int, seed: int) -> SegmentsAnswer:
    """As `Bundle.segments`."""
    rows, read = readable(bundle, [bundle.known(own) for own in histories])
    if len(read) < USERS_PER_SEGMENT * k:
        raise UnigrecError(
            f"{len(read)} users have an item of the catalogue; {k} segments need at least {USERS_PER_SEGMENT * k}: "
            "lower -k"
        )
    found = find_segments(user_states(bundle, read), k, parts, seed)
    names: list[str | None] = [None] * len(histories)
    for row, segment, part in zip(rows, found.segments.tolist(), found.parts.tolist(), strict=True):
        names[row] = f"{segment + 1}.{part + 1}"
    return SegmentsAnswer(
        segments=tuple(_described(bundle, found.segments, found.parts, read)),
        of_histories=tuple(names),
        stability=found.stability,
        stability_of_parts=found.stability_of_parts,
    )


def readable(bundle: Bundle, known: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The rows of histories with an item that the bundle was trained on, and those items of each.

    known: the items of each history that the catalogue holds, as `Bundle.known` returns them.
    """
    trained = [bundle.trained_items(own) for own in known]
    rows = [row for row, own in enumerate(trained) if own]
    return rows, [trained[row] for row in rows]


@torch.inference_mode()
def user_states(bundle: Bundle, histories: Sequence[Sequence[int]]) -> Tensor:
    """(U, E) after histories of trained items, none empty, by the teacher's first network. Raises UnigrecError."""
    dense = bundle.retrievers.get(RankBy.DENSE)
    if not isinstance(dense, DenseRetriever):
        raise UnigrecError(
            f"{bundle.folder}: this bundle, of an earlier version, holds no teacher; run the pipeline again"
        )
    first = members_of(dense.model)[0]
    result = torch.empty(len(histories), first.item_vectors().shape[1])
    for rows in dense.batches(np.array([len(history) for history in histories], np.int64)):
        items, lengths = pad_rows([histories[row][-dense.history :] for row in rows], fill=0)
        result[torch.as_tensor(rows)] = first.last_hidden(torch.as_tensor(items), torch.as_tensor(lengths))
    return result


def _described(bundle: Bundle, codes: np.ndarray, parts: np.ndarray, read: list[list[int]]) -> list[Segment]:
    """Each segment, followed by its parts."""
    titles = {item: bundle.titles[item] for item in {item for own in read for item in own}}
    words_of = {item: set(title_words(title)) for item, title in titles.items()}
    words = sorted(set().union(*words_of.values()))
    number = {word: place for place, word in enumerate(words)}
    items = _pairs([set(own) for own in read])
    used = _pairs([{number[word] for item in set(own) for word in words_of[item]} for own in read])

    def row(name: str, inside: np.ndarray) -> Segment:
        return Segment(
            segment=name,
            users=int(inside.sum()),
            share=float(inside.mean()),
            items=tuple(
                TellingItem(item_id=bundle.item_ids[one.thing], title=titles[one.thing], users=one.users, lift=one.lift)
                for one in telling(inside, *items, MOST_ITEMS)
            ),
            words=tuple(
                TellingWord(word=words[one.thing], users=one.users, lift=one.lift)
                for one in telling(inside, *used, MOST_WORDS)
            ),
        )

    rows = []
    for segment in range(int(codes.max()) + 1):
        inside = codes == segment
        rows.append(row(f"{segment + 1}", inside))
        rows += [
            row(f"{segment + 1}.{part + 1}", inside & (parts == part)) for part in range(int(parts[inside].max()) + 1)
        ]
    return rows


def _pairs(things: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) users and (n,) things, from the things of each user."""
    users = np.repeat(np.arange(len(things)), [len(own) for own in things])
    return users, np.array([thing for own in things for thing in sorted(own)], np.int64)
