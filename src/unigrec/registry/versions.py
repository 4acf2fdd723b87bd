"""The model registry: a bundle becomes a model version, which must load and recommend before an alias points to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.masking import masked
from unigrec.config.read import read_mapping
from unigrec.core.decisions.comparison import CHALLENGER
from unigrec.registry.model_package import MODEL_CODE, ask_stored, copy_code, requirements, signature
from unigrec.registry.tracking import BUNDLE_TAG, bundle_tags, log_run, mlflow_client
from unigrec.serving.manifest import CATALOGUE, MANIFEST, PARAMS, Subject, open_bundle
from unigrec.serving.probe import ProbeError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from unigrec.config.schema import RegisterParams
    from unigrec.serving.bundle import Bundle

PREVIOUS = "previous"  # alias, next to those of `core.decisions.comparison`
CHECKED_TAG = "loads"  # the version has loaded and recommended
PARAMS_TAG = "params"  # params of the run, as JSON
VERSION_NUMBER = re.compile(r"[0-9]{1,9}")  # a store has no place for larger integers
VERDICT_TAG = "verdict"  # the last decision of promotion on it


class Registration(NamedTuple):
    """A model version.

    created: False if this bundle was registered before. passed: whether the gates passed. verdict: an earlier decision
    of promotion on this version, if there is one.
    """

    name: str
    version: str
    created: bool
    passed: bool
    verdict: str | None


def register(folder: Path, params: RegisterParams) -> Registration:
    """Register a bundle with its metrics and curves, and point `challenger` at it if its gates passed.

    A bundle that its gates refused becomes a version without alias. The same bundle is registered once.

    Raises:
        UnigrecError: the bundle is damaged; MLflow does not answer (the bundle stays in its place, and the message
            holds the command that registers it later); the registered version does not load or recommend.
    """
    manifest = open_bundle(folder)
    advice = f"the trained model is kept; register it later with: unigrec register --bundle '{folder}'"
    with mlflow_client(params, advice) as client:
        version = find_version(client, params.model_name, manifest["id"])
        if version is not None and version.tags.get(CHECKED_TAG) == "yes":
            verdict = version.tags.get(VERDICT_TAG)
            return Registration(
                params.model_name, str(version.version), False, passed=manifest["gates_passed"], verdict=verdict
            )
        if version is None:
            version = _create_version(client, params, folder, manifest=manifest)
        _check_loads(params.model_name, str(version.version), folder)
        # A call that finishes an earlier registration may come after the next one.
        challenger = version_of(client, params.model_name, CHALLENGER)
        if manifest["gates_passed"] and (challenger is None or int(challenger.version) <= int(version.version)):
            client.set_registered_model_alias(params.model_name, CHALLENGER, version.version)
        if _newest(client, params.model_name) == int(version.version):
            files.write_json(paths.REFERENCE, {"origin": manifest["data"]["origin"], **manifest["data"]["rows"]})
        # Last: a call that finds this tag has nothing to do.
        client.set_model_version_tag(params.model_name, version.version, CHECKED_TAG, value="yes")
        verdict = version.tags.get(VERDICT_TAG)  # it may have been promoted before this call finished it
    return Registration(params.model_name, str(version.version), True, passed=manifest["gates_passed"], verdict=verdict)


class Known(NamedTuple):
    """What the registry knows of a version. url: of its run, in a browser; None if the store is no server."""

    version: str
    run_id: str
    bundle: str
    commit: str
    aliases: list[str]
    verdict: str | None
    url: str | None


def known(params: RegisterParams, version: str) -> Known:
    """Read what the registry knows of a version. Raises UnigrecError."""
    with mlflow_client(params) as client:
        found = named_version(client, params.model_name, version)
        if found.run_id is None:
            raise UnigrecError(
                f"{params.model_name} version {found.version} has no run: it was registered by another program"
            )
        aliases = client.get_registered_model(params.model_name).aliases
        experiment = client.get_run(found.run_id).info.experiment_id
        address = client.tracking_uri.rstrip("/")
    number, tags = str(found.version), found.tags
    return Known(
        version=number,
        run_id=found.run_id,
        bundle=tags.get(BUNDLE_TAG, "unknown"),
        commit=tags.get("git_commit", "unknown"),
        aliases=sorted(alias for alias, target in aliases.items() if str(target) == number),
        verdict=tags.get(VERDICT_TAG),
        url=f"{address}/#/experiments/{experiment}/runs/{found.run_id}" if address.startswith("http") else None,
    )


def attach(params: RegisterParams, version: Known, pages: list[Path], description: str) -> None:
    """Log pages to the run of a version, in place of earlier ones, and describe the version. Raises UnigrecError.

    description: Markdown of at most 5000 characters.
    """
    with mlflow_client(params) as client:
        for path in pages:
            client.log_artifact(version.run_id, str(path))
        client.update_model_version(params.model_name, version.version, description=description)


def find_version(client: MlflowClient, name: str, bundle_id: str) -> ModelVersion | None:
    """The newest version of this bundle, or None."""
    found = client.search_model_versions(f"name = '{name}' and tags.{BUNDLE_TAG} = '{bundle_id}'")
    return max(found, key=lambda version: int(version.version)) if found else None


def _newest(client: MlflowClient, name: str) -> int:
    found = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
    return int(found[0].version)


def version_of(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias points to, or None."""
    models = client.search_registered_models(f"name = '{name}'")
    number = models[0].aliases.get(alias) if models else None
    return client.get_model_version(name, number) if number is not None else None


