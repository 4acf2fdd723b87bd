"""The server's automations, what they post, and that nothing repeats the webhook's address."""

from __future__ import annotations

import ast
import json
from uuid import uuid4

import pytest
from flows.deploy import main
from flows.prefect_server.notifications import ENDS, PAYLOAD, PREFIX, arrange, automations
from flows.prefect_server.server import prefect_server
from flows.states import StateName
from prefect.client.orchestration import get_client
from prefect.events.schemas.events import ReceivedEvent
from prefect.exceptions import ObjectNotFound
from prefect.server.utilities.user_templates import render_user_template_sync, validate_user_template

from support.project import ROOT
from unigrec.base.errors import EXIT_BAD_INPUT
from unigrec.base.masking import HIDDEN, masked

FLOWS = ROOT / "flows"
ADDRESS = "https://hooks.host/pl4nted-s3cret"


def event(message: str | None) -> ReceivedEvent:
    resource = {
        "prefect.resource.id": "prefect.flow-run.1",
        "prefect.resource.name": "silver-owl",
        "prefect.state-name": "Failed",
        "prefect.state-message": message,
    }
    return ReceivedEvent(
        id=uuid4(),
        occurred="2026-01-02T03:04:05Z",
        received="2026-01-02T03:04:06Z",
        event="prefect.flow-run.Failed",
        resource={key: value for key, value in resource.items() if value is not None},
    )


@pytest.mark.parametrize("message", ['stage "joint" failed:\n<no> {{ 7 * 7 }} \\ & more', "", None])
def test_what_is_posted_is_json_whatever_the_message_holds(message):
    validate_user_template(PAYLOAD)
    posted = json.loads(render_user_template_sync(PAYLOAD, {"event": event(message)}))
    assert posted["message"] == (message or "")
    assert posted["text"] == "unigrec: silver-owl Failed" + (f": {message}" if message else "")
    assert (posted["event"], posted["run"], posted["state"]) == ("prefect.flow-run.Failed", "silver-owl", "Failed")
    assert posted["occurred"].startswith("2026-01-02")


def test_without_an_address_only_silence_is_watched():
    assert {found.actions[0].type for found in automations(None)} == {"change-flow-run-state"}
    block = uuid4()
    told = [found for found in automations(block) if found.actions[0].type == "call-webhook"]
    assert {found.actions[0].block_document_id for found in told} == {block}
    assert all(found.name.startswith(PREFIX) for found in automations(block))


@pytest.mark.slow
def test_a_second_registration_changes_the_address_and_one_without_it_removes_it():
    with prefect_server(), get_client(sync_client=True) as client:
        for address in (ADDRESS, ADDRESS + "2", ADDRESS + "2"):
            arrange(address)
            found = {automation.name: automation for automation in client.read_automations()}
            (block,) = {automation.actions[0].block_document_id for automation in found.values() if _tells(automation)}
            kept = client.read_block_document(block, include_secrets=True)
            assert kept.data["url"] == address
            assert ADDRESS not in str(client.read_block_document(block, include_secrets=False).data)
            assert set(found) == {automation.name for automation in automations(uuid4())}
            assert all(automation.enabled for automation in found.values())
        arrange(None)
        assert not [found for found in client.read_automations() if _tells(found)]
        with pytest.raises(ObjectNotFound):
            client.read_block_document(block)


def _tells(automation) -> bool:
    return automation.actions[0].type == "call-webhook"


def test_every_state_that_a_flow_ends_in_counts_as_an_end():
    """Flows name their states by StateName only, and all of these count as ends."""
    used = set()
    for path in sorted(FLOWS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and path.name != "states.py":
                assert node.value not in set(StateName), path
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Completed", "Failed"):
                names = [word.value for word in node.keywords if word.arg == "name"]
                parts = [part for name in names for part in ast.walk(name)]
                assert not [part for part in parts if isinstance(part, ast.Constant) and part.value], path
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "StateName":
                used.add(node.attr)
    assert used == set(StateName.__members__)
    assert {f"prefect.flow-run.{name}" for name in ("Refused", "Unchanged", "Skipped", "Promoted", "Kept")} <= set(ENDS)


def test_an_address_that_is_none_is_refused_and_not_repeated(monkeypatch, capsys):
    monkeypatch.setenv("UNIGREC_WEBHOOK_URL", "pl4nted-s3cret")
    monkeypatch.setattr("flows.deploy.register", lambda: None)
    assert main() == EXIT_BAD_INPUT
    said = capsys.readouterr()
    assert "UNIGREC_WEBHOOK_URL" in said.err
    assert "pl4nted" not in said.out + said.err


def test_the_address_is_masked_in_what_is_printed(monkeypatch):
    monkeypatch.setenv("UNIGREC_WEBHOOK_URL", ADDRESS)
    assert masked(f"could not reach {ADDRESS}") == f"could not reach {HIDDEN}"
