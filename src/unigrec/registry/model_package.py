"""The parts of a registered version other than its bundle, so that it stands alone: signature, requirements, code.

MLflow puts the stored code first on the import path of the process that loads the model. The processes of this project
do not run it: `unigrec.registry.versions.load_bundle` reads the bundle, and a new version is checked in a child process
(`unigrec.registry.model_check`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from modulefinder import Module, ModuleFinder
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import unigrec
from unigrec.serving.probe import ask_child
from unigrec.serving.schema import ANSWER_COLUMNS, ITEM_COLUMNS, REASONS_COLUMN, Answer, RecommendedItem, Request

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

PACKAGE = unigrec.__name__
SOURCES = Path(unigrec.__file__).parents[1]
# Imports of the carried code, which are also enough for `mlflow models serve`. MLflow's full package adds 90 more.
REQUIREMENTS = (
    "lark",
    "mlflow-skinny",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "ruamel.yaml",
    "safetensors",
    "torch",
)
LOAD_SECONDS = 600.0


def _file_of(module: str) -> Path:
    """The source of a module, found without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


MODEL_CODE = _file_of("unigrec.serving.pyfunc_model")
CHECK = _file_of("unigrec.registry.model_check")


class _OwnModules(ModuleFinder):
    """Follows only imports of this package."""

    def find_module(
        self, name: str, path: str | None, parent: Module | None = None
    ) -> tuple[IO[Any] | None, str | None, tuple[str, str, int]]:
        if path is None and name != PACKAGE:
            raise ImportError(name)
        return super().find_module(name, path, parent)


def imported_modules(entry: Path) -> tuple[list[Path], set[str]]:
    """All imports of a file, direct and indirect, also those inside functions and for types only.

    Returns:
        The files of this package, and the names of other top-level modules without the standard library.
    """
    finder = _OwnModules(path=[str(SOURCES)])
    finder.run_script(str(entry))
    files = {name: getattr(module, "__file__", None) for name, module in finder.modules.items() if name != "__main__"}
    own = [Path(file) for file in files.values() if file]
    others = {name.split(".")[0] for name in finder.badmodules} - sys.stdlib_module_names - {PACKAGE}
    return sorted(own), others


def copy_code(entry: Path, folder: Path) -> Path:
    """Copy the modules of this package that a file imports to `folder`; returns the copy of the package."""
    package = folder / PACKAGE
    package.mkdir()
    for source in imported_modules(entry)[0]:
        target = folder / source.relative_to(SOURCES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return package


def requirements() -> list[str]:
    """Pins of the installed versions without local labels: a package index has torch 2.13.0, not 2.13.0+cpu."""
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]


def signature() -> ModelSignature:
    """Input and output are tables with one row per history; parameters hold for all rows of a request.

    Input: `history`, a list of item ids, oldest first. Its elements have no type in the schema: with the type text,
    MLflow cuts all ids of a list that holds a null to one character. Text and whole numbers are ids, a null counts as
    unknown, and the model refuses everything else.

    Output: `item_ids`, `titles`, `scores` (log-probabilities) and `reasons` (texts, empty unless they were asked for),
    best first; `unknown`, how many ids of the history the catalogue does not hold; `by_popularity`, true if no id is
    known and these are the most popular items.

    Parameters, as in `Bundle.recommend`: `k`; `allow` and `deny`, lists of item ids; `exclude_history`; `rank_by`;
    `filter`; `reasons`; `diversity`, `new_share` and `boost` as texts. MLflow has no null: an empty `allow` or `filter`
    means that every item is allowed, an empty `rank_by` what validation chose, and an empty rule none.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    types: dict[Any, DataType] = {
        str: DataType.string,
        float: DataType.double,
        int: DataType.long,
        bool: DataType.boolean,
    }
    lists = [
        ColSpec(Array(types[RecommendedItem.model_fields[field].annotation]), column)
        for field, column in ITEM_COLUMNS.items()
    ]
    lists.append(ColSpec(Array(DataType.string), REASONS_COLUMN))
    values = [ColSpec(types[Answer.model_fields[name].annotation], name) for name in ANSWER_COLUMNS]
    defaults = {name: field.default for name, field in Request.model_fields.items()}
    return ModelSignature(
        inputs=Schema([ColSpec(Array(AnyType()), "history")]),
        outputs=Schema([*lists, *values]),
        params=ParamSchema(
            [
                ParamSpec("k", DataType.long, defaults["k"]),
                ParamSpec("allow", DataType.string, [], shape=(-1,)),
                ParamSpec("deny", DataType.string, [], shape=(-1,)),
                ParamSpec("exclude_history", DataType.boolean, defaults["exclude_history"]),
                ParamSpec("rank_by", DataType.string, ""),
                ParamSpec("filter", DataType.string, ""),
                ParamSpec("reasons", DataType.boolean, defaults["reasons"]),
                ParamSpec("diversity", DataType.string, ""),
                ParamSpec("new_share", DataType.string, ""),
                ParamSpec("boost", DataType.string, [], shape=(-1,)),
            ]
        ),
    )


def ask_stored(folder: Path, history: list[str], k: int) -> list[str]:
    """Item ids that a stored model recommends for a history; a child process runs the stored code.

    Raises:
        ProbeError: the model does not load or answer, or it runs on other code than it holds.
    """
    command = [sys.executable, "-P", str(CHECK), str(folder)]  # -P: the folder of this package is no import path
    return ask_child(command, {"history": history, "k": k}, LOAD_SECONDS)["item_ids"]
