"""The lock files: complete, without contradictions, and each package in docs/packages.md under what pulls it in."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra import packages
from support.project import ROOT

LOCKS = {extra: packages.locked(ROOT / name) for extra, (name, *_) in packages.LISTS.items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PARTS = packages.parts()


def of_cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-", "triton"))


@pytest.mark.parametrize("extra", ["", "dev"])
def test_a_lock_file_holds_what_its_requirements_pull_in_and_nothing_else(extra):
    pulled = set().union(*PARTS[extra].pulled.values()) - {"unigrec"}
    missing = {name for name in pulled if not of_cuda(name)} - set(LOCKS[""]) - set(LOCKS[extra])
    assert not missing
    if sys.version_info[:2] == (3, 11):  # a newer Python needs fewer
        assert not set(LOCKS[extra]) - pulled


def test_the_lists_that_come_on_top_agree_with_the_first_one_and_each_other():
    for extra in ("dev", "server", "text", "spark", "index"):
        assert not set(LOCKS[extra]) & set(LOCKS[""]), "pinned twice"
    twice = set(LOCKS["dev"]) & set(LOCKS["text"])
    assert twice >= {"transformers"}
    assert {name: LOCKS["dev"][name] for name in twice} == {name: LOCKS["text"][name] for name in twice}
    assert LOCKS["index"].items() <= LOCKS["dev"].items(), "its tests run with the dev list"


@pytest.mark.parametrize("extra", packages.LISTS)
def test_pins_meet_the_bounds_of_the_project_and_are_what_is_installed(extra):
    needs = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    pins = LOCKS[""] | LOCKS[extra]
    for need in map(Requirement, needs):
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), need
    for name, pin in LOCKS[extra].items():
        try:
            assert version(name).split("+")[0] == pin, name
        except PackageNotFoundError:
            assert extra in ("server", "text", "spark"), name


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the document is of 3.11")
def test_the_document_names_each_package():
    document = (ROOT / "docs/packages.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([a-z0-9-]+) \|(?:[^|\n]*\|[^|\n]*\| ([^|\n]*) \|)?", document, flags=re.M)
    cells += [(sentence,) for sentence in re.findall(r"^Pulled in by these: (.*)\.$", document, flags=re.M)]
    names = {name for row in cells for cell in row for name in cell.split(", ") if name}
    assert names - {"list", "for", "shared"} == set().union(*LOCKS.values())
    counts = dict(re.findall(r"^\| (requirements\S*) \| (\d+) ", document, flags=re.M))
    assert counts == {packages.LISTS[extra][0]: str(len(lock)) for extra, lock in LOCKS.items()}
