"""Moving the champion: by whom, why, one at a time, back again, and whatever dies halfway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.project import ROOT
from support.promotions import MODEL, add_versions, agrees, aliases, race, says, store
from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.base.lock import exclusive
from unigrec.config.schema import RegisterParams
from unigrec.promotion import audit
from unigrec.promotion import champion as promotion
from unigrec.promotion.champion import promote, rollback
from unigrec.registry.tracking import mlflow_client
from unigrec.registry.versions import VERDICT_TAG


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory, empty_store) -> Path:
    """A store with versions 1 to 3."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        add_versions(store(folder), 3)
    return folder / "mlflow.db"


@pytest.fixture
def params(tmp_path, monkeypatch, three_versions) -> RegisterParams:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("UNIGREC_ACTOR", "tester")
    shutil.copy(three_versions, tmp_path / "mlflow.db")
    return store(tmp_path)


def tags(params: RegisterParams, version: str) -> dict[str, str]:
    with mlflow_client(params) as client:
        return client.get_model_version(MODEL, version).tags


def test_a_promotion_moves_the_champion_keeps_the_old_one_and_says_who_and_why(params):
    assert promote(params, says("promote"), "1").moved
    done = promote(params, says("promote"), "2")
    assert (done.version, done.champion, done.moved, done.page) == ("2", "2", True, "a page")
    assert aliases(params) == {"champion": "2", "previous": "1"}
    first, second = agrees(params)
    assert (first["from"], first["to"], second["from"], second["to"]) == (None, "1", "1", "2")
    assert {"id", "when", "commit", "store"} <= second.keys()
    assert (second["who"], second["why"], second["bundle"]) == ("tester", "promote: 2 beside 1", "bundle2")
    found = tags(params, "2")
    assert (found["champion.who"], found["champion.why"], found["champion.from"]) == ("tester", second["why"], "1")
    assert found["champion.id"] == second["id"]
    assert found[VERDICT_TAG] == second["why"]


def test_the_audit_holds_no_password_of_the_store(params, monkeypatch):
    monkeypatch.setattr(promotion, "tracking_uri", lambda params: "postgresql://me:planted-word@127.0.0.1/mlflow")
    promote(params, says("promote"), "1")
    assert paths.AUDIT.is_file()
    assert "planted-word" not in paths.AUDIT.read_text()


@pytest.mark.parametrize(("outcome", "refused"), [("keep", False), ("refuse", True)])
def test_what_the_judge_does_not_promote_changes_nothing_but_its_verdict(params, outcome, refused):
    promote(params, says("promote"), "1")
    done = promote(params, says(outcome), "2")
    assert (done.champion, done.moved, done.refused) == ("1", False, refused)
    assert aliases(params) == {"champion": "1"}
    assert len(agrees(params)) == 1
    assert tags(params, "2")[VERDICT_TAG].startswith(outcome)


def test_asking_twice_changes_nothing(params):
    promote(params, says("promote"), "1")
    before = paths.AUDIT.read_text()
    done = promote(params, says("promote"), "1")
    assert (done.champion, done.moved, done.reason) == ("1", False, "is the champion already")
    assert paths.AUDIT.read_text() == before


def test_a_judge_who_cannot_decide_leaves_no_trace(params):
    def cannot(*_: object) -> None:
        raise UnigrecError("no data")

    with pytest.raises(UnigrecError, match="no data"):
        promote(params, cannot, "1")
    assert not paths.AUDIT.exists()
    assert VERDICT_TAG not in tags(params, "1")


@pytest.mark.parametrize(("version", "message"), [(None, "no challenger"), ("9", "no version or alias '9'")])
def test_versions_that_are_not_there(params, version, message):
    with pytest.raises(UnigrecError, match=message):
        promote(params, says("promote"), version)


def test_a_champion_that_somebody_else_moves_while_it_is_judged_stays_theirs(params):
    promote(params, says("promote"), "1")

    def meanwhile(challenger: str, champion: str | None):
        with mlflow_client(params) as client:
            client.set_registered_model_alias(MODEL, "champion", "3")
        return says("promote")(challenger, champion)

    with pytest.raises(UnigrecError, match=r"moved by somebody else.*nothing was changed"):
        promote(params, meanwhile, "2")
    assert aliases(params) == {"champion": "3"}
    assert len(audit.read(paths.AUDIT)) == 2  # of the first promotion alone


