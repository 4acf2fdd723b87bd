"""What an experiment does, step by step, with what the pipeline itself calls (src/unigrec/pipeline).

A folder is named after a hash of all that its result depends on: what two rungs share they share on disk, and results
of other params lie beside, never mixed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from benchmarks.quality.steps import CHECKPOINT, CHECKPOINT_SECONDS, Clock, Data, Session, Step, key_of
from unigrec.base import files, paths
from unigrec.config.schema import Params
from unigrec.core.evaluation.metrics import ranking_metrics
from unigrec.core.evaluation.ranking import Baselines, Ranks, Student
from unigrec.core.evaluation.slices import metrics_by_slice, slices
from unigrec.core.identifiers.item_vectors import item_vectors
from unigrec.core.sequences import in_chunks
from unigrec.core.training.checkpoint import Stopped
from unigrec.core.training.finetune import train_finetune
from unigrec.core.training.joint import JointData, train_joint
from unigrec.core.training.loop import Run
from unigrec.core.training.teacher import teacher_shape, train_teacher
from unigrec.core.training.tokenizer import train_tokenizer
from unigrec.pipeline import outputs, stages

SHARED = 2  # the first steps of every rung: the teacher, and its ranking beside the baselines
SECTIONS = ("teacher", "tokenizer", "joint", "harden", "finetune", "evaluate")
WITHOUT_EFFECT = {"joint": {"processes"}, "evaluate": {"batch_size", "bootstrap_resamples"}}


def read_params(params: Params) -> dict[str, Any]:
    """The values that a rung's results depend on."""
    values = params.model_dump(mode="json", by_alias=True)
    return {
        name: {key: value for key, value in values[name].items() if key not in WITHOUT_EFFECT.get(name, ())}
        for name in SECTIONS
    }


def seed_folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def teacher_folder(out: Path, params: Params, data: Data) -> Path:
    key = key_of(params.seed, read_params(params)["teacher"], data.fingerprint)  # content too
    return seed_folder(out, params.seed) / f"teacher-{key}"


def tokenizer_folder(out: Path, params: Params, data: Data) -> Path:
    values, embed = read_params(params)["tokenizer"], data.fingerprint["embed"]
    reads = teacher_folder(out, params, data).name if params.tokenizer.collaborative_weight else None
    key = key_of(params.seed, values, embed, reads)
    return seed_folder(out, params.seed) / f"tokenizer-{key}"


def baselines_folder(out: Path, params: Params, data: Data) -> Path:
    key = key_of(teacher_folder(out, params, data).name, params.joint.history, list(params.evaluate.cutoffs))
    return seed_folder(out, params.seed) / f"baselines-{key}"


def rung_folder(out: Path, rung: str, params: Params, data: Data) -> Path:
    return seed_folder(out, params.seed) / rung / key_of(params.seed, read_params(params), data.fingerprint)


def rung_steps(out: Path, rung: str, params: Params, data: Data) -> list[Step]:
    """All that a rung needs with one seed, in order; steps that several rungs share have the same folder."""
    teacher, tokenizer, home = (
        teacher_folder(out, params, data),
        tokenizer_folder(out, params, data),
        rung_folder(out, rung, params, data),
    )
    joint, harden, finetune = home / "joint", home / "harden", home / "finetune"
    seed, here = f"seed {params.seed}", f"seed {params.seed}, {rung}"
    return [
        Step(f"{seed}: teacher", teacher, run_teacher, params),
        Step(f"{seed}: baselines", baselines_folder(out, params, data), run_baselines, params, (teacher,)),
        Step(f"{seed}: {tokenizer.name}", tokenizer, run_tokenizer, params, (teacher,)),
        Step(f"{here}: joint", joint, run_joint, params, (teacher, tokenizer)),
        Step(f"{here}: harden", harden, run_harden, params, (joint, teacher)),
        Step(f"{here}: finetune", finetune, run_finetune, params, (joint, harden, teacher)),
        Step(f"{here}: evaluate", home / "evaluate", run_evaluate, params, (harden, finetune)),
    ]


def read_vectors(teacher: Path, params: Params, data: Data) -> Tensor:
    """(N, D) what the tokenizer reads."""
    embedding = outputs.load_teacher(teacher).item_embedding.weight.detach()
    return item_vectors(data.embeddings, embedding, params.tokenizer.collaborative_weight)


def run_teacher(step: Step, session: Session, clock: Clock) -> None:
    params, data = step.params, session.data
    log = clock.log(step.name, params.teacher.epochs)
    run = Run(params.seed, session.device, log, checkpoints=step.checkpoints(session))
    trained = train_teacher(data.sequences, data.embeddings, params.teacher, run=run)
    config = {"items": data.sequences.catalogue_size, **teacher_shape(params.teacher)}
    outputs.save_trained(step.folder, trained, config)


