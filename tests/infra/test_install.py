"""infra/install.py: where torch comes from, who installs, what is refused. Scripts stand for Python and uv."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.project import ROOT

VERSION = ".".join(map(str, sys.version_info[:3]))
CUDA = ["filelock", 'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"']
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the builds of torch differ on Linux alone")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A project with an environment whose Python is a script, and locks of two packages."""
    (tmp_path / "requirements.lock").write_text("# first torch\ntorch==2.13.0\nsix==1.17.0\n")
    script(
        tmp_path / ".venv/bin/python",
        '[ "$1" = -c ] && { cat look; exit; }; [ "$3" = config ] && { cat config; exit; }; echo "$@" >> calls\n'
        'case "$*" in *torch==*) [ ! -e after ] || mv after look; [ ! -e no-torch ];; esac',
    )
    (tmp_path / "config").touch()
    looks(tmp_path)
    return tmp_path


def script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def looks(folder: Path, name: str = "look", torch: str | None = None, needs=(), python: str = VERSION) -> None:
    found = {"python": python, "base": "/usr/bin/python", "packages": 3, "torch": torch, "needs": list(needs)}
    (folder / name).write_text(json.dumps(found))


def install(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "infra/install.py"), "--environment", ".venv", *options, "requirements.lock"]
    path = f"{folder}/bin:/usr/bin:/bin"
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path})


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


REST = ["-m pip install --quiet --requirement requirements.lock"]
REST += ["-m pip install --quiet --no-deps --no-build-isolation --editable ."]


def test_torch_comes_first_and_the_stamp_names_the_interpreter(folder):
    looks(folder, "after", torch="2.13.0", needs=CUDA)
    done = install(folder, "--stamp", "stamp")
    assert done.returncode == 0, done.stderr
    assert calls(folder) == ["-m pip install --quiet torch==2.13.0", *REST]
    assert (folder / "stamp").read_text() == f"Python {VERSION} (/usr/bin/python), torch 2.13.0, 3 packages\n"


@pytest.mark.parametrize("given", [[], ["--torch-index", "https://example.org/cpu"], ["--torch-index", "wheels"]])
def test_the_build_without_cuda_comes_from_its_own_index(folder, given):
    (folder / "wheels").mkdir()
    looks(folder, "after", torch="2.13.0+cpu")
    assert install(folder, "--torch", "cpu", *given).returncode == 0
    index = given[1] if given else "https://download.pytorch.org/whl/cpu"
    place = "--no-index --find-links" if index == "wheels" else "--index-url"
    assert calls(folder) == [f"-m pip install --quiet --no-deps {place} {index} torch==2.13.0", *REST]


def test_a_build_without_cuda_stays_whatever_is_asked_next(folder):
    looks(folder, torch="2.13.0+cpu")
    assert install(folder, "--torch", "cpu").returncode == 0
    assert calls(folder) == REST
    assert install(folder).returncode == 0  # pip finds 2.13.0 satisfied by 2.13.0+cpu


@pytest.mark.parametrize(
    ("before", "after", "fails", "said"),
    [
        (
            {"torch": "2.13.0", "needs": CUDA},
            None,
            False,
            "has a build of torch with CUDA already; remove it first: rm -r .venv",
        ),
        ({}, {"torch": "2.13.0", "needs": CUDA}, False, "gave a build with CUDA"),
        ({}, None, True, "no torch==2.13.0 from https://download.pytorch.org/whl/cpu"),
        ({"python": "3.10.1"}, None, False, "rm -r .venv"),
    ],
)
def test_what_cannot_be_had_ends_with_what_to_do(folder, before, after, fails, said):
    looks(folder, **before)
    if after:
        looks(folder, "after", **after)
    if fails:
        (folder / "no-torch").touch()
    done = install(folder, "--torch", "cpu", "--stamp", "stamp")
    assert (done.returncode, (folder / "stamp").exists()) == (2, False)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("option", "settings", "uses_uv"),
    [
        ("auto", "", True),
        ("auto", "global.timeout='60'", True),
        ("auto", "global.extra-index-url='https://example.org/simple'", False),
        ("auto", ":env:.find-links='/wheels'", False),
        ("pip", "", False),
        ("uv", "global.index-url='https://example.org/simple'", True),
    ],
)
def test_uv_installs_only_where_it_knows_all_that_pip_knows(folder, option, settings, uses_uv):
    script(folder / "bin/uv", 'echo "uv $@" >> calls')
    (folder / "config").write_text(settings)
    assert install(folder, "--installer", option).returncode == 0
    assert (
        all(call.startswith("uv pip install --quiet --python .venv/bin/python ") for call in calls(folder)) is uses_uv
    )


def test_pip_goes_on_where_uv_fails_unless_uv_was_asked_for(folder):
    script(folder / "bin/uv", "exit 1")
    assert install(folder, "--installer", "uv").returncode == 2
    assert install(folder).returncode == 0
    assert calls(folder) == ["-m pip install --quiet torch==2.13.0", *REST]


def test_uv_that_is_not_there_cannot_be_asked_for(folder):
    done = install(folder, "--installer", "uv")
    assert done.returncode == 2
    assert "no uv on PATH" in done.stderr
