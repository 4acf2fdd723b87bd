"""Who is champion: one change at a time, written down before and after, finished or undone when it died halfway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.base.lock import exclusive
from unigrec.base.masking import masked
from unigrec.core.decisions.gates import Outcome
from unigrec.promotion import audit
from unigrec.registry.tracking import BUNDLE_TAG, mlflow_client, tracking_uri
from unigrec.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, VERDICT_TAG, named_version, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

    from unigrec.config.schema import RegisterParams

ROLLED_BACK_TAG = "rolled_back"  # of a version that was taken back: it is not promoted again unless it is named
CHANGE_TAG = "champion."  # + action, from, who, when, why, commit, id: of a version, how it became champion last
TAG_LENGTH = 4000  # characters; the store takes 5000


class Verdict(NamedTuple):
    """What judging a challenger came to: the outcome, a line, and a page of Markdown."""

    outcome: Outcome
    reason: str
    page: str


class Promotion(NamedTuple):
    """What became of a version.

    moved: it is champion now and was not before. refused: by more than not being better than the champion. page: the
    comparison as Markdown, where there was one.
    """

    version: str
    champion: str | None
    moved: bool
    refused: bool
    reason: str
    page: str | None = None


def promote(
    params: RegisterParams,
    judge: Callable[[str, str | None], Verdict],
    version: str | None = None,
    wait_seconds: float = 0.0,
) -> Promotion:
    """Point `champion` at a version (the challenger by default) if the judge says so; the old one becomes `previous`.

    Asking twice changes nothing. Before anything else, a change that died halfway is finished or undone.

    Args:
        judge: takes the numbers of challenger and champion; the latter None for the first model of all.
        wait_seconds: for another promotion that is at work.

    Raises:
        UnigrecError: no such version, the gates of its run refused it, somebody else moved the champion meanwhile, the
            judge could not decide, another promotion is at work, or MLflow does not answer.
    """
    name = params.model_name
    with _alone(params, wait_seconds) as client:
        candidate = version or _number(client, name, CHALLENGER)
        if candidate is None:
            raise UnigrecError(f"{name} has no challenger; register a model whose gates pass: make run")
        found = named_version(client, name, candidate)
        candidate = str(found.version)
        if found.tags.get("gate") != "passed":
            raise UnigrecError(f"{name} version {candidate}: its gates refused it; it cannot be promoted")
        champion = _number(client, name, CHAMPION)
        if champion == candidate:
            return Promotion(candidate, champion, False, False, "is the champion already")
        if version is None and ROLLED_BACK_TAG in found.tags:
            reason = (
                f"was {found.tags[ROLLED_BACK_TAG]}; to judge it again, name it: unigrec promote --version {candidate}"
            )
            return Promotion(candidate, champion, False, False, reason)
        verdict = judge(candidate, champion)
        if verdict.outcome != Outcome.PROMOTE:
            client.set_model_version_tag(name, candidate, VERDICT_TAG, verdict.reason[:TAG_LENGTH])
            refused = verdict.outcome == Outcome.REFUSE
            return Promotion(candidate, champion, False, refused, verdict.reason, verdict.page)
        _change(client, params, "promote", champion, candidate, verdict.reason)
    return Promotion(candidate, candidate, True, False, verdict.reason, verdict.page)


def rollback(params: RegisterParams, version: str | None, why: str, wait_seconds: float = 0.0) -> Promotion:
    """Point `champion` at `previous`, or at a version that was champion before; `previous` is removed.

    The version that was taken back is marked, so that no schedule promotes it again. Asking twice changes nothing.

    Raises:
        UnigrecError: there is no champion, nothing to go back to, or the version never was champion; and as `promote`.
    """
    name = params.model_name
    with _alone(params, wait_seconds) as client:
        champion = _number(client, name, CHAMPION)
        if champion is None:
            raise UnigrecError(f"{name} has no champion to roll back")
        current, previous = client.get_model_version(name, champion), _number(client, name, PREVIOUS)
        target = version and str(named_version(client, name, version).version)
        if target is None and previous is None:
            if current.tags.get(f"{CHANGE_TAG}action") != "rollback":
                raise UnigrecError(f"{name}: no version is `previous`; name one: unigrec rollback --to VERSION")
            return Promotion(champion, champion, False, False, f"is the champion already: {current.tags[VERDICT_TAG]}")
        target = target or str(previous)
        if target == champion:
            return Promotion(champion, champion, False, False, "is the champion already")
        if target != previous and f"{CHANGE_TAG}action" not in client.get_model_version(name, target).tags:
            raise UnigrecError(
                f"{name} version {target} never was champion; `unigrec promote --version {target}` judges it"
            )
        _change(client, params, "rollback", champion, target, why)
    return Promotion(target, target, True, False, f"rolled back from version {champion}: {why}")


@contextmanager
def _alone(params: RegisterParams, wait_seconds: float) -> Iterator[MlflowClient]:
    """A client, and nobody else on this machine who promotes; whatever died halfway is settled first."""
    with exclusive(paths.PROMOTION_LOCK, wait_seconds), mlflow_client(params) as client:
        for change in audit.unfinished(paths.AUDIT, params.model_name, masked(tracking_uri(params))):
            _settle(client, change)
        yield client


def _change(
    client: MlflowClient, params: RegisterParams, action: str, champion: str | None, target: str, why: str
) -> None:
    """Write it down, do it, write that it is done.

    The registry has no compare-and-swap: read the champion right before and after, and say when it is not ours.
    """
    name = params.model_name
    if _number(client, name, CHAMPION) != champion:
        raise UnigrecError(f"{name}: the champion was moved by somebody else meanwhile; nothing was changed, try again")
    facts = {
        "model": name,
        "store": masked(tracking_uri(params)),
        "from": champion,
        "to": target,
        "previous": _number(client, name, PREVIOUS),
        "why": why,
        "bundle": client.get_model_version(name, target).tags.get(BUNDLE_TAG),
    }
    change = audit.new_change(action, **facts)
    audit.append(paths.AUDIT, audit.INTENT, change)
    _carry_out(client, change)


def _settle(client: MlflowClient, change: audit.Change) -> None:
    """Finish a change that died halfway, or write down that it was not to be finished.

    It was decided when its intent was written, so it is finished unless the champion is another one by now, or its
    version is gone.
    """
    name, target = change["model"], change["to"]
    there = bool(client.search_model_versions(f"name = '{name}' and version_number = {target}"))
    champion = _number(client, name, CHAMPION)
    if there and champion in (change["from"], target):
        print(f"finishing what died halfway: {change['action']} of version {target}", flush=True)
        _carry_out(client, change)
        return
    if champion == change["from"]:
        _restore_previous(client, change)
    reason = f"the champion is version {champion}" if there else f"version {target} is gone"
    print(f"not finished, since {reason}: {change['action']} of version {target}", flush=True)
    audit.append(paths.AUDIT, audit.UNDONE, change | {"undone": reason})


def _restore_previous(client: MlflowClient, change: audit.Change) -> None:
    if change["previous"] is None:
        client.delete_registered_model_alias(change["model"], PREVIOUS)
    else:
        client.set_registered_model_alias(change["model"], PREVIOUS, change["previous"])


def _carry_out(client: MlflowClient, change: audit.Change) -> None:
    """Aliases, tags, and the line that says so. May be begun again from any point at which it died."""
    name, old, new = change["model"], change["from"], change["to"]
    if change["action"] == "promote":
        if old is not None:
            client.set_registered_model_alias(name, PREVIOUS, old)
        client.set_registered_model_alias(name, CHAMPION, new)
        verdict = change["why"]
    else:
        client.set_registered_model_alias(name, CHAMPION, new)
        client.delete_registered_model_alias(name, PREVIOUS)
        verdict = f"rolled back to from version {old} by {change['who']}: {change['why']}"
        taken = f"rolled back to version {new} by {change['who']}: {change['why']}"[:TAG_LENGTH]
        for tag in (ROLLED_BACK_TAG, VERDICT_TAG):
            client.set_model_version_tag(name, old, tag, taken)
    found = _number(client, name, CHAMPION)
    if found != new:
        raise UnigrecError(f"{name}: the champion is version {found}, not {new}: somebody else moved it too")
    if ROLLED_BACK_TAG in client.get_model_version(name, new).tags:
        client.delete_model_version_tag(name, new, ROLLED_BACK_TAG)
    tags = {f"{CHANGE_TAG}{key}": change[key] for key in ("action", "from", "who", "when", "why", "commit", "id")}
    for tag, value in (tags | {VERDICT_TAG: verdict}).items():
        client.set_model_version_tag(name, new, tag, str(value)[:TAG_LENGTH])
    audit.append(paths.AUDIT, audit.DONE, change)


def _number(client: MlflowClient, name: str, alias: str) -> str | None:
    found = version_of(client, name, alias)
    return None if found is None else str(found.version)
