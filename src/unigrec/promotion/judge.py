"""Measures challenger and champion on the test users of the prepared data; `core.decisions.comparison` decides.

A bundle's own figures are not read. Histories and answers are item ids, so the two bundles may know different items; an
item that a bundle does not know counts as not found.

Shapes: U test users, N items, T codes per identifier, L levels.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from unigrec.base import files
from unigrec.base.data_version import test_set_version
from unigrec.base.errors import UnigrecError
from unigrec.core.decisions.comparison import (
    CHALLENGER,
    CHAMPION,
    ONLINE,
    OVER_CHAMPION,
    Candidate,
    Pair,
    compare,
    does_not_load,
)
from unigrec.core.decisions.gates import Decision, Outcome
from unigrec.core.evaluation.baselines import Baselines
from unigrec.core.evaluation.metrics import ndcg, rank_in_list, ranking_metrics
from unigrec.core.evaluation.protocol import GATED_CUTOFF, SHIPPED, Protocol
from unigrec.core.evaluation.slices import slices
from unigrec.core.identifiers.churn import churn_against, known_codes
from unigrec.core.identifiers.collisions import collision_rate
from unigrec.core.identifiers.health import codebook_usage
from unigrec.core.sequences import in_chunks, sample
from unigrec.data.slice_columns import slice_values
from unigrec.serving.assemble import last_interaction
from unigrec.serving.bundle import Bundle
from unigrec.serving.manifest import Subject, is_same_model
from unigrec.serving.probe import ProbeError, probe

if TYPE_CHECKING:
    from unigrec.base.paths import Artifacts
    from unigrec.config.schema import GateParams, PromotionParams
    from unigrec.core.sequences import Sequences

USERS_AT_ONCE = 1024
UNKNOWN = -2  # place of an item that a bundle does not know; -1 stands for no item in its lists


class Settings(NamedTuple):
    """The params that the judge reads. online: reports of experiments, the latest last."""

    limits: GateParams
    promotion: PromotionParams
    seed: int
    online: tuple[dict[str, Any], ...] = ()


class Today(NamedTuple):
    """The test users of the prepared data."""

    sequences: Sequences
    users: np.ndarray  # (U,) the measured users: all, or a sample
    item_ids: list[str]  # (N,)
    test_set: str  # a bundle of the same data has this hash in its manifest
    until: int  # unix seconds of the newest interaction
    folder: Path  # where the prepared data lie
    columns: dict[str, list[set[str]]]  # values of each item, N per column of `evaluate.slice_columns`


class Judgement(NamedTuple):
    """The decision, and the facts behind it."""

    decision: Decision
    challenger: str
    champion: str | None
    facts: dict[str, Any]  # plain JSON: bundle ids, users, protocol, seed, metrics, churn per level

    @property
    def outcome(self) -> Outcome:
        """`promote`; `keep` if only a proof against the champion is missing, offline or online; else `refuse`."""
        refusing = {gate.name for gate in self.decision.refusing}
        if not refusing:
            return Outcome.PROMOTE
        return Outcome.KEEP if refusing <= {OVER_CHAMPION, ONLINE} else Outcome.REFUSE

    @property
    def reason(self) -> str:
        """One line: the gates that refuse, or the margin over the champion."""
        told = self.decision.refusing or [gate for gate in self.decision.gates if gate.name == OVER_CHAMPION]
        return "; ".join(f"{gate.name}: {gate.reason}" for gate in told) or "is the first champion"

    def as_dict(self) -> dict[str, Any]:
        """The judgement as plain JSON."""
        names = {"outcome": self.outcome, "challenger": self.challenger, "champion": self.champion}
        return names | self.facts | self.decision.as_dict()


def today(
    artifacts: Artifacts, sequences: Sequences, max_users: int, seed: int, slice_columns: tuple[str, ...]
) -> Today:
    """Test users of the prepared data; more than `max_users` of them (0: no limit) are sampled with the seed.

    Raises:
        UnigrecError: there is no prepared data, no user has a test item, or the items lack a slice column.
    """
    users = sequences.evaluation_users()
    if not len(users):
        raise UnigrecError(f"{artifacts.sequences}: no user has a test item; run `dvc repro prepare` on more data")
    users = sample(users, max_users or len(users), seed)
    ids = files.read_table(artifacts.catalogue, ["item_id"])["item_id"].to_pylist()
    test_set = test_set_version(artifacts)
    return Today(
        sequences,
        users,
        ids,
        test_set=test_set,
        until=last_interaction(artifacts),
        folder=artifacts.sequences.parent,
        columns=slice_values(artifacts, slice_columns),
    )


def judge(challenger: Subject, champion: Subject | None, now: Today, settings: Settings) -> Judgement:
    """Measure and decide.

    A separate process loads the challenger first: if it fails there in any way, the challenger is refused.

    Raises:
        UnigrecError: no decision is possible: the champion is damaged, or a bundle's data is newer than the prepared.
    """
    params, protocol = settings.promotion, settings.limits.protocol
    facts: dict[str, Any] = {
        "protocol": protocol,
        "seed": settings.seed,
        "users": len(now.users),
        "users_there_are": len(now.sequences.evaluation_users()),
        "resamples": params.resamples,
        "mode": params.mode,
        "data_until": _date(now.until),
    }
    name = None if champion is None else champion.name
    # The challenger in a process of its own: it must load and answer there.
    requests = histories(now, now.users[: params.latency_requests])[0]
    try:
        latency = probe(challenger.folder, requests, GATED_CUTOFF, limit=params.max_load_seconds)
    except ProbeError as error:
        return Judgement(does_not_load(str(error)), challenger.name, name, facts=facts)
    # The challenger by itself.
    new = _load(challenger, now)
    old = None if champion is None else _load(champion, now)
    ranks = ranks_of(new, now, protocol)
    metrics = _baselines(now, protocol, new.serving.history) | {SHIPPED: ranking_metrics(ranks, [GATED_CUTOFF])}
    candidate = Candidate(
        new.manifest["gates_passed"] is True,
        {model: {protocol: found} for model, found in metrics.items()},
        health_of(new),
        latency_ms=latency,
        size_mb=size_mb(challenger),
    )
    facts |= {"challenger_bundle": new.id, "challenger_of_this_data": new.manifest["data"]["test_set"] == now.test_set}
    # The challenger against the champion, user by user.
    pair = None
    if old is not None:
        reference = ranks_of(old, now, protocol)
        metrics[CHAMPION] = ranking_metrics(reference, [GATED_CUTOFF])
        churn = churn_against(known_codes(new.item_ids, old.item_ids, old.identifiers), new.identifiers)
        masks = slices(now.sequences, now.users, now.columns)
        pair = Pair(
            ndcg(ranks, GATED_CUTOFF),
            ndcg(reference, GATED_CUTOFF),
            masks,
            churn=churn.changed,
            other_catalogue=new.id != old.id and is_same_model(new.manifest, old.manifest) and not churn.changed,
            same=new.id == old.id,
            online=_online(settings.online, new.id, old.id),
        )
        facts |= {"champion_bundle": old.id, "churn_per_level": churn.per_level or []}
    decision = compare(candidate, pair, settings.limits, params=params, seed=settings.seed)
    return Judgement(decision, challenger.name, name, facts=facts | {"metrics": metrics})


def _online(reports: tuple[dict[str, Any], ...], challenger: str, champion: str) -> dict[str, Any] | None:
    """The latest report of an experiment with these two bundles; None if there is none."""
    for report in reversed(reports):
        found = [(report.get(name) or {}).get("bundle") for name in (CHALLENGER, CHAMPION)]
        if found == [challenger, champion]:
            return report
    return None


def histories(now: Today, users: np.ndarray) -> tuple[list[list[str]], list[str]]:
    """For each user, the item ids before the test item, oldest first, and the id of the test item."""
    items, lengths = now.sequences.seen(users, "test")
    ids = np.array(now.item_ids, dtype=object)
    before = [ids[row[:length]].tolist() for row, length in zip(items, lengths, strict=True)]
    return before, ids[now.sequences.held_out(users, "test", 1).targets].tolist()


def ranks_of(bundle: Bundle, now: Today, protocol: str) -> np.ndarray:
    """(U,) the rank of each user's test item; 0 if it is not among the first ten, or unknown to the bundle."""
    k = min(GATED_CUTOFF, len(bundle.item_ids))
    ranks = []
    for users in in_chunks(now.users, USERS_AT_ONCE):
        before, targets = histories(now, users)
        found = bundle.rank(before, k, exclude_history=protocol == Protocol.MASKED).best.items
        places = torch.tensor([bundle.index_of.get(target, UNKNOWN) for target in targets])
        ranks.append(rank_in_list(found, places).numpy())
    return np.concatenate(ranks)