# --- back again -----------------------------------------------------------------------------------------------------


def promoted(params: RegisterParams, *versions: str) -> None:
    for version in versions:
        assert promote(params, says("promote"), version).moved


def test_rollback_goes_back_once_and_says_so_the_second_time(params):
    promoted(params, "1", "2")
    done = rollback(params, None, "sales fell")
    assert (done.champion, done.moved) == ("1", True)
    assert aliases(params) == {"champion": "1"}
    before = paths.AUDIT.read_text()
    again = rollback(params, None, "sales fell")
    assert (again.champion, again.moved) == ("1", False)
    assert "rolled back to from version 2 by tester: sales fell" in again.reason
    assert (aliases(params), paths.AUDIT.read_text()) == ({"champion": "1"}, before)
    last = agrees(params)[-1]
    assert (last["action"], last["from"], last["to"], last["why"]) == ("rollback", "2", "1", "sales fell")


def test_what_was_rolled_back_is_promoted_again_by_name_only(params):
    promoted(params, "1", "2")
    with mlflow_client(params) as client:
        client.set_registered_model_alias(MODEL, "challenger", "2")
    rollback(params, None, "sales fell")
    assert "rolled back to version 1 by tester: sales fell" in tags(params, "2")[VERDICT_TAG]
    done = promote(params, says("promote"))
    assert (done.moved, done.refused, "unigrec promote --version 2" in done.reason) == (False, False, True)
    assert not promote(params, says("promote"), "2", unless_rolled_back=True).moved
    assert promote(params, says("promote"), "2").moved
    assert "rolled_back" not in tags(params, "2")
    rollback(params, None, "again")
    promoted(params, "3")
    assert rollback(params, "2", "it was right after all").champion == "2"  # it was champion before
    assert promote(params, says("promote")).reason == "is the champion already"
    agrees(params)


def test_rollback_to_a_version_goes_only_where_a_champion_was(params):
    promoted(params, "1", "2")
    with pytest.raises(UnigrecError, match=r"version 3 never was champion; `unigrec promote --version 3`"):
        rollback(params, "3", "why")
    promoted(params, "3")
    assert rollback(params, "1", "why").moved
    assert rollback(params, "1", "why").moved is False
    assert aliases(params) == {"champion": "1"}


def test_a_user_whose_name_is_not_utf_8_moves_the_champion_and_back(params, monkeypatch):
    monkeypatch.setenv("UNIGREC_ACTOR", os.fsdecode(b"Jos\xe9"))
    promoted(params, "1", "2")
    assert rollback(params, None, os.fsdecode(b"sales \xe9")).champion == "1"
    assert tags(params, "2")[VERDICT_TAG] == "rolled back to version 1 by Jos?: sales ?"


def test_nothing_to_go_back_to(params):
    with pytest.raises(UnigrecError, match="no champion to roll back"):
        rollback(params, None, "why")
    promoted(params, "1")
    with pytest.raises(UnigrecError, match="unigrec rollback --to VERSION"):
        rollback(params, None, "why")


# --- what dies halfway ----------------------------------------------------------------------------------------------


class Died(BaseException):
    """As a killed process: nothing catches it."""


@contextmanager
def dying_at(step: int):
    """Die right before the n-th thing that a promotion writes, be it to the registry or to the audit file."""
    left = [step]

    def fuse() -> None:
        if left[0] == 0:
            raise Died
        left[0] -= 1

    class Client:
        def __init__(self, client: object):
            self.client = client

        def __getattr__(self, name: str):
            if name.startswith(("set_", "delete_")):
                fuse()
            return getattr(self.client, name)

    @contextmanager
    def fused_client(params: RegisterParams):
        with mlflow_client(params) as client:
            yield Client(client)

    def fused_append(path: Path, event: str, change: audit.Change) -> None:
        fuse()
        append(path, event, change)

    append = audit.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "mlflow_client", fused_client)
        patch.setattr(audit, "append", fused_append)
        try:
            yield
            died[0] = False
        except Died:
            died[0] = True


