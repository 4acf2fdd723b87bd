"""A bundle per test module, and a copy of it that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.tiny_model import bundle_in


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return bundle_in(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(pristine, tmp_path) -> Path:
    return shutil.copytree(pristine, tmp_path / pristine.name)
