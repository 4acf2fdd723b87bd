"""The steps of an experiment: each calls the stage function of the same name (src/unigrec/pipeline/stages.py).

A folder is named after a hash of everything that its result depends on. Rungs share a step by sharing its folder, and
results of other params lie in other folders, never mixed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.steps import CHECKPOINT, CHECKPOINT_SECONDS, Clock, Data, Session, Step, StepArtifacts, key_of
from unigrec.base import files
from unigrec.config.schema import Params
from unigrec.core.evaluation.baselines import Baselines, Ranks
from unigrec.core.evaluation.protocol import SHIPPED, Protocol
from unigrec.core.evaluation.ranking import fused_ranks, student_ranks
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.rank_by import MODEL_OF, RankBy
from unigrec.core.sequences import in_chunks
from unigrec.core.training.checkpoint import Stopped
from unigrec.data.slice_columns import slice_values
from unigrec.pipeline import outputs, stages

SHARED = 2  # the first steps of every rung: the teacher, and its ranking with the baselines
TRAINING = ("teacher", "tokenizer", "joint", "harden", "finetune")
SECTIONS = (*TRAINING, "rank", "evaluate")
COLD_START = Path(__file__).with_name("cold_start")  # stands for the stage warm_start: a rung continues from no bundle
WITHOUT_EFFECT = {
    "teacher": {"processes"},
    "joint": {"processes"},
    "evaluate": {"batch_size", "bootstrap_resamples", "max_users"},
}


def read_params(params: Params) -> dict[str, Any]:
    """The params that a rung's results depend on."""
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
    asked, columns = params.evaluate, list(params.evaluate.slice_columns)
    by_column = [columns] if columns else []
    key = key_of(teacher_folder(out, params, data).name, params.joint.history, list(asked.cutoffs), *by_column)
    return seed_folder(out, params.seed) / f"baselines-{key}"


def student_folder(out: Path, params: Params, data: Data) -> Path:
    values = read_params(params)
    key = key_of(params.seed, {name: values[name] for name in TRAINING}, data.fingerprint)
    return seed_folder(out, params.seed) / f"student-{key}"


def rung_folder(out: Path, rung: str, params: Params, data: Data) -> Path:
    return seed_folder(out, params.seed) / rung / key_of(params.seed, read_params(params), data.fingerprint)


def rung_steps(out: Path, rung: str, params: Params, data: Data) -> list[Step]:
    """All steps that a rung needs with one seed, in order; steps that several rungs share have the same folder."""
    home, student = rung_folder(out, rung, params, data), student_folder(out, params, data)
    teacher, tokenizer = teacher_folder(out, params, data), tokenizer_folder(out, params, data)
    shared = {name: data.artifacts.folder(name) for name in ("prepare", "embed")} | {"warm_start": COLD_START}
    trained = {"teacher": teacher, "tokenizer": tokenizer} | {
        name: student / name for name in ("joint", "harden", "finetune")
    }
    artifacts = StepArtifacts(home, shared | trained)
    seed, here = f"seed {params.seed}", f"seed {params.seed}, {rung}"

    def step(name: str, folder: Path, run: Callable[[Step, Session, Clock], None], *needs: str) -> Step:
        return Step(name, folder, run, params=params, artifacts=artifacts, needs=tuple(map(artifacts.folder, needs)))

    parts = ("harden", "finetune", "teacher")
    ranking = (
        [step(f"{here}: rank", artifacts.rank, run_rank, *parts, "tokenizer", "joint")] if is_ranked(params) else []
    )
    return [
        step(f"{seed}: teacher", teacher, run_teacher),
        step(f"{seed}: baselines", baselines_folder(out, params, data), run_baselines, "teacher"),
        step(f"{seed}: {tokenizer.name}", tokenizer, run_tokenizer, "teacher"),
        step(f"{here}: joint", artifacts.joint, run_joint, "teacher", "tokenizer"),
        step(f"{here}: harden", artifacts.harden, run_harden, "joint", "teacher"),
        step(f"{here}: finetune", artifacts.finetune, run_finetune, "joint", "harden", "teacher"),
        *ranking,
        step(f"{here}: evaluate", artifacts.evaluate, run_evaluate, *parts, *(["rank"] if ranking else [])),
    ]