died = [False]


# After the intent, after the first alias, after the second; and everywhere, until nothing dies any more.
SOME_STEPS = pytest.param((1, 2, 3), id="some steps")
EVERY_STEP = pytest.param(range(30), marks=[pytest.mark.slow, pytest.mark.timeout(1200)], id="every step")


@pytest.mark.parametrize("steps", [SOME_STEPS, EVERY_STEP])
@pytest.mark.parametrize("again", ["the same", "a rollback", "another"])
def test_a_promotion_that_dies_anywhere_is_finished_by_the_next_command(params, tmp_path, again, steps):
    promoted(params, "1", "2")
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "before.db")
    trail = paths.AUDIT.read_bytes()
    for step in steps:
        shutil.copy(tmp_path / "before.db", tmp_path / "mlflow.db")
        paths.AUDIT.write_bytes(trail)
        with dying_at(step):
            promote(params, says("promote"), "3")
        if again == "the same":
            promote(params, says("promote"), "3")
            assert aliases(params) == {"champion": "3", "previous": "2"}, step
            assert tags(params, "3")["champion.action"] == "promote"
        elif again == "a rollback" and step in (1, 2):  # the intent is written, and version 2 is champion still
            with pytest.raises(UnigrecError, match="made version 3 champion in place of version 2"):
                rollback(params, None, "why")
            assert aliases(params) == {"champion": "3", "previous": "2"}, step
        elif again == "a rollback":
            rollback(params, None, "why")
            assert aliases(params) == ({"champion": "2"} if step else {"champion": "1"}), step
        else:
            promote(params, says("promote"), "1")
            assert aliases(params) == {"champion": "1", "previous": "3" if step else "2"}, step
        agrees(params)
        if not died[0]:
            break
    assert len(steps) == 3 or 8 < step < 29, "every alias, tag and line is a step, and there is an end"


@pytest.mark.parametrize("steps", [SOME_STEPS, EVERY_STEP])
def test_a_rollback_that_dies_anywhere_is_finished_by_running_it_again(params, tmp_path, steps):
    promoted(params, "1", "2")
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "before.db")
    trail = paths.AUDIT.read_bytes()
    for step in steps:
        shutil.copy(tmp_path / "before.db", tmp_path / "mlflow.db")
        paths.AUDIT.write_bytes(trail)
        with dying_at(step):
            rollback(params, None, "why")
        rollback(params, None, "why")
        assert aliases(params) == {"champion": "1"}, step
        assert "rolled back" in tags(params, "2")[VERDICT_TAG]
        assert [line["action"] for line in agrees(params)] == ["promote", "promote", "rollback"]
        if not died[0]:
            break
    assert len(steps) == 3 or 8 < step < 29


def test_what_died_is_finished_even_when_its_end_dies_as_well(params):
    promoted(params, "1")
    for step in (2, 4, 6):
        with dying_at(step):
            promote(params, says("promote"), "2")
        assert died[0]
    promote(params, says("promote"), "2")
    assert aliases(params) == {"champion": "2", "previous": "1"}
    assert [line["to"] for line in agrees(params)] == ["1", "2"]


def test_what_died_and_was_overtaken_by_somebody_else_is_undone_on_paper(params, capsys):
    promoted(params, "1")
    with dying_at(1):
        promote(params, says("promote"), "2")
    with mlflow_client(params) as client:
        client.set_registered_model_alias(MODEL, "champion", "3")
    assert promote(params, says("keep"), "2").champion == "3"
    assert aliases(params) == {"champion": "3"}
    last = audit.read(paths.AUDIT)[-1]
    assert (last["event"], last["undone"]) == ("undone", "the champion is version 3")
    assert not audit.unfinished(paths.AUDIT, MODEL, params.tracking_uri)
    assert "not finished" in capsys.readouterr().out


def test_what_died_and_whose_version_is_gone_is_taken_back(params):
    promoted(params, "1", "2")
    with dying_at(2):  # `previous` has moved, `champion` has not
        promote(params, says("promote"), "3")
    assert aliases(params) == {"champion": "2", "previous": "2"}
    with mlflow_client(params) as client:
        client.delete_model_version(MODEL, "3")
    rollback(params, None, "why")
    assert aliases(params) == {"champion": "1"}
    agrees(params)


