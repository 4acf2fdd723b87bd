"""What the joint phase and finetuning share: batches, the teacher's ranking, validation by beam search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from unigrec.core.models.ensemble import Teacher
from unigrec.core.models.item_scores import CodeSums
from unigrec.core.models.recommender import Recommender
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import Sequences
from unigrec.core.training.engine import Engine
from unigrec.core.training.loop import Phase, Run, Trained, train
from unigrec.core.training.ranking_targets import Ranking, ranking_of, uniform_numbers
from unigrec.core.training.samples import Samples, TrainingSamples, make_samples, thinned
from unigrec.core.training.schedules import rate_factor
from unigrec.core.training.student_validation import beam_metrics, sampled_users
from unigrec.core.training.teacher_items import Best, TeacherItems

if TYPE_CHECKING:
    from unigrec.config.schema import FinetuneParams, JointParams


@dataclass(kw_only=True)
class StudentTraining:
    """What a training of the recommender needs, alone or together with the tokenizer.

    Attributes:
        engine: trains the model. recommender: this model, or the part of it that decodes.
        params: of the phase. joint_params: history, validation and sampling of items, the same in both phases.
        teacher: its ranking is distilled if `params.w_ranking_distillation` is above zero.
    """

    engine: Engine
    recommender: Recommender
    sequences: Sequences
    params: JointParams | FinetuneParams
    joint_params: JointParams
    run: Run
    teacher: Teacher | None

    def __post_init__(self) -> None:
        config, shared, run = self.recommender.config, self.joint_params, self.run
        self.training_samples = TrainingSamples(self.sequences, shared.history, config.causal)
        self.users = sampled_users(self.sequences, shared.validation_users, run.seed)
        self.teacher_items: TeacherItems | None = None
        if self.teacher is not None and self.params.w_ranking_distillation:
            teacher = self.teacher.to(run.device).eval()
            self.teacher_items = TeacherItems(
                teacher,
                self.training_samples,
                shared.ranking_items,
                run.device,
                shared.ranking_search,
                histories_vary=shared.history_dropout > 0,
            )
        self._sums: tuple[Tensor, CodeSums] | None = None

    def batches(self, epoch: int) -> list[np.ndarray]:
        return self.training_samples.batches(
            self.params.batch_size, self.run.seed, epoch, most=self.params.epoch_samples
        )

    def samples(self, rows: np.ndarray, step: int) -> Samples:
        """This rank's samples of a batch."""
        batch = thinned(self.training_samples[rows], self.joint_params.history_dropout, self.run.seed, step)
        return make_samples(batch, self.run.device)

    def ranking_targets(self, samples: Samples, codes: Tensor, step: int) -> Ranking | Best | None:
        """The teacher's ranking for the samples, or None if it is not distilled. codes: (N, T) current identifiers."""
        if self.teacher_items is None:
            return None
        best, config = self.teacher_items.after(samples), self.recommender.config
        if config.decoder == "set":
            return best
        uniform = uniform_numbers(samples, self.joint_params.ranking_samples, self.run.seed, step=step)
        return ranking_of(best, uniform, codes, sizes=config.code_sizes)

    def code_sums(self, codes: Tensor) -> CodeSums | None:
        """Sums over the codes of these identifiers (N, T), for a set decoder; kept until the identifiers change."""
        config = self.recommender.config
        if config.decoder == "beam":
            return None
        if self._sums is None or self._sums[0] is not codes:
            self._sums = codes, CodeSums(codes, config.code_sizes)
        return self._sums[1]

    def beam_metrics(self, tokens: Tensor, tree: PrefixTree) -> dict[str, float]:
        """Validation metrics by beam search. tokens: (N, L or 1, E) input tokens of every item."""
        return beam_metrics(
            self.recommender,
            tokens,
            tree,
            sequences=self.sequences,
            users=self.users,
            history=self.joint_params.history,
            beam=self.joint_params.validation_beam,
        )

    def train(
        self,
        name: str,
        losses: Callable[[np.ndarray, int], dict[str, Tensor]],
        validate: Callable[[], dict[str, float]],
        warmup_share: float,
        **fields: Any,
    ) -> Trained:
        """Run the phase to its end. losses, validate and further fields: as in `Phase`."""
        params = self.params
        phase = Phase(
            name=name,
            epochs=params.epochs,
            batches=self.batches,
            losses=losses,
            learning_rate=lambda done: rate_factor(done, warmup_share, params.schedule),
            validate=validate,
            validate_every=params.validate_every,
            patience=params.patience,
            **fields,
        )
        return train(phase, self.engine, self.run)