def _baselines(now: Today, protocol: str, history: int) -> dict[str, dict[str, float]]:
    ranks = Baselines(now.sequences, history).ranks(now.users)
    return {model: ranking_metrics(ranks[model, protocol], [GATED_CUTOFF]) for model in ("popularity", "cooccurrence")}


def health_of(bundle: Bundle) -> dict[str, Any]:
    """Collision rate and codebook utilisation of the served identifiers (N, T), over the L levels of the tokenizer."""
    shape = bundle.recommender.config
    codes = bundle.identifiers[:, : shape.levels]
    used = (codebook_usage(codes, shape.codebook_size) > 0).mean(1)
    return {"collision_rate": collision_rate(codes), "codebook_utilisation": [float(share) for share in used]}


def size_mb(subject: Subject) -> float:
    """The size of all files in the folder."""
    return sum(path.stat().st_size for path in subject.folder.rglob("*") if path.is_file()) / 1e6


def _load(subject: Subject, now: Today) -> Bundle:
    bundle = Bundle.load(subject.folder)
    until = bundle.manifest["data"].get("until")  # absent from bundles of earlier versions
    if isinstance(until, int) and until > now.until:
        raise UnigrecError(
            f"{subject.name} was made of data up to {_date(until)}, but {now.folder} ends at "
            f"{_date(now.until)}: it may have been trained on today's test items; bring the data up to date first "
            "(`dvc pull`, or `dvc repro prepare`)"
        )
    return bundle


def _date(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