def test_a_line_that_a_killed_writer_left_unfinished_was_never_written(params):
    promoted(params, "1")
    with paths.AUDIT.open("a") as file:
        file.write('{"event": "intent", "id": "torn", "model": "ti')
    promoted(params, "2")
    assert [line["to"] for line in agrees(params)] == ["1", "2"]
    assert len(paths.AUDIT.read_text().splitlines()) == 5


def test_an_audit_of_another_store_is_none_of_ours(params):
    promoted(params, "1")
    change = audit.read(paths.AUDIT)[0] | {"id": "x", "store": "sqlite:///other.db", "to": "3"}
    audit.append(paths.AUDIT, audit.INTENT, change)
    promoted(params, "2")
    assert aliases(params) == {"champion": "2", "previous": "1"}


def test_without_a_record_nothing_is_moved(params):
    paths.AUDIT.mkdir(parents=True)
    with pytest.raises(UnigrecError, match="not moved without a record"):
        promote(params, says("promote"), "1")
    assert aliases(params) == {}


# --- one at a time --------------------------------------------------------------------------------------------------


def test_a_promotion_waits_for_another_one_and_says_for_whom(params, capsys):
    with exclusive(paths.PROMOTION_LOCK), pytest.raises(UnigrecError, match=f"process {os.getpid()}"):
        promote(params, says("promote"), "1")
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(paths.PROMOTION_LOCK):
            held.set()
            released.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    threading.Timer(0.1, released.set).start()
    assert promote(params, says("promote"), "1", wait_seconds=30.0).moved
    other.join()
    assert f"waiting for process {os.getpid()}, up to 30 s" in capsys.readouterr().out


def test_a_rollback_that_waited_for_a_promotion_does_not_bring_back_what_it_was_to_replace(params):
    promoted(params, "1", "2")
    judging, called = threading.Event(), threading.Event()

    def judge(challenger: str, champion: str | None) -> promotion.Verdict:
        judging.set()
        called.wait(30)
        time.sleep(0.2)  # the rollback has read the champion, and waits
        return says("promote")(challenger, champion)

    other = threading.Thread(target=promote, args=(params, judge, "3"))
    other.start()
    judging.wait(30)
    called.set()
    with pytest.raises(UnigrecError, match="made version 3 champion in place of version 2"):
        rollback(params, None, "version 2 sells badly", wait_seconds=30.0)
    other.join()
    assert aliases(params) == {"champion": "3", "previous": "2"}
    assert rollback(params, "1", "version 2 sells badly").champion == "1"


@pytest.mark.parametrize(
    "races",
    [
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_two_promotions_at_once_leave_one_champion_and_an_audit_that_agrees(params, tmp_path, races):
    """A process and a thread of this one promote versions 2 and 3 at the same moment; then version 1 is restored."""
    promoted(params, "1")
    racer = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/support/promotions.py"), str(tmp_path), "2", str(races)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    other = threading.Thread(target=race, args=(str(tmp_path), "3", races), daemon=True)
    try:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
        other.start()
        won = {"2": 0, "3": 0}
        for number in range(races):
            Path(f"go.{number}").touch()
            told = [wait_for(Path(f"{version}.{number}"), racer).split() for version in ("2", "3")]
            assert told == [["True", "2"], ["True", "3"]]
            first, second = [line["to"] for line in agrees(params)[-2:]]
            assert {first, second} == {"2", "3"}
            assert aliases(params) == {"champion": second, "previous": first}
            won[second] += 1
            rollback(params, "1", "the next race")
    finally:
        racer.kill()
        racer.communicate()
    other.join(30)
    assert len(agrees(params)) == 1 + 3 * races
    assert all(json.loads(line) for line in paths.AUDIT.read_text().splitlines())
    print(f"{races} races; who was promoted last, how often: {won}")


def wait_for(path: Path, racer: subprocess.Popen) -> str:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, "waited too long"
        # After the last race, the one that is done may end before the other.
        assert racer.poll() in (None, 0) or path.exists(), "a racer fell"
        time.sleep(0.002)
    return path.read_text()
