"""The weights of the fused ranking, fitted to the NDCG@10 of validation users.

Shapes: U users, C candidates, F features.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.evaluation.metrics import is_before, ndcg, rank_in_list
from unigrec.core.evaluation.protocol import GATED_CUTOFF
from unigrec.core.retrieval.fused import FEATURES, Candidates, FusedRetriever, Weights
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.sequences import Sequences

DENSE = FEATURES.index("dense")
STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # weights that are tried
# Of own items too: where nobody comes back for them. The lowest puts them after all others.
OWN_BELOW_ZERO = (-1.0, -2.0, -4.0, -8.0, -16.0)
TRIED = dict.fromkeys(Weights._fields, STEPS) | {"own": tuple(sorted((*STEPS, *OWN_BELOW_ZERO), key=abs))}
STARTS = (0.3, 0.8, 2.0)  # of the first weights, in all combinations: the best of them is where the sweeps begin
STARTED = ("generative", "follows", "alike")  # the others begin at 0
SWEEPS = 5  # over all weights; a sweep that changes nothing is the last
FOLDS = 2


class Validation(NamedTuple):
    """The candidates of validation users."""

    candidates: Candidates  # (U, C)
    targets: Tensor  # (U,) the item that came next
    ranks: Tensor  # (U,) rank of it in the student's own list, 0 if it is not there; `candidates` have a floor

    def rows(self, rows: Tensor) -> Validation:
        """Some of the users."""
        items, features = self.candidates
        return Validation(Candidates(items[rows], features[rows]), self.targets[rows], self.ranks[rows])


class Chosen(NamedTuple):
    """What ranks the items, and why."""

    by: RankBy
    weights: Weights
    validation: dict[str, float]  # NDCG@10 of every way to rank; of the fused one without optimism


def choose_ranking(validation: Validation, by: str, seed: int) -> Chosen:
    """Fit the weights; rank as `by` says, or by what is best on the validation users if it says `best`.

    The fused ranking is judged by weights that were fitted to other users. If it is not better than each of its parts,
    the better part is chosen.
    """
    found = {RankBy.FUSED: cross_fitted_gains(validation, seed)} | gains_of_parts(validation)
    means = {str(one): float(gain.mean()) for one, gain in found.items()}
    # The parts come first: a tie chooses the simpler ranking.
    chosen = max(reversed(found), key=lambda one: means[one]) if by == "best" else RankBy(by)
    return Chosen(chosen, fit_weights(validation), means)


def gains(validation: Validation, weights: Weights) -> np.ndarray:
    """(U,) NDCG@10 of each user under these weights."""
    return _Objective(validation).gains(weights)


def fit_weights(validation: Validation) -> Weights:
    """Weights with the best mean NDCG@10: one at a time, over those of `TRIED`, until a sweep changes nothing.

    Of equal gains the weight nearer to 0 is taken.
    """
    objective = _Objective(validation)
    starts = [Weights(*values) for values in itertools.product(STARTS, repeat=len(STARTED))]
    weights = max(starts, key=lambda one: float(objective.gains(one).mean()))
    for _ in range(SWEEPS):
        before = weights
        for name in Weights._fields:
            weights = objective.best(weights, name)
        if weights == before:
            break
    return weights


def cross_fitted_gains(validation: Validation, seed: int) -> np.ndarray:
    """(U,) NDCG@10 of each user under weights that were fitted to other users: an estimate without optimism."""
    users = len(validation.targets)
    fold = torch.as_tensor(np.random.default_rng(seed).permutation(users) % FOLDS)
    found = np.zeros(users)
    for number in range(FOLDS):
        inside = fold == number
        found[inside.numpy()] = gains(validation.rows(inside), fit_weights(validation.rows(~inside)))
    return found


def validation_candidates(retriever: FusedRetriever, sequences: Sequences, users: np.ndarray) -> Validation:
    """Candidates for the validation items of the users, unmasked, whatever weights the retriever has."""
    retriever = retriever.with_weights(None)
    parts: list[tuple[np.ndarray, Candidates, Tensor, Tensor]] = []
    for rows in retriever.batches(sequences.lengths[users]):
        histories = sequences.held_out(users[rows], "validation", retriever.history)
        (found,) = retriever.search(histories.items, histories.lengths)
        of_rows = torch.as_tensor(histories.targets)
        of_student = rank_in_list(found.beam.items.cpu(), of_rows)
        parts.append((rows, found.candidates, of_rows, of_student))
    width = max(candidates.items.shape[1] for _, candidates, _, _ in parts)
    items = torch.full((len(users), width), -1)
    features, targets = torch.zeros(len(users), width, len(FEATURES)), torch.zeros(len(users), dtype=torch.int64)
    ranks = torch.zeros(len(users), dtype=torch.int64)
    for rows, candidates, of_rows, of_student in parts:
        count = candidates.items.shape[1]
        items[rows, :count], features[rows, :count] = candidates.items.cpu(), candidates.features.cpu()
        targets[rows], ranks[rows] = of_rows, of_student
    return Validation(Candidates(items, features), targets, ranks)


def gains_of_parts(validation: Validation) -> dict[RankBy, np.ndarray]:
    """(U,) NDCG@10 of each user if one part ranks alone."""
    items, features = validation.candidates
    of_dense = torch.zeros_like(features)
    of_dense[..., DENSE] = features[..., DENSE]
    dense = validation._replace(candidates=Candidates(items, of_dense))
    return {
        RankBy.GENERATIVE: ndcg(validation.ranks.numpy(), GATED_CUTOFF),
        RankBy.DENSE: gains(dense, Weights(0.0, 0.0, 0.0)),
    }


class _Objective:
    """Mean NDCG@10 as a function of the weights. The features are laid out once, as one column per weight."""

    def __init__(self, validation: Validation):
        items, features = validation.candidates
        self.columns = {name: features[..., FEATURES.index(name)].contiguous() for name in Weights._fields}  # (U, C)
        self.fixed = features[..., DENSE].masked_fill(items < 0, float("-inf"))
        is_target = items == validation.targets[:, None]
        self.found = is_target.any(1)
        self.place = is_target.long().argmax(1)[:, None]
        self.lower = items < validation.targets[:, None]  # of equal scores the lower item index comes first

    def best(self, weights: Weights, name: str) -> Weights:
        """The weights with the named one set to the best of those that are tried."""
        rest = self._scores(weights._replace(**{name: 0.0}))
        means = [float(self._gains(rest + tried * self.columns[name]).mean()) for tried in TRIED[name]]
        return weights._replace(**{name: TRIED[name][int(np.argmax(means))]})

    def gains(self, weights: Weights) -> np.ndarray:
        return self._gains(self._scores(weights))

    def _scores(self, weights: Weights) -> Tensor:
        scores = self.fixed.clone()
        for name, weight in weights._asdict().items():
            scores.add_(self.columns[name], alpha=weight)
        return scores

    def _gains(self, scores: Tensor) -> np.ndarray:
        own = scores.gather(1, self.place)
        ranks = torch.where(self.found, is_before(scores, own, self.lower).sum(1) + 1, 0)
        return ndcg(ranks.numpy(), GATED_CUTOFF)
