"""Who is champion: a passed challenger that is better than the champion on the same users, or the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unigrec import artifacts as a
from unigrec.bundle_files import sha256_of
from unigrec.errors import UnigrecError
from unigrec.evaluation import ndcg, paired_bootstrap
from unigrec.registry import CHALLENGER, CHAMPION, PREVIOUS, VERDICT_TAG, load_bundle, version_of
from unigrec.tracking import mlflow_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

    from unigrec.bundle import Bundle
    from unigrec.config import RegisterParams
    from unigrec.data.batches import Sequences

MAX_P_NOT_BETTER = 0.05  # one-sided: share of bootstrap resamples in which the challenger is not better
CUTOFF = 10


class Promotion(NamedTuple):
    """What became of a version. `moved`: it is champion now and was not before."""

    version: str
    champion: str | None
    moved: bool
    reason: str


class Comparison(NamedTuple):
    """How two models are compared."""

    protocol: str  # unmasked | masked
    resamples: int
    seed: int
    sequences: Callable[[], Sequences]  # today's, for models that were evaluated on different users


def promote(params: RegisterParams, comparison: Comparison, version: str | None = None) -> Promotion:
    """Point `champion` at a version (the challenger by default) if it deserves it; the old one becomes `previous`.

    Deserves it: its gates passed, and there is no champion, or its NDCG@10 is higher than the champion's on the same
    test users (paired bootstrap; a tie does not promote). Asking twice changes nothing.

    Raises:
        UnigrecError: no such version, its gates refused it, somebody else moved the champion meanwhile, the models
            cannot be compared here, or MLflow does not answer.
    """
    name = params.model_name
    with mlflow_client(params) as client:
        candidate = version or _number(client, name, CHALLENGER)
        if candidate is None:
            raise UnigrecError(f"{name} has no challenger; register a model whose gates pass: make run")
        if client.get_model_version(name, candidate).tags.get("gate") != "passed":
            raise UnigrecError(f"{name} version {candidate}: its gates refused it; it cannot be promoted")
        champion = _number(client, name, CHAMPION)
        if champion == candidate:
            return Promotion(candidate, champion, False, "is the champion already")
        better, reason = True, "is the first champion"
        if champion is not None:
            better, reason = _compare(params, comparison, candidate, champion)
        if better:
            _move(client, name, champion, candidate)
        client.set_model_version_tag(name, candidate, VERDICT_TAG, reason)
    return Promotion(candidate, candidate if better else champion, better, reason)


def _number(client: MlflowClient, name: str, alias: str) -> str | None:
    found = version_of(client, name, alias)
    return None if found is None else str(found.version)


def _move(client: MlflowClient, name: str, champion: str | None, candidate: str) -> None:
    """The registry has no compare-and-swap: read the champion right before and after, and say when it is not ours."""
    if _number(client, name, CHAMPION) != champion:
        raise UnigrecError(f"{name}: the champion was moved by somebody else meanwhile; nothing was changed, try again")
    if champion is not None:
        client.set_registered_model_alias(name, PREVIOUS, champion)
    client.set_registered_model_alias(name, CHAMPION, candidate)
    found = _number(client, name, CHAMPION)
    if found != candidate:
        raise UnigrecError(f"{name}: the champion is version {found}, not {candidate}: somebody else moved it too")


def _compare(params: RegisterParams, how: Comparison, candidate: str, champion: str) -> tuple[bool, str]:
    """Whether the candidate's NDCG@10 is higher on the same users, and the finding in words."""
    new, old = load_bundle(params, candidate), load_bundle(params, champion)
    column = f"student_{how.protocol}"
    ranks = _stored_ranks(new, column)
    if new.manifest["data"]["test_set"] == old.manifest["data"]["test_set"]:
        reference = _stored_ranks(old, column)
    else:
        reference = _ranks_today(new, old, how)
    found = paired_bootstrap(ndcg(ranks, CUTOFF), ndcg(reference, CUTOFF), how.resamples, how.seed)
    better = found["difference"] > 0 and found["p_not_better"] < MAX_P_NOT_BETTER
    return better, (
        f"NDCG@{CUTOFF} {found['difference']:+.4f} against champion version {champion} on the same {len(ranks)} users "
        f"(95 % interval {found['low']:+.4f} to {found['high']:+.4f}, p not better {found['p_not_better']:.3f})"
    )


def _stored_ranks(bundle: Bundle, column: str) -> np.ndarray:
    """(U,) the student's ranks as the bundle's evaluation found them."""
    return a.read_table(bundle.folder / "ranks.parquet", [column])[column].to_numpy()


def _ranks_today(new: Bundle, old: Bundle, how: Comparison) -> np.ndarray:
    """(U,) where the old bundle ranks the test items of the new bundle's users; 0 beyond the cutoff or unknown to it.

    Raises:
        UnigrecError: this folder's prepared data is not that of the new bundle.
    """
    if sha256_of(a.SEQUENCES, a.CATALOGUE) != new.manifest["data"]["test_set"]:
        raise UnigrecError(
            f"champion and challenger were evaluated on different users, and {a.SEQUENCES.parent} does not hold the "
            "challenger's: run `dvc repro` on its data first"
        )
    sequences = how.sequences()
    users = sequences.evaluation_users()
    ids = np.array(new.item_ids, dtype=object)
    items, lengths = sequences.seen(users, "test")
    histories = [ids[row[:length]].tolist() for row, length in zip(items, lengths, strict=True)]
    targets = ids[sequences.held_out(users, "test", 1).targets]
    answers = old.recommend(histories, min(CUTOFF, len(old.item_ids)), exclude_history=how.protocol == "masked")
    ranks = [
        next((place for place, item in enumerate(answer.items, start=1) if item.item_id == target), 0)
        for answer, target in zip(answers, targets, strict=True)
    ]
    return np.array(ranks)