def is_ranked(params: Params) -> bool:
    """Whether a rung ships more than the generative part."""
    return params.rank.by != RankBy.GENERATIVE


def run_teacher(step: Step, session: Session, clock: Clock) -> None:
    stages.teacher(step.params, step.artifacts, step.training(session, clock, step.params.teacher.epochs))


def run_tokenizer(step: Step, session: Session, clock: Clock) -> None:
    stages.tokenizer(step.params, step.artifacts, step.training(session, clock, step.params.tokenizer.epochs))


def run_joint(step: Step, session: Session, clock: Clock) -> None:
    stages.joint(step.params, step.artifacts, step.training(session, clock, step.params.joint.epochs))


def run_harden(step: Step, session: Session, clock: Clock) -> None:
    stages.harden(step.params, step.artifacts, step.training(session, clock, epochs=0))


def run_finetune(step: Step, session: Session, clock: Clock) -> None:
    stages.finetune(step.params, step.artifacts, step.training(session, clock, step.params.finetune.epochs))


def run_baselines(step: Step, session: Session, clock: Clock) -> None:
    sequences = session.data.sequences
    baselines = Baselines(
        sequences,
        step.params.joint.history,
        teacher=outputs.load_teacher(step.artifacts),
        neighbours=count_neighbours(sequences, session.data.embeddings),
        device=session.device,
    )
    _rank(step, session, baselines.ranks)


def run_rank(step: Step, session: Session, clock: Clock) -> None:
    stages.rank(step.params, step.artifacts, step.training(session, clock, epochs=0))


def run_evaluate(step: Step, session: Session, clock: Clock) -> None:
    read = {"params": read_params(step.params), "data": session.data.fingerprint}
    made_of = {"student": step.artifacts.finetune.parent.name, "teacher": step.artifacts.teacher.name}
    files.write_json(step.folder.parent / "params.json", read | made_of)
    sequences = session.data.sequences
    if not is_ranked(step.params):
        history, beam = step.params.joint.history, step.params.evaluate.beam
        student = stages.generative_retriever(step.artifacts, history, beam=beam, device=session.device)
        _rank(step, session, lambda users: _with_shipped(student_ranks(student, sequences, users), "student"))
        return
    retriever = stages.fused_retriever(step.params, step.artifacts, session.device)
    shipped = MODEL_OF[outputs.load_fusion(step.artifacts).by]
    baselines = Baselines(sequences, step.params.joint.history, teacher=retriever.dense.model, device=session.device)

    def ranks(users: np.ndarray) -> Ranks:
        found = fused_ranks(retriever, sequences, users)
        return _with_shipped(found | baselines.ranks(users) if shipped == "teacher" else found, shipped)

    _rank(step, session, ranks)


def _with_shipped(ranks: Ranks, model: str) -> Ranks:
    """The ranks, and again those of the shipped model under that name."""
    return ranks | {(SHIPPED, protocol): ranks[model, protocol] for protocol in Protocol}


def _rank(step: Step, session: Session, ranks: Callable[[np.ndarray], Ranks]) -> None:
    """Rank every user's test item. Ranks found so far are saved as often as a training saves its state."""
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
    found = dict(sorted(found.items()))  # as read back, they come in another order
    by_model: Ranks = {(name.rpartition("_")[0], name.rpartition("_")[2]): values for name, values in found.items()}
    params = step.params.evaluate
    columns = slice_values(step.artifacts, params.slice_columns)
    outputs.save_ranks(step.folder, sequences, users, ranks=by_model, cutoffs=params.cutoffs, columns=columns)
