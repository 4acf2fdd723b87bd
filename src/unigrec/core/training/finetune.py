"""The last phase trains the recommender alone, on the hardened identifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrec.core.distributed import world_size
from unigrec.core.models.ensemble import Teacher
from unigrec.core.models.item_scores import ItemScores
from unigrec.core.models.recommender import Recommender, fit_disambiguation
from unigrec.core.models.repeat_bias import parameter_groups
from unigrec.core.models.unified import answered
from unigrec.core.models.vectors import Vectors
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import Sequences
from unigrec.core.training.engine import make_engine, start_process_group
from unigrec.core.training.loop import Run, Trained
from unigrec.core.training.ranking_targets import codes_to_decode, student_losses
from unigrec.core.training.samples import Samples
from unigrec.core.training.student import StudentTraining
from unigrec.core.training.student_validation import hard_tokens

if TYPE_CHECKING:
    from unigrec.config.schema import FinetuneParams, JointParams


def train_finetune(
    sequences: Sequences,
    recommender: Recommender,
    codes: np.ndarray,
    params: FinetuneParams,
    joint_params: JointParams,
    run: Run,
    teacher: Teacher | None = None,
    vectors: Vectors | None = None,
) -> Trained:
    """Train until validation NDCG@10 (unmasked) stops rising. The recommender as given is a candidate too.

    Args:
        codes: (N, T) hardened identifiers.
        joint_params: history, validation and sampling of items are those of the joint phase.
        teacher: its ranking is distilled if `params.w_ranking_distillation` is above zero.
        vectors: (N, vector_width) of the items; None for a recommender that reads codes alone.
    """
    start_process_group(run.device, needed=params.engine == "deepspeed")
    torch.manual_seed(run.seed)
    disambiguation = int(codes[:, -1].max()) + 1 if codes.shape[1] > recommender.config.levels else 0
    model = fit_disambiguation(recommender, disambiguation).to(run.device)
    groups = parameter_groups(model, lr=params.lr, weight_decay=params.weight_decay)
    student = StudentTraining(
        engine=make_engine(params.engine, model, groups, batch_size=params.batch_size),
        recommender=model,
        sequences=sequences,
        params=params,
        joint_params=joint_params,
        run=run,
        teacher=teacher,
    )
    on_device = torch.as_tensor(codes, device=run.device)
    vectors = None if vectors is None else vectors.to(run.device)
    finetuning = _Finetuning(student, params, on_device, vectors, tree=PrefixTree(codes, run.device))
    return student.train("finetune", finetuning.losses, finetuning.validate, warmup_share=0.0, validate_first=True)


@dataclass
class _Finetuning:
    """Finetuning while it runs."""

    student: StudentTraining
    params: FinetuneParams
    codes: Tensor  # (N, T) hardened identifiers
    vectors: Vectors | None  # (N, vector_width), if the recommender reads them
    tree: PrefixTree  # of these identifiers

    def losses(self, batch: np.ndarray, step: int) -> dict[str, Tensor]:
        samples = self.student.samples(batch, step)
        scale = world_size() / len(samples.batch_targets)
        ranking = self.student.ranking_targets(samples, self.codes, step)
        codes = codes_to_decode(self.codes[samples.targets], ranking)
        logits = hardened_logits(self.student.recommender, samples, self.codes, codes, self.vectors)
        of_targets, of_sampled = student_losses(
            logits, samples.targets, self.codes, self.student.code_sums(self.codes), ranking
        )
        recommendation = samples.weighted(of_targets).sum() * scale
        if of_sampled is None:
            return {"loss": recommendation}
        distillation = samples.weighted(of_sampled).sum() * scale
        total = recommendation + self.params.w_ranking_distillation * distillation
        return {"loss": total, "recommendation_loss": recommendation, "ranking_distillation_loss": distillation}

    def validate(self) -> dict[str, float]:
        tokens = hard_tokens(self.student.recommender, self.codes, self.vectors)
        return self.student.beam_metrics(tokens, self.tree)


def hardened_logits(
    model: Recommender, samples: Samples, identifiers: Tensor, codes: Tensor, vectors: Vectors | None = None
) -> list[Tensor] | ItemScores:
    """What `student_logits` returns, after histories of hardened identifiers.

    identifiers: (N, T) of every item. codes: (P, R, T) identifiers to decode. vectors: as in `train_finetune`.
    """
    of_levels = model.embed_codes(identifiers[samples.items, : model.config.levels])  # (M, L, E)
    tokens = model.item_tokens(of_levels, None if vectors is None else vectors[samples.items])
    return answered(model, tokens, samples.asked(codes, identifiers)).logits
