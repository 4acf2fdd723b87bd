"""Lets git and DVC work in a clone that belongs to another user, and leaves no trace there."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.dirs import global_config_dir
from dvc.env import DVC_GLOBAL_CONFIG_DIR

from unigrec.base.git import trust_clone

CORE, WITHOUT_GIT = "[core]", "[core]\n    no_scm = true\n"


@contextmanager
def foreign_clone() -> Iterator[None]:
    """Within the block, git trusts the clone in the working directory, and DVC does without git, here and in children.

    The library by which DVC reads a repository refuses one of another user, and knows no exception in the environment.
    A pipeline needs nothing of git, so DVC gets its user's settings with `no_scm`. In a clone of our own, or without
    one, nothing changes.
    """
    if not trust_clone():
        yield
        return
    given, users = os.environ.get(DVC_GLOBAL_CONFIG_DIR), Path(global_config_dir(), "config")
    text = users.read_text(encoding="utf-8") if users.is_file() else ""
    text, found = re.subn(rf"(?m)^\s*{re.escape(CORE)}\s*$", WITHOUT_GIT.rstrip(), text, count=1)
    with tempfile.TemporaryDirectory(prefix="unigrec-dvc-") as folder:
        Path(folder, "config").write_text(text if found else WITHOUT_GIT + text, encoding="utf-8")
        os.environ[DVC_GLOBAL_CONFIG_DIR] = folder
        try:
            yield
        finally:
            del os.environ[DVC_GLOBAL_CONFIG_DIR]
            if given is not None:
                os.environ[DVC_GLOBAL_CONFIG_DIR] = given
