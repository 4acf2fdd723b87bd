"""Users like given ones: a logistic regression that tells the seeds from all others by the users' states.

Shapes: U users, E width of a state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FOLDS = 5
PENALTY = 1e-3  # on the squared weights of standardised states
STEPS = 50  # of LBFGS


class Lookalikes(NamedTuple):
    """How much each user is like the seeds, and how well that can be told."""

    scores: np.ndarray  # (U,) log odds
    auc: float  # of seeds that the regression did not see, over `FOLDS` parts


def lookalikes(states: Tensor, is_seed: np.ndarray, seed: int) -> Lookalikes:
    """Fit on all users, and once per fold without it for the AUC.

    Args:
        states: (U, E). is_seed: (U,) bool, at least `FOLDS` of each kind. seed: of the folds.
    """
    x = (states - states.mean(0)) / states.std(0).clamp_min(1e-6)
    labels = torch.as_tensor(is_seed)
    folds = np.empty(len(x), np.int64)
    generator = np.random.default_rng(seed)
    for kind in (is_seed, ~is_seed):  # every fold has its share of seeds
        folds[kind] = generator.permutation(np.arange(kind.sum()) % FOLDS)
    unseen = np.empty(len(x))
    for fold in range(FOLDS):
        inside = torch.as_tensor(folds == fold)
        unseen[folds == fold] = _log_odds(x[~inside], labels[~inside], x[inside])
    return Lookalikes(_log_odds(x, labels, x), auc(unseen, is_seed))


def _log_odds(x: Tensor, labels: Tensor, asked: Tensor) -> np.ndarray:
    """Fitted on x (n, E) and labels (n,), for `asked` (m, E); both kinds of users weigh as much in all."""
    weight, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    share = labels.float().mean()
    balance = torch.where(labels, 0.5 / share, 0.5 / (1.0 - share))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ weight + bias, labels.float(), weight=balance)
        value = value + PENALTY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return (asked @ weight + bias).detach().double().numpy()


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, (n,) twice; ties count half."""
    values, places = np.unique(scores, return_inverse=True)
    sizes = np.bincount(places, minlength=len(values))
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[places]
    good = int(labels.sum())
    return float((ranks[labels == 1].sum() - good * (good + 1) / 2) / (good * (len(labels) - good)))
