"""The rules of the house that imports can break, read from the source: docs/architecture.md."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.project import ROOT

PACKAGE = ROOT / "src/unigrec"
MODULES = {path.relative_to(ROOT / "src"): path for path in sorted(PACKAGE.rglob("*.py"))}
FLOWS = sorted((ROOT / "flows").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

# From the ground up: a room imports itself and rooms below it.
FLOORS = (
    *("base", "config", "core", "data", "embedding", "serving", "scoring", "registry"),
    *("promotion", "service", "pipeline", "commands", "cli"),
)
CORE_FLOORS = (
    ("models", "sequences", "losses", "distributed", "blocks"),
    ("retrieval",),
    ("identifiers", "evaluation"),
    ("training", "decisions"),
)
APART = ("core", "data", "embedding")  # they do not import each other
# Core computes, and does nothing else. `engine` is its edge to DeepSpeed, `checkpoint` its edge to files.
CORE_LIBRARIES = {"numpy", "scipy", "torch"}
CORE_EDGES = {
    "core.training.engine": {"deepspeed"},
    "core.training.checkpoint": {"unigrec.base.files"},
    "core.training.teacher_index": {"faiss"},
}
# A library that phones, schedules or stores, or weighs seconds: the only rooms or modules that may name it.
EDGES = {
    "prefect": (),
    "pyspark": ("data.spark", "scoring.spark"),
    "dvc": (),
    "deepspeed": ("core.training.engine",),
    "faiss": ("core.training.teacher_index",),
    "great_expectations": ("data.validation",),
    "sklearn": ("embedding",),
    "sentence_transformers": ("embedding",),
    "mlflow": ("registry", "promotion.champion", "serving.pyfunc_model"),
    "httpx": ("data.fetch",),
    "duckdb": ("data.sources",),
    "matplotlib": ("pipeline.plots",),
    "typer": ("cli",),
    "fastapi": ("service",),
    "starlette": ("service",),
    "uvicorn": ("service",),
    "prometheus_client": ("service",),
}
SEES_ALL_PARAMS = ("config", "pipeline.stages", "pipeline.running", "commands", "cli")
COMPUTES = ("unigrec.core", "unigrec.data", "unigrec.embedding")  # what a stage's result depends on
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
BASELINES = {"pandas", "transformers"}  # public parts that speeds are compared with
SEARCHES = {"optuna"}
UNSAFE_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("torch.load", "torch.save", "np.load", "numpy.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path, with_types: bool = True) -> tuple[str, ...]:
    """Dotted names that a file imports, those inside functions too; `a.b.c` for `from a.b import c`."""
    return tuple(read_imports(path, with_types))


def read_imports(path: Path, with_types: bool) -> Iterator[str]:
    nodes: list[ast.AST] = [tree_of(path)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if with_types or not for_types:
            nodes += ast.iter_child_nodes(node)


def name_of(path: Path) -> str:
    """src/unigrec/core/sequences.py -> data.batches."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def within(name: str, roofs: set[str] | tuple[str, ...]) -> bool:
    return any(name == roof or name.startswith(f"{roof}.") for roof in roofs)


def rooms_above(room: str, floors: tuple[tuple[str, ...], ...]) -> set[str]:
    level = next(number for number, names in enumerate(floors) if room in names)
    return {name for names in floors[level + 1 :] for name in names}


def test_every_room_has_its_floor():
    rooms = {name_of(path).split(".")[0] for path in MODULES.values()} - {"__init__"}
    assert rooms == set(FLOORS)
    core = {name_of(path).split(".")[1] for path in MODULES.values() if within(name_of(path), ("core",))} - {"__init__"}
    assert core == {name for names in CORE_FLOORS for name in names}


@pytest.mark.parametrize("path", MODULES.values(), ids=name_of)
def test_a_room_imports_only_what_is_below_it(path):
    room, *inner = name_of(path).split(".")
    if room == "__init__":
        return
    forbidden = {f"unigrec.{name}" for name in rooms_above(room, tuple((floor,) for floor in FLOORS))}
    forbidden |= {f"unigrec.{name}" for name in APART if room in APART and name != room}
    if room == "core" and inner[0] != "__init__":
        forbidden |= {f"unigrec.core.{name}" for name in rooms_above(inner[0], CORE_FLOORS)}
    assert not {name for name in imports(path) if within(name, forbidden)}


