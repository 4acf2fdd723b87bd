"""Evaluation by beam search, compared with `generate` of transformers' T5: same weights, same constraint.

Shapes: B users per batch, W beams, T codes per identifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.harness import Options, Table, Timing, in_child, ratio, say
from benchmarks.speed.held import alternate, held_each
from benchmarks.speed.served import UNTRAINED, drawn_identifiers, serving_params, untrained_recommender
from benchmarks.speed.shapes import learning_data
from unigrec.base.process import keep_memory, training_device
from unigrec.core.evaluation.metrics import seen_before
from unigrec.core.models.recommender import Recommender
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.prefix_tree import Restriction
from unigrec.core.retrieval.retriever import CPU_BATCH
from unigrec.core.sequences import Sequences, chunks_by_length, in_chunks

if TYPE_CHECKING:
    from benchmarks.speed.generate import Generate

OURS, THEIRS, KEPT = "ours", "transformers generate", "transformers generate, memory kept"
ROWS = (OURS, THEIRS, KEPT)
LISTS = {"unmasked": [False], "unmasked and masked": [False, True]}  # lists per user; True: seen items are denied
ROUNDS, BATCHES = 3, 4  # a round is BATCHES batches of CPU_BATCH users
QUICK_ROUNDS, QUICK_BATCH, QUICK_BEAM = 1, 2, 5
CLOSE = 1e-3  # tolerance for summed log-probabilities in float32


def run(options: Options) -> list[Table]:
    given: dict[str, Any] = {
        "artifacts": str(options.artifacts.absolute()) if options.artifacts else None,
        "quick": options.quick,
    }
    found, _ = in_child(compared, **given)
    with held_each(Row, "name", ROWS, **given) as held:
        timings = {}
        for lists, masked in LISTS.items():
            timings[lists] = alternate(held, QUICK_ROUNDS if options.quick else ROUNDS, masked=masked, log=say)
            say(f"decoding, {lists}: {ratio(timings[lists][THEIRS], timings[lists][OURS]).of_medians:.1f} times")
        rows = [
            _row(name, lists, timings[lists][name], timings[lists][OURS], found["users"], held[name].peak)
            for lists in LISTS
            for name in ROWS
        ]
    notes = [
        UNTRAINED,
        f"One thread; the paper's network, {found['items']} items, beam {found['beam']}; time is per user. A round is "
        f"{found['users']} test users: {BATCHES} batches of an evaluation, which sorts users by history length. "
        f"Ours ranks {CPU_BATCH} users at a time, generate {found['at_once']}, its fastest number.",
        "All rows do the same work. Weights are copied. A processor renormalises T5's scores over the codes of the "
        "level, as ours does. There is no end token, because all identifiers have one length, and no length penalty. "
        "The constraint is prefix_allowed_tokens_fn over a dictionary of prefixes; masked, it also knows the items "
        "denied to each user.",
        "Each row runs in its own process. Ours is configured as in the stage evaluate, generate runs at its defaults. "
        f"{KEPT}: after keep_memory(), one line that anybody can add. With it the C library keeps freed memory instead "
        "of returning it to the kernel.",
        f"The lists: {found['same']:.2%} of the ranks hold the same item, and scores differ by at most "
        f"{found['difference']:.1e}. Ranks differ where two scores are closer than that. Every beam of both is a "
        "permitted item of the catalogue, and no item appears twice (checked for every user of a round).",
        "peak: peak memory of the row's process over all rounds.",
    ]
    return [Table("evaluation", rows, notes)]


def _row(name: str, lists: str, timing: Timing, ours: Timing, users: int, peak: int) -> dict[str, Any]:
    row: dict[str, Any] = {"what": name, "lists of a user": lists, **timing.cells(users)}
    if name != OURS:
        slower = ratio(timing, ours)
        row |= {"CPU, times ours": slower.of_medians, "of a round": f"{slower.least:.1f}-{slower.most:.1f}"}
    return row | {"users/s of CPU": 1e3 / row["CPU ms"], "peak GB": peak / 1e9}


def compared(artifacts: str | None, quick: bool) -> dict[str, Any]:
    """Compare our lists with theirs for the users of the first round; returns the agreement and the sizes of a round.

    Both run in one process, because no time is measured here.
    """
    work = Work(artifacts, quick)
    rankers = {name: work.ranker(name) for name in (OURS, THEIRS)}
    return {
        "items": work.sequences.catalogue_size,
        "beam": work.beam,
        "users": len(work.users(0)),
        "at_once": rankers[THEIRS].at_once,
        **work.compared(rankers),
    }


class Row:
    """A row of the table, in its own process: one ranker, configured as in real use."""

    def __init__(self, name: str, artifacts: str | None, quick: bool):
        if name == OURS:
            training_device()
        elif name == KEPT:
            keep_memory()
        self.work = Work(artifacts, quick)
        self.ranker = self.work.ranker(name)

    def round(self, number: int, masked: list[bool]) -> None:
        self.work.rank(self.ranker, number, masked)


class Work:
    """The users of each round, and both rankers."""

    def __init__(self, artifacts: str | None, quick: bool):
        params = serving_params(quick)
        self.sequences = learning_data(artifacts, 1, quick).sequences
        self.beam, self.history = QUICK_BEAM if quick else params.evaluate.beam, params.joint.history
        users = self.sequences.evaluation_users()
        rows = chunks_by_length(self.sequences.lengths[users], QUICK_BATCH if quick else CPU_BATCH)
        self.batches = [users[some] for some in rows]
        identifiers = drawn_identifiers(self.sequences.catalogue_size, params)
        self.codes = identifiers.codes
        self.recommender = untrained_recommender(params, identifiers.disambiguation)

    def ranker(self, name: str) -> Ours | Generate:
        if name == OURS:
            return Ours(self.recommender, self.codes, self.history, self.beam)
        from benchmarks.speed.generate import Generate  # here, because its imports must not count in our memory

        return Generate(self.recommender, self.codes, self.beam)

    def users(self, number: int) -> np.ndarray:
        """Users of a round: a few batches of an evaluation, which sorts users by history length.

        The batches are spread evenly over short, medium and long histories.
        """
        places = [int((place + 0.5) / BATCHES * len(self.batches)) for place in range(BATCHES)]
        return np.concatenate([self.batches[(place + number) % len(self.batches)] for place in places])

    def rank(self, ranker: Ours | Generate, number: int, masked: list[bool]) -> list[BeamResult]:
        """Rank items for all users of the round; returns one result per entry of `masked`."""
        chunks = in_chunks(self.users(number), ranker.at_once)
        found = [ranker.rank(self.sequences, users, self.history, masked) for users in chunks]
        return [
            BeamResult(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))
            for pieces in zip(*found, strict=True)
        ]

    def compared(self, rankers: dict[str, Ours | Generate]) -> dict[str, float]:
        """Compare the lists of the first round: share of ranks with the same item, largest difference of scores.

        Raises:
            AssertionError: a list holds a wrong item, or scores differ by more than rounding.
        """
        same, difference = [], 0.0
        seen = seen_before(self.sequences, self.users(0), "test")
        both = (self.rank(rankers[name], 0, [False, True]) for name in (OURS, THEIRS))
        for ours, theirs, masked in zip(*both, [False, True], strict=True):
            for ranked in (ours.items, theirs.items):
                check(ranked, self.sequences.catalogue_size, seen if masked else None)
            same.append((ours.items == theirs.items).float().mean().item())
            difference = max(difference, (ours.scores - theirs.scores).abs().max().item())
        assert difference < CLOSE, f"scores differ by {difference}"
        return {"same": float(np.mean(same)), "difference": difference}


def check(items: Tensor, catalogue: int, denied: Tensor | None) -> None:
    """Assert that every beam is an item, once per list and not denied: items (B, W), denied (B, n) padded with -1."""
    assert ((items >= 0) & (items < catalogue)).all(), "a beam is not an item"
    assert all(len(set(row)) == len(row) for row in items.tolist()), "an item appears twice"
    if denied is not None:
        assert not (items[:, :, None] == denied[:, None]).any(), "a denied item is listed"


class Ours:
    """The project's beam search, as the evaluation runs it."""

    at_once = CPU_BATCH

    def __init__(self, recommender: Recommender, codes: np.ndarray, history: int, beam: int):
        self.retriever = GenerativeRetriever.hardened(recommender, codes, history=history, beam=beam)

    def rank(self, sequences: Sequences, users: np.ndarray, history: int, masked: list[bool]) -> list[BeamResult]:
        denied = Restriction(self.retriever.tree, denied=seen_before(sequences, users, "test"))
        restrictions = [denied if without_seen else None for without_seen in masked]
        histories = sequences.held_out(users, "test", history)
        return self.retriever.search(histories.items, histories.lengths, restrictions)
