"""Automations of Prefect's server: some call a webhook, two notice dead runs.

The server does this, not the flow: a killed flow can report nothing, and a webhook that does not answer must fail no
run. The webhook's address comes from the environment when the deployments are registered (`python -m flows.deploy`).
From then on the server's database holds it encrypted; Prefect's pages, answers and logs show stars.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from httpx import HTTPStatusError
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

from flows.prefect_server.runs import HEARTBEAT
from flows.states import StateName
from unigrec.base.errors import UnigrecError
from unigrec.base.masking import WEBHOOK_VARIABLE

BLOCK = "unigrec"
PREFIX = "unigrec: "  # of our automations' names: an automation with this prefix that is no longer ours is removed
SILENT_SECONDS = 120  # four heartbeats
# Events carry the name of a run's state. After these, a run that falls silent is not dead: it has ended.
PREFECTS_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
ENDS = [f"prefect.flow-run.{name}" for name in (*PREFECTS_ENDS, *StateName)]
# A run that a deployment started. A flow within it would cause the same notification again.
DEPLOYED = ResourceSpecification({"prefect.resource.role": "deployment", "prefect.resource.id": "prefect.deployment.*"})
PROMOTE_FLOW = ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": "promote"})
# `text` is what chat programs show; the rest is for programs.
PAYLOAD = """{%- set run = event.resource["prefect.resource.name"] -%}
{%- set state = event.resource["prefect.state-name"] -%}
{%- set message = event.resource["prefect.state-message"] or "" -%}
{
  "text": {{ ("unigrec: " ~ run ~ " " ~ state ~ (": " if message else "") ~ message) | tojson }},
  "event": {{ event.event | tojson }},
  "run": {{ run | tojson }},
  "id": {{ event.resource["prefect.resource.id"] | tojson }},
  "state": {{ state | tojson }},
  "message": {{ message | tojson }},
  "occurred": {{ event.occurred | string | tojson }}
}
"""


def arrange(address: str | None) -> None:
    """Make the server's automations the ones of this module; those of the webhook only if there is an address.

    Raises:
        UnigrecError: the server refuses them. Its answer repeats the address, so the error does not quote it.
    """
    try:
        _arrange(address)
    except HTTPStatusError as error:
        status = error.response.status_code
        raise UnigrecError(f"Prefect's server refuses the notifications with status {status}; see its log") from None


def _arrange(address: str | None) -> None:
    with get_client(sync_client=True) as client:
        block = _keep_address(address) if address else None
        wanted = {automation.name: automation for automation in automations(block)}
        known = {found.name: found.id for found in client.read_automations() if found.name.startswith(PREFIX)}
        for name in known.keys() - wanted.keys():
            client.delete_automation(known[name])
        for name, automation in wanted.items():
            if name in known:
                # Validated again, so that defaults count as set: an update sends only what was set, and the server
                # needs the `type` of each part.
                client.update_automation(
                    known[name], AutomationCore.model_validate(automation.model_dump(exclude={"owner_resource"}))
                )
            else:
                client.create_automation(automation)
        if block is None:
            _forget_address(client)


def automations(block: UUID | None) -> Iterator[AutomationCore]:
    """What the server does by itself. `block`: id of the webhook's block; None: no notifications."""
    yield _crash("a run that falls silent has crashed", HEARTBEAT, ResourceSpecification({}))
    # Before the first heartbeat: only runs of deployments, because prefect.yaml lets these send heartbeats.
    yield _crash("a run that never sends a heartbeat has crashed", "prefect.flow-run.Running", DEPLOYED)
    if block is None:
        return
    for name, trigger in _occasions().items():
        yield AutomationCore(
            name=PREFIX + name, trigger=trigger, actions=[CallWebhook(block_document_id=block, payload=PAYLOAD)]
        )


def _crash(name: str, after: str, related: ResourceSpecification) -> AutomationCore:
    """Mark a run as crashed if neither a heartbeat nor an end follows an event of it."""
    return AutomationCore(
        name=PREFIX + name,
        trigger=EventTrigger(
            after={after},
            expect={HEARTBEAT, *ENDS},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=related,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message=f"no heartbeat for {SILENT_SECONDS} s: its process is gone",
                force=False,
            )
        ],
    )


def _occasions() -> dict[str, EventTrigger]:
    """Events that cause a notification, by the name of the automation."""
    bad_ends = [state.value for state in (StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)]
    decisions = (StateName.REFUSED, StateName.PROMOTED)
    return {
        "report a run that failed, crashed or was cancelled": EventTrigger(
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": bad_ends}),
            match_related=DEPLOYED,
        ),
        "report a refusal or promotion within a retraining": EventTrigger(
            expect={f"prefect.task-run.{name}" for name in decisions}
        ),
        "report a refusal or promotion by hand": EventTrigger(
            expect={f"prefect.flow-run.{name}" for name in decisions}, match_related=PROMOTE_FLOW
        ),
    }


def check_address(address: str | None) -> None:
    """Raise UnigrecError, without the address, if there is one and it is neither http nor https."""
    if address and not address.startswith(("http://", "https://")):
        raise UnigrecError(f"{WEBHOOK_VARIABLE}: set it to an address that begins with http:// or https://")


def _keep_address(address: str) -> UUID:
    """Store the address in a block. Returns the block's id."""
    webhook = Webhook(url=SecretStr(address), headers=SecretDict({"Content-Type": "application/json"}))
    block = webhook.save(BLOCK, overwrite=True)
    assert isinstance(block, UUID)
    return block


def _forget_address(client: SyncPrefectClient) -> None:
    """Delete the block, if there is one."""
    try:
        block = client.read_block_document_by_name(BLOCK, Webhook.get_block_type_slug(), include_secrets=False)
    except ObjectNotFound:
        return
    client.delete_block_document(block.id)
