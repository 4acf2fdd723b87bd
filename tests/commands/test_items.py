"""A model with other items through the registry: added, registered, judged, promoted, asked, and rolled back."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.command_line import invoke
from support.project import PARAMS_FILE
from support.search_bundle import NAMES, bundle_of
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_REFUSED
from unigrec.base.paths import Artifacts
from unigrec.pipeline.outputs import load_sequences
from unigrec.promotion import audit, judge
from unigrec.registry import versions
from unigrec.serving import probe

NEW = "item_id,title\nN1,laser printer orange\nN2,garden hose orange\n"
pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path, monkeypatch, empty_store) -> Path:
    """A folder with a registered champion.

    Versions and bundles are loaded in no process of their own, which takes seconds: tests/registry and tests/promotion
    have tests of that.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked = lambda folder, requests, k, limit: probe.measure(folder, requests, k)["latency_ms"]  # noqa: E731
    monkeypatch.setattr(judge, "probe", asked)
    monkeypatch.setattr(versions, "_check_loads", lambda *_: None)
    # MLflow keeps a connection per address, so each test has an address of its own.
    settings = PARAMS_FILE.read_text().replace("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "params.yaml").write_text(settings)
    shutil.copy(empty_store, tmp_path)
    (tmp_path / "new.csv").write_text(NEW)
    bundle = bundle_of(tmp_path)
    assert run("register", "--bundle", str(bundle.folder)) == (EXIT_OK, "unigrec version 1: registered")
    assert run("promote")[0] == EXIT_OK
    return tmp_path


def run(*words: str) -> tuple[int, str]:
    """Exit code, and the last line of what was printed, with single blanks."""
    code, output = invoke(*words)
    return code, " ".join(output.strip().splitlines()[-1].split())


def found(*words: str) -> list[str]:
    """Item ids that are recommended."""
    return [item["item_id"] for item in answer("recommend", "--history", "P3,P4", *words)["items"]]


def answer(*words: str) -> dict[str, Any]:
    """What is printed as JSON, after any notes."""
    code, output = invoke(*words, "--json")
    assert code == EXIT_OK, output
    return json.loads(output[output.index("{") :])


def test_new_items_are_served_after_a_promotion_and_gone_after_a_rollback(project):
    before = found("-k", "5")
    new_ones = ("-k", "5", "--new-share", "at least 3 younger than 0.5 days")  # of the trained ones, one is so young
    assert run("add-items", "new.csv") == (EXIT_OK, "unigrec version 2: registered")
    assert not {"N1", "N2"} & set(found(*new_ones))  # not before the promotion
    code, said = run("promote")
    assert (code, "version 2 is champion" in said, "with another catalogue" in said) == (EXIT_OK, True, True), said
    assert "equal for each of 40 users" in said
    assert found("-k", "5") == before
    assert {"N1", "N2"} <= set(found(*new_ones))
    assert {item["item_id"] for item in answer("search", "orange", "-k", "2")["items"]} == {"N1", "N2"}
    code, said = run("add-items", "new.csv")
    assert (code, "in the catalogue already" in said or "never move" in said) == (EXIT_BAD_INPUT, True), said
    assert run("rollback")[0] == EXIT_OK
    assert not {"N1", "N2"} & set(found(*new_ones))
    changes = [line for line in audit.read(paths.AUDIT) if line["event"] == audit.DONE]
    assert [(line["action"], line["to"]) for line in changes] == [("promote", "1"), ("promote", "2"), ("rollback", "1")]
    manifests = [files.read_json(path) for path in sorted(Path("state/bundles").glob("*/manifest.json"))]
    parents = {manifest["id"]: manifest.get("parent") for manifest in manifests}
    assert [parents[line["bundle"]] for line in changes] == [None, changes[0]["bundle"], None]


def test_a_child_without_the_items_that_users_take_is_refused(project):
    """Each test user's item is the model's first recommendation: withdrawing the two most wanted loses much."""
    sequences = load_sequences(Artifacts())
    wanted = Counter(sequences.items[sequences.offsets[1:] - 1].tolist())
    assert run("remove-items", *(NAMES[item] for item, _ in wanted.most_common(2))) == (
        EXIT_OK,
        "unigrec version 2: registered",
    )
    code, said = run("promote")
    assert code == EXIT_REFUSED, said
    assert set(found("-k", "12")) == set(NAMES)