@pytest.mark.parametrize("path", [p for p in MODULES.values() if within(name_of(p), ("core",))], ids=name_of)
def test_core_needs_torch_numpy_scipy_and_itself(path):
    roofs = {"unigrec.core", "unigrec.base.errors"} | CORE_LIBRARIES | CORE_EDGES.get(name_of(path), set())
    foreign = {
        name
        for name in imports(path, with_types=False)
        if name.split(".")[0] not in sys.stdlib_module_names and not within(name, roofs)
    }
    assert not foreign, f"{path.name} is core, but imports {sorted(foreign)}"


@pytest.mark.parametrize(("library", "allowed"), EDGES.items(), ids=list(EDGES))
def test_each_edge_stays_where_it_is(library, allowed):
    users = {name_of(path) for path in MODULES.values() if any(within(name, {library}) for name in imports(path))}
    found = {name for name in users if not within(name, allowed)}
    assert not found, f"{library} is imported by {sorted(found)}"


def test_only_stages_and_commands_see_the_whole_params():
    whole = {"unigrec.config.schema.Params", "unigrec.config.read.load_params", "unigrec.config.read.parse_params"}
    users = {name_of(path) for path in MODULES.values() if whole & set(imports(path))}
    found = {name for name in users if not within(name, SEES_ALL_PARAMS)}
    assert not found, f"take your own section: {sorted(found)}"


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_depends_on_all_code_that_computes_in_it(stage):
    """What its function imports, what that imports, and so on: an edit of any of it makes the stage run again."""
    named = {name.removeprefix("src/").removesuffix(".py").replace("/", ".") for name in GRAPH[stage]["deps"]}
    modules = {f"unigrec.{name_of(path)}": path for path in MODULES.values()}
    found: set[str] = set()
    names = set(stage_imports(stage)) | {name for name in modules if within(name, named)}
    while names:
        name = names.pop()
        module = next((part for part in (name, name.rpartition(".")[0]) if part in modules), None)
        if module and module not in found and within(module, COMPUTES):
            found.add(module)
            names |= set(imports(modules[module], with_types=False))
    missing = {module for module in found if not within(module, named)}
    assert not missing, f"name them under {stage} in dvc.yaml: {sorted(missing)}"


def stage_imports(stage: str) -> Iterator[str]:
    """What a stage's function imports, and those functions of stages.py that it calls."""
    tree = tree_of(PACKAGE / "pipeline/stages.py")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    wanted, done = [stage], set()
    while wanted:
        function = functions[wanted.pop()]
        done.add(function.name)
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                wanted += {node.func.id} - done


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_benchmarks_need_no_more_than_training_does(path):
    """They run on a machine that has torch and DeepSpeed, but no edge of ours; the stages are as high as they reach."""
    edges = {name for allowed in EDGES.values() for name in allowed} - {"core.training.engine"}
    higher = {f"unigrec.{name}" for name in ("cli", "commands", "config.edit", *edges)}
    known = {"benchmarks", "numpy", "pyarrow", "scipy", "torch", "unigrec"}
    known |= BASELINES if path.parent.name == "speed" else SEARCHES if path.stem == "search" else set()
    known |= {"lightgbm"} if path.stem == "ranker" else set()  # the benchmark says how to install it
    foreign = {
        name
        for name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names and (within(name, higher) or not within(name, known))
    }
    assert not foreign, f"{path.name} imports {sorted(foreign)}"


def test_the_benchmarks_are_found():
    assert len(BENCHMARKS) > 3


def test_nothing_is_built_on_benchmarks():
    found = {str(path) for path in [*MODULES.values(), *FLOWS] if any(within(n, {"benchmarks"}) for n in imports(path))}
    assert not found


@pytest.mark.parametrize("path", [*MODULES.values(), *FLOWS, *BENCHMARKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_evaluated_or_given_to_a_shell(path):
    found = {name for name in imports(path) if within(name, PICKLES)}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS:
                found.add(called)
            found |= {f"{called}({word.arg}=...)" for word in node.keywords if _is_unsafe(word)}
    assert not found


def _is_unsafe(word: ast.keyword) -> bool:
    value = word.value.value if isinstance(word.value, ast.Constant) else None
    return (word.arg, value) in {("shell", True), ("allow_pickle", True), ("typ", "unsafe"), ("weights_only", False)}


def test_no_file_is_longer_than_a_person_reads():
    paths = [*MODULES.values(), *FLOWS, *BENCHMARKS]
    assert not [str(path.relative_to(ROOT)) for path in paths if len(path.read_text().splitlines()) > 500]
