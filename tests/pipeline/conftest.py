"""One whole run of tiny networks, for the tests of several stages: it takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import shop
from support.hostile import HOSTILE
from support.tiny_pipeline import DATA_STAGES, MODEL_STAGES, inside, run, write_shop
from unigrec.pipeline import running


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A project in which every stage has run, without their pictures. Titles are hostile. Tests must not change it."""
    folder = tmp_path_factory.mktemp("project") / "shop"
    write_shop(folder)
    titled = shop.items() | {"title": [f"{HOSTILE[index % len(HOSTILE)]} {index}" for index in range(shop.ITEMS)]}
    shop.write(folder / "data", catalogue=titled)
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_show", lambda *_: None)
        run(*DATA_STAGES, *MODEL_STAGES)
    return folder
