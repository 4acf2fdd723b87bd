"""Run one stage, with what a process of its own brings: the device, a checkpoint, pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.base.process import training_device, use_threads
from unigrec.config.schema import Params
from unigrec.pipeline.progress import Lines, Screen, TrainingProgress
from unigrec.pipeline.stage_key import stage_key
from unigrec.pipeline.stages import (
    embed,
    evaluate,
    finetune,
    gate,
    harden,
    ingest,
    joint,
    prepare,
    rank,
    report,
    settings_of,
    teacher,
    tokenizer,
    validate,
    warm_start,
)

if TYPE_CHECKING:
    from unigrec.core.training.loop import Run

CHECKPOINT_SECONDS = 20.0
# Stages with checkpoints, and the titles of their curves.
TRAININGS = {"teacher": "Teacher", "tokenizer": "Tokenizer", "joint": "Joint training", "finetune": "Finetuning"}
WITHOUT_RUN = {stage.__name__: stage for stage in (ingest, validate, prepare, warm_start, embed, gate)}
WITH_RUN = {stage.__name__: stage for stage in (teacher, tokenizer, joint, harden, finetune, rank, evaluate, report)}


def run_stage(name: str, params: Params, screen: Screen | None = None, verbose: bool = False) -> None:
    """Run a stage in the project's own `artifacts/`, as one process or, under torchrun, as one rank of several.

    screen: shows a training's progress; None: lines on stderr. verbose: lines hold every figure.

    If the stage fails, the process keeps its process group until it ends: ranks that lose a peer crash, and the error
    of the rank that failed must be reported before.
    """
    artifacts = Artifacts()
    if name in WITHOUT_RUN:
        WITHOUT_RUN[name](params, artifacts)
        return
    import shutil

    from unigrec.core import distributed

    WITH_RUN[name](params, artifacts, _run(name, params, artifacts, screen=screen or Lines(), verbose=verbose))
    if distributed.rank() == 0:
        _show(name, params, artifacts)
        shutil.rmtree(paths.CHECKPOINTS / name, ignore_errors=True)
    distributed.leave_process_group()


def _run(stage: str, params: Params, artifacts: Artifacts, screen: Screen, verbose: bool) -> Run:
    """A training has a checkpoint, keyed by everything that `dvc.yaml` lists as its input."""
    from unigrec.core.training.checkpoint import CheckpointFolder
    from unigrec.core.training.loop import Run

    use_threads(params.threads)
    if stage not in TRAININGS:
        return Run(params.seed, training_device(), log=lambda step, metrics: None)
    key = stage_key(stage, params.model_dump(mode="json", by_alias=True))
    checkpoints = CheckpointFolder(paths.CHECKPOINTS / stage, key, CHECKPOINT_SECONDS)
    parts = params.teacher.members if stage == "teacher" else 1
    epochs = settings_of(stage, params, artifacts).epochs
    progress = TrainingProgress(stage, epochs, screen, parts=parts, verbose=verbose)
    return Run(params.seed, training_device(), progress.log, checkpoints=checkpoints, tick=progress.tick)


def _show(stage: str, params: Params, artifacts: Artifacts) -> None:
    """Draw what the stage has written."""
    from unigrec.core.evaluation.protocol import Protocol
    from unigrec.pipeline import plots

    folder = artifacts.folder(stage)
    if stage in TRAININGS:
        history = files.read_json(folder / paths.HISTORY_FILE)
        if any(row["step"] for row in history):  # a warm start may leave a network as it was
            plots.training_curves(history, folder / "curves.png", TRAININGS[stage])
    if stage == "tokenizer":
        plots.annealing(history, params.tokenizer.codebook_size, folder / "annealing.png")
    if stage == "joint":
        plots.identifiers_over_epochs(history, params.tokenizer.codebook_size, folder / "identifiers.png")
    if stage == "harden":
        plots.codebook_usage(files.read_json(folder / paths.USAGE_FILE), folder / "codebook_usage.png")
    if stage == "evaluate":
        plots.quality_bars(files.read_json(folder / paths.METRICS_FILE), folder / "quality.png")
        rows = files.read_json(folder / paths.SLICES_FILE)
        for protocol in Protocol:
            plots.metrics_by_slice(rows, folder / f"slices_{protocol}.png", protocol)
