"""A registered model for the tests of commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.command_line import invoke
from support.project import PARAMS_FILE
from support.tiny_model import make_bundle
from unigrec.base.errors import EXIT_OK
from unigrec.promotion import judge
from unigrec.registry import versions


@pytest.fixture(scope="session")
def registered(tmp_path_factory, empty_store) -> Path:
    """A folder with a tiny champion in its own store.

    It is loaded in no process of its own, which takes seconds: tests/registry and tests/promotion have tests of that.
    """
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(versions, "_check_loads", lambda *_: None)
        patch.setattr(judge, "probe", lambda *_, limit: [1.0])
        (folder / "params.yaml").write_text(PARAMS_FILE.read_text())
        shutil.copy(empty_store, folder)
        make_bundle()
        assert invoke("register")[0] == invoke("promote")[0] == EXIT_OK
    return folder
