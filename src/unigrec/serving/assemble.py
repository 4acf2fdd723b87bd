"""A bundle is written: assembled from the artifacts, or from another bundle's files, and sealed by its manifest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths
from unigrec.base.data_version import data_version, test_set_version
from unigrec.base.errors import UnigrecError
from unigrec.base.files import sha256
from unigrec.base.git import DVC_LOCK, git_commit
from unigrec.base.paths import Artifacts
from unigrec.serving.computed import write_computed
from unigrec.serving.manifest import (
    BASKETS,
    CATALOGUE,
    COLLABORATIVE,
    COMPUTED,
    DENSE,
    DENSE_CONFIG,
    FUSION,
    IDENTIFIERS,
    ITEM_TOKENS,
    MANIFEST,
    NEIGHBOURS,
    PARAMS,
    RANKS,
    RECOMMENDER,
    RECOMMENDER_CONFIG,
    REPORT,
    SCHEMA_VERSION,
    SERVED,
    TEXT_ENCODER,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Serving,
    hashes_of,
    identity,
    open_bundle,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# Files of each stage that the experiment tracker shows.
REPORTED = {
    *(paths.METRICS_FILE, paths.HISTORY_FILE, paths.HEALTH_FILE),
    *(paths.DECISION_FILE, paths.SLICES_FILE, paths.AGAINST_FILE, paths.FUSION_FILE),
    paths.FACTS_FILE,
}


def assemble(params_file: Path, serving: Serving) -> Path:
    """Assemble the artifacts of the last run as `state/bundles/<id>`, unless this bundle exists already.

    Returns:
        The bundle's folder.

    Raises:
        UnigrecError: a stage has not run, or the disk is full; no incomplete bundle is left.
    """
    return seal(lambda folder: _copy_parts(folder, params_file), lambda: _described(serving))


def seal(fill: Callable[[Path], None], describe: Callable[[], dict[str, Any]]) -> Path:
    """Make a bundle below `state/bundles`, unless this bundle exists already; returns its folder.

    Args:
        fill: writes its files into an empty folder. describe: what else the manifest says of it.

    Raises:
        UnigrecError: of `fill`, or the disk is full; no incomplete bundle is left.
    """
    paths.BUNDLES.mkdir(parents=True, exist_ok=True)
    staging = paths.BUNDLES / f".new-{os.getpid()}"  # a scheduled run at the same time has the same folder of bundles
    with files.atomic_folder(staging) as folder:
        fill(folder)
        described = describe()
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        hashes = hashes_of(folder, names)
        write_computed(folder, described["serving"]["text_columns"], hashes)
        if (folder / COMPUTED).is_file():
            hashes[COMPUTED] = sha256(folder / COMPUTED)
        name = identity(hashes)
        files.write_json(folder / MANIFEST, {"schema": SCHEMA_VERSION, "id": name, "files": hashes} | described)
    final = paths.BUNDLES / name
    if final.exists():
        shutil.rmtree(staging)
        open_bundle(final)
    else:
        staging.rename(final)
    return final


def _copy_parts(folder: Path, params_file: Path) -> None:
    artifacts = Artifacts()
    for source, name in (
        (params_file, PARAMS),
        (artifacts.finetune / paths.MODEL_FILE, RECOMMENDER),
        (artifacts.finetune / paths.MODEL_CONFIG_FILE, RECOMMENDER_CONFIG),
        (artifacts.harden / paths.IDENTIFIERS_FILE, IDENTIFIERS),
        (artifacts.tokenizer / paths.COLLABORATIVE_FILE, COLLABORATIVE),
        (artifacts.teacher / paths.MODEL_FILE, DENSE),
        (artifacts.teacher / paths.MODEL_CONFIG_FILE, DENSE_CONFIG),
        (artifacts.rank / paths.NEIGHBOURS_FILE, NEIGHBOURS),
        (artifacts.rank / paths.FUSION_FILE, FUSION),
        (artifacts.rank / paths.BASKETS_FILE, BASKETS),
        (artifacts.catalogue, CATALOGUE),
        (artifacts.served_columns, SERVED),
        (artifacts.evaluate / paths.RANKS_FILE, RANKS),
    ):
        _copy_file(source, folder / name)
    if files.read_json(folder / RECOMMENDER_CONFIG).get("vector_width"):
        _copy_file(artifacts.finetune / paths.ITEM_TOKENS_FILE, folder / ITEM_TOKENS)
    prefix = "tokenizer."
    joint = files.read_arrays(artifacts.joint / paths.MODEL_FILE)
    files.write_tensors(
        folder / TOKENIZER,
        {name.removeprefix(prefix): value for name, value in joint.items() if name.startswith(prefix)},
    )
    files.write_json(folder / TOKENIZER_CONFIG, files.read_json(artifacts.joint / paths.MODEL_CONFIG_FILE)["tokenizer"])
    names = ("teacher", "tokenizer", "joint", "harden", "finetune", "rank", "evaluate", "gate", "report")
    stages = [artifacts.folder(name) for name in names]
    for needed in (artifacts.text_encoder, *stages):
        if not needed.is_dir():
            raise UnigrecError(f"{needed}: no such folder; run the pipeline first (`dvc repro` or `make run`)")
    shutil.copytree(artifacts.text_encoder, folder / TEXT_ENCODER)
    for stage in stages:
        reported = [path for path in sorted(stage.iterdir()) if path.name in REPORTED or path.suffix == ".png"]
        for path in reported:
            target = folder / REPORT / stage.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _copy_file(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UnigrecError(f"{source}: no such file; run the pipeline first (`dvc repro` or `make run`)")
    shutil.copyfile(source, target)


def _described(serving: Serving) -> dict[str, Any]:
    artifacts = Artifacts()
    return {
        "serving": serving._asdict(),
        "data": {
            "version": data_version(artifacts),
            "test_set": test_set_version(artifacts),
            "rows": files.read_json(artifacts.validated)["rows"],
            "origin": serving.origin,
            "snapshot": files.read_json(artifacts.source).get("snapshot", {}).get("id"),
            "until": last_interaction(artifacts),
        },
        "git_commit": git_commit(),
        "dvc_lock": sha256(DVC_LOCK) if DVC_LOCK.is_file() else "unknown",
        "gates_passed": files.read_json(artifacts.decision)["passed"],
    }


def last_interaction(artifacts: Artifacts) -> int:
    """Unix seconds of the newest interaction in the prepared data. Raises UnigrecError when there is none."""
    return int(files.read_arrays(artifacts.sequences)["timestamps"].max())
