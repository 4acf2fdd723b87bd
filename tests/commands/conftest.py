"""A registered model for the tests of commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.command_line import invoke
from support.project import PARAMS_FILE
from support.tiny_model import make_bundle
from unigrec.base.errors import EXIT_OK


@pytest.fixture(scope="session")
def registered(tmp_path_factory) -> Path:
    """A folder with a tiny champion in its own store."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("project")
    os.chdir(folder)
    try:
        (folder / "params.yaml").write_text(PARAMS_FILE.read_text())
        make_bundle()
        assert invoke("register")[0] == invoke("promote")[0] == EXIT_OK
        return folder
    finally:
        os.chdir(before)