def run_tokenizer(step: Step, session: Session, clock: Clock) -> None:
    params = step.params
    vectors = read_vectors(step.needs[0], params, session.data)
    log = clock.log(step.name, params.tokenizer.epochs)
    run = Run(params.seed, session.device, log, checkpoints=step.checkpoints(session))
    trained = train_tokenizer(vectors, params.tokenizer, run)
    shape = params.tokenizer.model_dump(include=stages.TOKENIZER_SHAPE)
    outputs.save_trained(step.folder, trained, {"embedding_dim": vectors.shape[1], **shape})


def run_joint(step: Step, session: Session, clock: Clock) -> None:
    params, data = step.params, session.data
    teacher, tokenizer = step.needs
    files.write_json(step.folder.parent / "params.json", {"params": read_params(params), "data": data.fingerprint})
    ranker = outputs.load_teacher(teacher)
    vectors = read_vectors(teacher, params, data)
    joint_data = JointData(data.sequences, vectors, ranker.item_embedding.weight.detach(), ranker)
    log = clock.log(step.name, params.joint.epochs)
    trained = train_joint(
        joint_data,
        outputs.load_tokenizer(tokenizer),
        params.joint,
        resolution=params.harden.resolution,
        run=Run(params.seed, session.device, log, checkpoints=step.checkpoints(session)),
    )
    model: Any = trained.model
    config = {
        "recommender": model.recommender.config.to_dict(),
        "tokenizer": files.read_json(tokenizer / paths.MODEL_CONFIG_FILE),
        "teacher_dim": joint_data.teacher.shape[1],
    }
    outputs.save_trained(step.folder, trained, config)


def run_harden(step: Step, session: Session, clock: Clock) -> None:
    joint, teacher = step.needs
    vectors = read_vectors(teacher, step.params, session.data)
    unified = outputs.load_unified(joint).to(session.device)
    found = stages.harden_identifiers(unified, session.data.sequences, vectors.to(session.device), step.params)
    outputs.save_identifiers(step.folder, *found)


def run_finetune(step: Step, session: Session, clock: Clock) -> None:
    params = step.params
    joint, harden, teacher = step.needs
    log = clock.log(step.name, params.finetune.epochs)
    trained = train_finetune(
        session.data.sequences,
        outputs.load_unified(joint).recommender,
        outputs.load_codes(harden),
        params=params.finetune,
        joint_params=params.joint,
        run=Run(params.seed, session.device, log, checkpoints=step.checkpoints(session)),
        teacher=outputs.load_teacher(teacher),
    )
    model: Any = trained.model
    outputs.save_trained(step.folder, trained, model.config.to_dict())


def run_baselines(step: Step, session: Session, clock: Clock) -> None:
    teacher = outputs.load_teacher(step.needs[0])
    baselines = Baselines(session.data.sequences, teacher, step.params.joint.history, session.device)
    _rank(step, session, baselines.ranks)


def run_evaluate(step: Step, session: Session, clock: Clock) -> None:
    harden, finetune = step.needs
    params, recommender = step.params, outputs.load_recommender(finetune)
    student = Student(recommender, outputs.load_codes(harden), params.evaluate.beam, session.device)
    _rank(step, session, lambda users: student.ranks(session.data.sequences, users, params.joint.history))


def _rank(step: Step, session: Session, ranks: Callable[[np.ndarray], Ranks]) -> None:
    """Every user's rank, metrics and slices. What is ranked already is saved as often as a training is."""
    sequences = session.data.sequences
    users = sequences.evaluation_users()
    so_far = step.folder / CHECKPOINT / f"ranks-{session.code}.safetensors"
    found: dict[str, np.ndarray] = files.read_arrays(so_far) if so_far.is_file() else {}
    ranked = len(next(iter(found.values()))) if found else 0
    saved = time.monotonic()
    for chunk in in_chunks(users[ranked:], step.params.evaluate.batch_size):
        stop = session.stop()
        if stop or time.monotonic() - saved >= CHECKPOINT_SECONDS:
            if found:
                files.write_tensors(so_far, found)
            saved = time.monotonic()
        if stop:
            raise Stopped
        for (model, protocol), values in ranks(chunk).items():
            name = f"{model}_{protocol}"
            found[name] = np.concatenate([found[name], values]) if name in found else values
    found = dict(sorted(found.items()))  # what was read back comes in another order
    by_model: Ranks = {(name.rpartition("_")[0], name.rpartition("_")[2]): values for name, values in found.items()}
    metrics: dict[str, Any] = {}
    for (model, protocol), values in by_model.items():
        metrics.setdefault(model, {})[protocol] = ranking_metrics(values, step.params.evaluate.cutoffs)
    targets = sequences.held_out(users, "test", 1).targets
    files.write_table(step.folder / paths.RANKS_FILE, pa.table({"user_index": users, "item_index": targets} | found))
    files.write_json(step.folder / "slices.json", metrics_by_slice(by_model, slices(sequences, users)))
    files.write_json(step.folder / paths.METRICS_FILE, metrics)
