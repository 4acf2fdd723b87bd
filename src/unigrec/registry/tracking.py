"""The experiment tracker: one MLflow run per bundle, written after training from the bundle's own files.

Training never contacts the tracker. If the tracker is down, no training is lost, and the run can be logged later.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.loopback import ask_this_machine_directly
from unigrec.base.markdown import markdown_table
from unigrec.base.masking import holds_credentials, masked, split_credentials
from unigrec.base.process import keep_quiet
from unigrec.config.profiles import leaves
from unigrec.config.read import read_mapping
from unigrec.core.decisions.gates import gate_rows
from unigrec.registry.moved_project import follow_project
from unigrec.serving.manifest import MANIFEST, PARAMS, REPORT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from unigrec.config.schema import RegisterParams

URI_VARIABLE = "MLFLOW_TRACKING_URI"
USER_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
BUNDLE_TAG = "bundle_id"
DESCRIPTION_TAG = "mlflow.note.content"  # Markdown that MLflow shows on the page of a run
METRICS_PER_CALL = 1000  # limits of the tracker
PARAMS_PER_CALL = 100
UNAUTHORIZED = 401
SLICE_LENGTH = 150  # characters of a slice in the name of a metric, which has 250
REASON_LENGTH = 200  # characters of another program's error message


def tracking_uri(params: RegisterParams) -> str:
    """Where runs and models are stored: MLFLOW_TRACKING_URI takes precedence over the params."""
    return os.environ.get(URI_VARIABLE) or params.tracking_uri


@contextmanager
def mlflow_client(params: RegisterParams, advice: str = "") -> Iterator[MlflowClient]:
    """A client of the configured store, which gives up soon if the store does not answer.

    Args:
        advice: the end of the error message: what to do once the store is back.

    Raises:
        UnigrecError: the store does not answer or refuses, here or inside the block.
    """
    keep_quiet()
    ask_this_machine_directly()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the default backs off for four minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    follow_project(tracking_uri(params))
    variable = os.environ.get(URI_VARIABLE)
    uri = _settle_credentials(tracking_uri(params))
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if variable is None:
        os.environ.pop(URI_VARIABLE, None)  # MLflow sets it; it would take precedence over the params from then on
    try:
        client = mlflow.MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
        yield client
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        reason = masked(" ".join(str(error).split()))[:REASON_LENGTH]
        raise UnigrecError(f"MLflow at {masked(uri)} {_trouble(error)}: {reason}{advice and '; '}{advice}") from (
            None if holds_credentials(uri) else error
        )  # a traceback would show the cause with its address


def _settle_credentials(uri: str) -> str:
    """Pass user and password of an http address to MLflow in variables, and return the address without them.

    MLflow shows the address in runs, errors and links.
    """
    address = split_credentials(uri)
    for variable, value in ((USER_VARIABLE, address.user), (PASSWORD_VARIABLE, address.password)):
        if value is not None:
            os.environ[variable] = value
    return address.uri


def _trouble(error: Exception) -> str:
    status = error.get_http_status_code() if hasattr(error, "get_http_status_code") else None
    if status == UNAUTHORIZED:
        return f"refuses this user or password ({USER_VARIABLE}, {PASSWORD_VARIABLE})"
    return "does not answer or refuses"


def log_run(client: MlflowClient, experiment: str, folder: Path, manifest: dict[str, Any]) -> str:
    """Log a bundle's params, metrics, curves, plots and reports as a finished run, unless there is one.

    The gates with their reasons are the run's description. An unfinished run of an earlier attempt is deleted, not
    continued. Returns the run's id.
    """
    experiment_id = _experiment_id(client, experiment)
    for run in client.search_runs([experiment_id], f"tags.{BUNDLE_TAG} = '{manifest['id']}'"):
        if run.info.status == "FINISHED":
            return run.info.run_id
        client.delete_run(run.info.run_id)
    run = client.create_run(experiment_id, run_name=manifest["id"], tags=bundle_tags(manifest))
    run_id = run.info.run_id
    _log_params(client, run_id, folder / PARAMS)
    report = folder / REPORT
    metrics = [*_closing_metrics(report), *_intervals(report), *_slices(report), *_curves(report)]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])
    for kind, place in (("*.png", "plots"), ("*.json", "report")):
        for path in sorted(report.rglob(kind)):
            client.log_artifact(run_id, str(path), f"{place}/{path.parent.name}")
    for path in report.glob(f"*/{paths.DECISION_FILE}"):
        client.set_tag(
            run_id, DESCRIPTION_TAG, markdown_table(["gate", "", "reason"], gate_rows(files.read_json(path)))
        )
    client.log_artifact(run_id, str(folder / MANIFEST))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def bundle_tags(manifest: dict[str, Any]) -> dict[str, str]:
    """Tags of a run and of a model version: they find it, and name its data and code."""
    return {
        BUNDLE_TAG: manifest["id"],
        "git_commit": manifest["git_commit"],
        "dvc_lock": manifest["dvc_lock"],
        "data_version": manifest["data"]["version"],
        "snapshot": manifest["data"].get("snapshot") or "none",
        "test_set": manifest["data"]["test_set"],
        "gate": "passed" if manifest["gates_passed"] else "refused",
    }


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name)
    place = Path(found.artifact_location)  # of a local store: absolute
    if place.is_absolute() and not place.is_dir() and client.search_runs([found.experiment_id], max_results=1):
        raise UnigrecError(
            f"experiment {name!r} keeps its files in {place}, which is gone; bring them back, or name another "
            "experiment: unigrec configure --set register.experiment=NAME"
        )
    return found.experiment_id


def _log_params(client: MlflowClient, run_id: str, path: Path) -> None:
    from mlflow.entities import Param

    params = [Param(name, str(value)) for name, value in leaves(read_mapping(path))]
    for start in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])


def _closing_metrics(report: Path) -> list[Metric]:
    """Every number of metrics.json and health.json, as `<stage>.<name>`; lists have one number per level.

    A name that is in both files is logged once: the store accepts one value per name and time.
    """
    figures: dict[str, dict[str, Any]] = {}
    for path in sorted([*report.glob(f"*/{paths.METRICS_FILE}"), *report.glob(f"*/{paths.HEALTH_FILE}")]):
        figures.setdefault(path.parent.name, {}).update(files.read_json(path))
    return [metric for stage, found in figures.items() for metric in _metrics(stage, found, step=0)]


def _intervals(report: Path) -> Iterator[Metric]:
    """Bootstrap intervals, as `evaluate.shipped_against.<protocol>.<model>.low` and so on."""
    for path in report.glob(f"*/{paths.AGAINST_FILE}"):
        yield from _metrics(f"{path.parent.name}.shipped_against", files.read_json(path), step=0)


def _slices(report: Path) -> Iterator[Metric]:
    """Metrics of each slice of users, as `evaluate.slice.<slice>.<model>.<protocol>.<name>`."""
    for path in report.glob(f"*/{paths.SLICES_FILE}"):
        rows = files.read_json(path)
        keys = _slice_keys(row["slice"] for row in rows)
        for row in rows:
            words = keys[row["slice"]]
            figures = {name: value for name, value in row.items() if name not in ("slice", "model", "protocol")}
            yield from _metrics(f"{path.parent.name}.slice.{words}.{row['model']}.{row['protocol']}", figures, step=0)


def _slice_keys(names: Iterable[str]) -> dict[str, str]:
    """Names of slices as the tracker takes them; a number tells those apart that differ only in signs."""
    keys: dict[str, str] = {}
    alike: Counter[str] = Counter()
    for name in dict.fromkeys(names):
        words = re.sub(r"[\W_]+", "_", name.lower())[:SLICE_LENGTH]
        alike[words] += 1
        keys[name] = words if alike[words] == 1 else f"{words}.{alike[words]}"
    return keys


def _curves(report: Path) -> list[Metric]:
    """Every row of history.json, as `<stage>.curve.<name>` at the row's step."""
    return [
        metric
        for path in sorted(report.glob(f"*/{paths.HISTORY_FILE}"))
        for index, row in enumerate(files.read_json(path))
        for metric in _metrics(
            f"{path.parent.name}.curve",
            {name: value for name, value in row.items() if name not in ("step", "epoch")},
            step=int(row.get("step", row.get("epoch", index))),
        )
    ]


def _metrics(prefix: str, values: dict[str, Any], step: int) -> Iterator[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for name, value in leaves(values, f"{prefix}."):
        for level, number in enumerate(value if isinstance(value, list) else [value], start=1):
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield Metric(f"{name}.{level}" if isinstance(value, list) else name, float(number), now, step=step)
