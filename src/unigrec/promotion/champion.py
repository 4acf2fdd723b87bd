"""Moves the champion: one change at a time, audited before and after, and completed if its process died."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.base.lock import exclusive
from unigrec.base.masking import masked
from unigrec.core.decisions.comparison import CHALLENGER, CHAMPION
from unigrec.core.decisions.gates import Outcome
from unigrec.promotion import audit
from unigrec.registry.tracking import BUNDLE_TAG, mlflow_client, tracking_uri
from unigrec.registry.versions import PREVIOUS, VERDICT_TAG, named_version, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

    from unigrec.config.schema import RegisterParams

ROLLED_BACK_TAG = "rolled_back"  # of a version that was rolled back: it is promoted again only by name
CHANGE_TAG = "champion."  # + action, from, who, when, why, commit, id: the last change that made the version champion
TAG_LENGTH = 4000  # characters; the store takes 5000


class Verdict(NamedTuple):
    """The decision on a challenger: outcome `promote`, `keep` or `refuse`, the reason in a line, a page of Markdown."""

    outcome: Outcome
    reason: str
    page: str


class Promotion(NamedTuple):
    """The result of a promotion or rollback.

    moved: the version is champion now and was not before. refused: a gate refused it, and not only because it is no
    better than the champion. page: the comparison as Markdown, if there was one.
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
    unless_rolled_back: bool = False,
    wait_seconds: float = 0.0,
) -> Promotion:
    """Point `champion` at a version (default: the challenger) if the judge decides so; the old one becomes `previous`.

    A second call changes nothing. First of all, a change whose process died is completed or undone.

    Args:
        judge: takes the version numbers of challenger and champion; the champion is None for the first model.
        unless_rolled_back: leave a version as it is that was rolled back, as the challenger always is.
        wait_seconds: how long to wait for another promotion to end.

    Raises:
        UnigrecError: no such version, the gates of its run refused it, the champion was moved meanwhile, the judge
            could not decide, another promotion is running, or MLflow does not answer.
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
            return Promotion(candidate, champion, False, refused=False, reason="is the champion already")
        if (version is None or unless_rolled_back) and ROLLED_BACK_TAG in found.tags:
            reason = (
                f"was {found.tags[ROLLED_BACK_TAG]}; to judge it again, name it: unigrec promote --version {candidate}"
            )
            return Promotion(candidate, champion, False, refused=False, reason=reason)
        verdict = judge(candidate, champion)
        if verdict.outcome != Outcome.PROMOTE:
            client.set_model_version_tag(name, candidate, VERDICT_TAG, value=verdict.reason[:TAG_LENGTH])
            return Promotion(
                candidate,
                champion,
                False,
                refused=verdict.outcome == Outcome.REFUSE,
                reason=verdict.reason,
                page=verdict.page,
            )
        _change(client, params, "promote", champion=champion, target=candidate, why=verdict.reason)
    return Promotion(candidate, candidate, True, refused=False, reason=verdict.reason, page=verdict.page)


def rollback(params: RegisterParams, version: str | None, why: str, wait_seconds: float = 0.0) -> Promotion:
    """Point `champion` at `previous`, or at a version that was champion before; the alias `previous` is removed.

    The version that is rolled back is marked, so that no schedule promotes it again. A second call changes nothing.

    Raises:
        UnigrecError: there is no champion or no `previous`, or the version never was champion; another version became
            champion since this was called (a promotion that it waited for, or that had died and was completed), and
            none is named to go to; and as `promote`.
    """
    name = params.model_name
    with mlflow_client(params) as client:
        meant = _number(client, name, CHAMPION)
    with _alone(params, wait_seconds) as client:
        champion = _number(client, name, CHAMPION)
        if champion is None:
            raise UnigrecError(f"{name} has no champion to roll back")
        current, previous = client.get_model_version(name, champion), _number(client, name, PREVIOUS)
        target = version and str(named_version(client, name, version).version)
        if target is None and previous is None:
            if current.tags.get(f"{CHANGE_TAG}action") != "rollback":
                raise UnigrecError(f"{name}: no version is `previous`; name one: unigrec rollback --to VERSION")
            return Promotion(
                champion, champion, False, refused=False, reason=f"is the champion already: {current.tags[VERDICT_TAG]}"
            )
        if target is None and champion != meant:
            # `previous` may be the very version that the caller wanted to be rid of.
            raise UnigrecError(
                f"{name}: a promotion that was under way, or had died and was completed now, made version {champion} "
                f"champion in place of version {meant}; nothing was rolled back. Look at it, then call again, or name "
                "the version to go to: unigrec rollback --to VERSION"
            )
        target = target or str(previous)
        if target == champion:
            return Promotion(champion, champion, False, refused=False, reason="is the champion already")
        if target != previous and f"{CHANGE_TAG}action" not in client.get_model_version(name, target).tags:
            raise UnigrecError(
                f"{name} version {target} never was champion; `unigrec promote --version {target}` judges it"
            )
        _change(client, params, "rollback", champion=champion, target=target, why=why)
    return Promotion(target, target, True, refused=False, reason=f"rolled back from version {champion}: {why}")


@contextmanager
def _alone(params: RegisterParams, wait_seconds: float) -> Iterator[MlflowClient]:
    """A client, while no other process on this machine promotes; a change whose process died is settled first."""
    with exclusive(paths.PROMOTION_LOCK, wait_seconds), mlflow_client(params) as client:
        for change in audit.unfinished(paths.AUDIT, params.model_name, masked(tracking_uri(params))):
            _settle(client, change)
        yield client


def _change(
    client: MlflowClient, params: RegisterParams, action: str, champion: str | None, target: str, why: str
) -> None:
    """Append the intent to the audit, then carry the change out.

    The registry has no compare-and-swap, so the champion is read right before and after, and another one is an error.
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
    """Complete a change whose process died, or append to the audit that it is undone.

    The decision was made when the intent was written, so complete it, unless the champion has changed since or the
    version is gone.
    """
    name, target = change["model"], change["to"]
    there = bool(client.search_model_versions(f"name = '{name}' and version_number = {target}"))
    champion = _number(client, name, CHAMPION)
    if there and champion in (change["from"], target):
        print(f"completing an interrupted change: {change['action']} of version {target}", flush=True)
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
    """Set aliases and tags, then append `done`. If the process dies at any point, a second call completes it."""
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
            client.set_model_version_tag(name, old, tag, value=taken)
    found = _number(client, name, CHAMPION)
    if found != new:
        raise UnigrecError(f"{name}: the champion is version {found}, not {new}: somebody else moved it too")
    if ROLLED_BACK_TAG in client.get_model_version(name, new).tags:
        client.delete_model_version_tag(name, new, ROLLED_BACK_TAG)
    tags = {f"{CHANGE_TAG}{key}": change[key] for key in ("action", "from", "who", "when", "why", "commit", "id")}
    for tag, value in (tags | {VERDICT_TAG: verdict}).items():
        client.set_model_version_tag(name, new, tag, value=str(value)[:TAG_LENGTH])
    audit.append(paths.AUDIT, audit.DONE, change)


def _number(client: MlflowClient, name: str, alias: str) -> str | None:
    found = version_of(client, name, alias)
    return None if found is None else str(found.version)