def current_aliases(params: RegisterParams, version: str) -> list[str]:
    """Aliases that point to a version now, sorted. Raises UnigrecError if MLflow does not answer."""
    with mlflow_client(params) as client:
        aliases = client.get_registered_model(params.model_name).aliases
    return sorted(alias for alias, target in aliases.items() if str(target) == version)


def load_bundle(params: RegisterParams, model: str) -> Bundle:
    """As `load_named_bundle`, without the name."""
    return load_named_bundle(params, model)[1]


def load_named_bundle(params: RegisterParams, model: str) -> tuple[str, Bundle]:
    """The bundle behind an alias (`champion`), a version number, or a bundle's folder; and its name: `version 3`.

    Only the bundle's files are read; no code that is stored in the registry runs. Files from the registry lie in a
    temporary folder that lives as long as the bundle.

    Raises:
        UnigrecError: there is no such bundle, it is damaged, or MLflow does not answer.
    """
    from unigrec.serving.bundle import Bundle

    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="unigrec-"))
        found = locate(params, model, Path(scratch))
        bundle = Bundle.load(found.folder)
        weakref.finalize(bundle, stack.pop_all().close)
    return found.name, bundle


def locate(params: RegisterParams, model: str, scratch: Path) -> Subject:
    """The files of a bundle, which is not loaded. Files from the registry are copied to `scratch`.

    For a folder, MLflow is not queried. If the store has lost the files of a version, the bundle in `state/bundles`
    takes their place: MLflow stores absolute paths, which are wrong once the project's folder has moved.

    Raises:
        UnigrecError: as `load_bundle`, except that a damaged bundle is not found out.
    """
    if _is_folder(model):
        return Subject(model, Path(model))
    with mlflow_client(params) as client:
        import mlflow

        version = named_version(client, params.model_name, model)
        number = str(version.version)
        copy = mlflow.artifacts.download_artifacts(f"models:/{params.model_name}/{number}", dst_path=str(scratch))
    found = sorted(Path(copy).glob(f"artifacts/*/{MANIFEST}"))
    folder = found[0].parent if found else paths.BUNDLES / version.tags.get(BUNDLE_TAG, "unknown")
    if not folder.is_dir():
        raise UnigrecError(
            f"{params.model_name} version {number}: its files are gone from the store, and {folder} is no bundle; if "
            "the project's folder was moved, move it back"
        )
    return Subject(f"version {number}", folder)


def _is_folder(model: str) -> bool:
    found = os.path.isdir(model)  # Path.is_dir raises where a name is too long for a folder
    if "/" in model and not found:
        raise UnigrecError(f"{model}: no such bundle")
    if found and model.encode("utf-8", "ignore").decode() != model:
        raise UnigrecError(f"{model!r}: the name of the folder holds bytes that are no UTF-8; rename it")
    return found


def named_version(client: MlflowClient, name: str, model: str) -> ModelVersion:
    """The version with a number or alias. Raises UnigrecError if there is none."""
    if VERSION_NUMBER.fullmatch(model):
        found = client.search_model_versions(f"name = '{name}' and version_number = {model}")
        version = found[0] if found else None
    else:
        version = version_of(client, name, model)
    if version is None:
        raise UnigrecError(
            f"{name} has no version or alias {model!r} in the registry; register a model first: "
            "make run, or unigrec register"
        )
    return version


def _create_version(
    client: MlflowClient, params: RegisterParams, folder: Path, manifest: dict[str, Any]
) -> ModelVersion:
    import mlflow

    run_id = log_run(client, params.experiment, folder, manifest=manifest)
    with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as scratch, _import_path_kept():
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(MODEL_CODE),
            artifacts={"bundle": str(folder)},
            signature=signature(),
            input_example=_example(folder),
            code_paths=[str(copy_code(MODEL_CODE, Path(scratch)))],
            pip_requirements=requirements(),
        )
    if not client.search_registered_models(f"name = '{params.model_name}'"):
        client.create_registered_model(params.model_name)
    values = read_mapping(folder / PARAMS)
    tags = bundle_tags(manifest) | {PARAMS_TAG: json.dumps(values, separators=(",", ":"))}
    return client.create_model_version(params.model_name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id)


@contextlib.contextmanager
def _import_path_kept() -> Iterator[None]:
    """MLflow runs the example on a temporary copy of the model, and leaves the copy's code on the import path."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path = path


def _check_loads(name: str, version: str, folder: Path) -> None:
    """Load the version and make a request, before an alias points to it: MLflow registers also what cannot load.

    The version is fetched first, since an error of the store is no fault of the model.
    """
    import mlflow

    catalogue = _item_ids(folder)
    with tempfile.TemporaryDirectory() as scratch:
        fetched = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=scratch)
        try:
            items = ask_stored(Path(fetched), catalogue[:2], k=1)
        except ProbeError as error:
            raise UnigrecError(
                f"{name} version {version} was registered, but {masked(str(error))}; no alias was set"
            ) from error
    if len(items) != 1 or items[0] not in set(catalogue):
        raise UnigrecError(f"{name} version {version} loads but does not recommend; no alias was set")


def _example(folder: Path) -> Any:
    import pandas as pd

    ids = _item_ids(folder)
    return pd.DataFrame({"history": [ids[:2]]}), {"k": min(10, len(ids))}


def _item_ids(folder: Path) -> list[str]:
    return files.read_table(folder / CATALOGUE, ["item_id"])["item_id"].to_pylist()
