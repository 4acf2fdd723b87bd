"""The rules of the house that imports can break, read from the source: docs/architecture.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/unigrec"
MODULES = {path.relative_to(ROOT / "src"): path for path in sorted(PACKAGE.rglob("*.py"))}
FLOWS = sorted((ROOT / "flows").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

# Computes, and does nothing else. `engine` is its edge to DeepSpeed, `artifacts` its edge to files.
CORE = (
    "comparison",
    "data.batches",
    "decoding",
    "distributed",
    "evaluation",
    "gates",
    "identifiers",
    "losses",
    "models",
    "ranking",
    "training",
)
CORE_EDGES = {"unigrec.errors", "unigrec.artifacts", "unigrec.training.engine"}
CORE_LIBRARIES = {"numpy", "torch"}
# A library that phones, schedules or stores, or weighs seconds: the only modules that may name it.
EDGES = {
    "prefect": set(),
    "dvc": set(),
    "mlflow": {"tracking", "registry", "promotion", "model_package", "model_check", "pyfunc_model", "serving"},
    "deepspeed": {"training.engine"},
    "great_expectations": {"validation"},
    "sentence_transformers": {"embedding"},
    "sklearn": {"embedding"},
    "fastapi": {"serving"},
    "matplotlib": {"plots"},
    "typer": {"cli"},
}
SEES_ALL_PARAMS = {"config", "configure", "stages", "cli", "commands"}
BASELINES = {"pandas", "transformers"}  # public parts that speeds are compared with
SEARCHES = {"optuna"}
UNSAFE_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("torch.load", "torch.save", "np.load", "numpy.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def imports(path: Path, with_types: bool = True) -> Iterator[str]:
    """Dotted names that a file imports, those inside functions too; `a.b.c` for `from a.b import c`."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
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
    """src/unigrec/data/batches.py -> data.batches."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def within(name: str, roofs: set[str] | tuple[str, ...]) -> bool:
    return any(name == roof or name.startswith(f"{roof}.") for roof in roofs)


def core_files() -> list[Path]:
    return [path for path in MODULES.values() if within(name_of(path), CORE) and name_of(path) != "training.engine"]


@pytest.mark.parametrize("path", core_files(), ids=name_of)
def test_the_core_needs_torch_numpy_and_itself(path):
    roofs = {f"unigrec.{roof}" for roof in CORE} | CORE_EDGES | CORE_LIBRARIES
    foreign = {
        name
        for name in imports(path, with_types=False)
        if name.split(".")[0] not in sys.stdlib_module_names and not within(name, roofs)
    }
    assert not foreign, f"{path.name} is core, but imports {sorted(foreign)}"


def test_the_core_is_found():
    assert len(core_files()) > 10


@pytest.mark.parametrize(("library", "allowed"), EDGES.items(), ids=list(EDGES))
def test_each_edge_stays_where_it_is(library, allowed):
    found = {name_of(path) for path in MODULES.values() if any(within(name, {library}) for name in imports(path))}
    assert found <= allowed, f"{library} is imported by {sorted(found - allowed)}"


def test_only_stages_and_commands_see_the_whole_params():
    whole = {"unigrec.config.Params", "unigrec.config.load_params", "unigrec.config.parse_params"}
    found = {name_of(path) for path in MODULES.values() if whole & set(imports(path))}
    assert found <= SEES_ALL_PARAMS, f"take your own section: {sorted(found - SEES_ALL_PARAMS)}"


def test_stages_are_the_top_of_the_package():
    found = {name_of(path) for path in MODULES.values() if any(within(n, {"unigrec.stages"}) for n in imports(path))}
    assert found <= {"cli", "commands"}


@pytest.mark.parametrize("stage", ["teacher", "tokenizer", "joint", "harden", "finetune"])
def test_a_training_depends_on_all_code_that_computes_in_it(stage):
    """What the files that dvc.yaml names import is named too: an edit of it makes the stage run again."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    roofs = {name.removeprefix("src/").removesuffix(".py").replace("/", ".") for name in graph["deps"]}
    found = {
        module
        for path in MODULES.values()
        if within(f"unigrec.{name_of(path)}", roofs)
        for module in imports(path, with_types=False)
        if within(module, {"unigrec"}) and not within(module, roofs | {"unigrec.artifacts", "unigrec.errors"})
    }
    assert not found, f"name them under {stage} in dvc.yaml: {sorted(found)}"


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_benchmarks_need_no_more_than_training_does(path):
    """They run on a machine that has torch and DeepSpeed, but no edge of ours; the stages are as high as they reach."""
    edges = set().union(*EDGES.values()) - {"training.engine"}
    higher = {f"unigrec.{name}" for name in ("cli", "commands", "configure", *edges)}
    known = {"benchmarks", "numpy", "pyarrow", "torch", "unigrec"}
    known |= BASELINES if path.parent.name == "speed" else SEARCHES if path.stem == "search" else set()
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
