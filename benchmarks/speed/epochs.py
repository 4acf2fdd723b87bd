"""An epoch of the joint phase beside one of the teacher, at the size of the profile `small`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.quality.ladder import profile_params
from benchmarks.speed.harness import ROOT, Options, Table, ratio, say
from benchmarks.speed.held import alternate, held_each
from benchmarks.speed.shapes import learning_data
from benchmarks.speed.teacher import Row as TeacherRow
from benchmarks.speed.teacher import scaled
from unigrec.base.process import training_device
from unigrec.config.profiles import with_values
from unigrec.config.read import parse_params
from unigrec.core.identifiers.collisions import hard_codes
from unigrec.core.models.ensemble import build_teacher
from unigrec.core.training.engine import make_engine
from unigrec.core.training.joint import JointData, JointTraining, new_unified, trained_groups
from unigrec.core.training.loop import Run
from unigrec.core.training.student import StudentTraining
from unigrec.core.training.teacher import teacher_config
from unigrec.core.training.tokenizer import new_tokenizer

TEACHER, JOINT = "teacher, one member", "joint"
# Row -> changed params.
CHANGES: dict[str, dict[str, Any]] = {
    TEACHER: {},
    JOINT: {},
    "joint, teacher of one member distilled": {"teacher.members": 1},
    "joint, no ranking distilled": {"joint.w_ranking_distillation": 0.0},
    "joint, whole histories": {"joint.history_dropout": 0.0},
    "joint, set decoder": {"joint.recommender.decoder": "set"},
    "joint, 20 items of a history": {"joint.history": 20},
    "joint, 128 samples a batch": {"joint.batch_size": 128},
    "joint, 512 samples a batch": {"joint.batch_size": 512},
}
WIDTH, QUICK_WIDTH = 128, 16  # of item embeddings; 128 as those of tfidf-svd
STEPS, QUICK_STEPS, ROUNDS = 12, 2, 3


def run(options: Options) -> list[Table]:
    artifacts = str(options.artifacts.absolute()) if options.artifacts else None
    with held_each(Row, "name", tuple(CHANGES), 1, artifacts=artifacts, quick=options.quick) as held:
        found = alternate(held, 1 if options.quick else ROUNDS, log=say)
        timings = {name: scaled(timing, held[name].call("share")) for name, timing in found.items()}
        steps = {name: row.call("epoch") for name, row in held.items()}
    rows = []
    for name, timing in timings.items():
        of_teacher = ratio(timing, timings[TEACHER])
        cells = {"what": name, "steps of an epoch": steps[name], **timing.cells(unit="s")}
        rows.append(cells | {"times the teacher's": of_teacher.of_medians})
    notes = [
        "Each row runs in its own process on one thread, configured as in its stage. Some steps of an epoch are "
        "measured, taken evenly from batches sorted by number of positions, and scaled to the epoch.",
        "The teachers are untrained; nothing that is measured depends on their weights.",
    ]
    return [Table("an epoch of the joint phase and of the teacher, profile small", rows, notes)]


class Row:
    """A row of the table, in its own process."""

    def __init__(self, name: str, artifacts: str | None, quick: bool):
        self.steps = QUICK_STEPS if quick else STEPS
        self.source: TeacherEpoch | JointEpoch = (
            TeacherEpoch(artifacts, quick) if name == TEACHER else JointEpoch(CHANGES[name], artifacts, quick)
        )
        self.sorted = self.source.batches()

    def round(self, number: int) -> None:
        """Train on some batches of an epoch, evenly from those with few positions to those with many."""
        for place in range(self.steps):
            self.source.step(self.sorted[int((place + (number + 0.5) / ROUNDS) / self.steps * len(self.sorted))])

    def share(self) -> float:
        return self.steps / len(self.sorted)

    def epoch(self) -> int:
        return len(self.sorted)


class TeacherEpoch:
    """The stage `teacher`, one member."""

    def __init__(self, artifacts: str | None, quick: bool):
        self.row = TeacherRow("ours, BSARec", artifacts, quick)

    def batches(self) -> list[np.ndarray]:
        return self.row.batches(0)

    def step(self, batch: np.ndarray) -> None:
        self.row.step(batch)


class JointEpoch:
    """The stage `joint`, in the midst of its epochs: every loss is part of the sum."""

    def __init__(self, changes: dict[str, Any], artifacts: str | None, quick: bool):
        device = training_device()
        data = learning_data(artifacts, QUICK_WIDTH if quick else WIDTH, quick)
        params = parse_params(with_values(profile_params(ROOT, "small"), changes))
        torch.manual_seed(params.seed)
        teacher = build_teacher(teacher_config(len(data.embeddings), params.teacher))
        tokenizer = new_tokenizer(data.embeddings.shape[1], params.tokenizer)
        tokenizer.initialise(data.embeddings, params.seed, iterations=1)
        joint = JointData(data.sequences, data.embeddings, teacher.item_vectors(), teacher)
        codes, width = hard_codes(tokenizer, data.embeddings), joint.teacher.shape[1]
        resolution = params.harden.resolution
        model = new_unified(tokenizer, codes, params.joint, teacher_dim=width, resolution=resolution)
        model.fit_teacher_projection(joint.embeddings, joint.teacher)
        self.student = StudentTraining(
            engine=make_engine("torch", model.train(), trained_groups(model, params.joint), params.joint.batch_size),
            recommender=model.recommender,
            sequences=data.sequences,
            params=params.joint,
            joint_params=params.joint,
            run=Run(params.seed, device, log=lambda *_: None),
            teacher=teacher,
        )
        self.training = JointTraining(
            self.student, params.joint, tokenizer, data=joint, first_codes=codes, resolution=resolution
        )
        self.training.start_epoch(params.joint.epochs // 2)

    def batches(self) -> list[np.ndarray]:
        def positions(batch: np.ndarray) -> int:
            return int(self.student.training_samples[batch].lengths.sum())

        return sorted(self.student.batches(0), key=positions)

    def step(self, batch: np.ndarray) -> None:
        losses = self.training.losses(batch, step=self.training.distillation_start)
        self.student.engine.step(losses["loss"])
