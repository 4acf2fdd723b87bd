"""The flow around a promotion: the name of its state, its artifact, its exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from flows.promote import promote_and_show

from flows import promote
from support.command_line import invoke
from support.project import PARAMS_FILE, ROOT
from support.tiny_model import make_bundle
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_OK
from unigrec.config.read import load_params
from unigrec.promotion.champion import Promotion
from unigrec.registry import versions

PARAMS = load_params(PARAMS_FILE)


@pytest.mark.parametrize(
    ("done", "name", "shown"),
    [
        (Promotion("2", "2", True, False, "better", "a page"), "Promoted", True),
        (Promotion("2", "1", False, False, "a tie", "a page"), "Kept", True),
        (Promotion("2", "1", False, True, "too slow", "a page"), "Refused", True),
        (Promotion("2", "2", False, False, "is the champion already"), "Kept", False),
    ],
)
def test_the_state_says_what_became_of_it_and_the_page_is_kept(monkeypatch, done, name, shown):
    pages: list[str] = []
    monkeypatch.setattr(promote.commands, "promote", lambda params, version: done)
    monkeypatch.setattr(promote, "create_markdown_artifact", lambda page, **_: pages.append(page))
    assert promote_and_show(PARAMS, "2") == (name, done)
    assert pages == (["a page"] if shown else [])


@pytest.mark.parametrize(("given", "asked"), [(12, "12"), ("12", "12"), (None, None)])
def test_the_version_is_asked_for_by_its_name(monkeypatch, tmp_path, given, asked):
    shutil.copy(PARAMS_FILE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        promote.commands, "promote", lambda params, version: Promotion("12", "12", False, False, f"{version!r}")
    )
    assert promote.promote.fn(given).message == repr(asked)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_flow_promotes_once_and_without_data_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(versions, "_check_loads", lambda *_: None)  # in a process of its own, which takes seconds
    # The whole path: MLflow keeps a connection per address.
    text = PARAMS_FILE.read_text(encoding="utf-8").replace("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'src'}"

    def promoted(*version: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.promote", *version],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.returncode, done.stdout + done.stderr

    make_bundle()
    assert invoke("register")[0] == EXIT_OK
    code, output = promoted()
    assert (code, "Promoted: version 1: is the first champion" in output) == (EXIT_OK, True), output
    code, output = promoted("1")
    assert (code, "Kept: version 1: is the champion already" in output) == (EXIT_OK, True), output
    make_bundle(seed=1)
    assert invoke("register")[0] == EXIT_OK
    shutil.rmtree(tmp_path / "artifacts/prepare")
    code, output = promoted()
    assert (code, "error: " in output, "dvc repro prepare" in output) == (EXIT_BAD_INPUT, True, True), output
