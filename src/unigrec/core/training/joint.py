"""The joint phase trains tokenizer, recommender and projections end to end and distils the teacher into both.

Every loss is defined over the global batch: the gradients of several ranks equal those of one rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrec.base.errors import TrainingError
from unigrec.core.distributed import gather_rows, global_sum, world_size
from unigrec.core.identifiers.collisions import disambiguate, hard_codes, resolve
from unigrec.core.identifiers.health import identifier_curve
from unigrec.core.losses import contrastive_loss, reconstruction_loss, symmetric_kl, uniformity_loss
from unigrec.core.models.ensemble import Teacher
from unigrec.core.models.item_scores import CodeSums
from unigrec.core.models.recommender import Recommender, RecommenderConfig, fit_disambiguation
from unigrec.core.models.repeat_bias import parameter_groups
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.models.unified import JointOutput, UnifiedModel
from unigrec.core.models.vectors import Vectors
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import Sequences
from unigrec.core.training.engine import make_engine, start_process_group
from unigrec.core.training.loop import Run, Trained
from unigrec.core.training.ranking_targets import Ranking, codes_to_decode, student_losses
from unigrec.core.training.samples import Samples
from unigrec.core.training.schedules import temperature_at
from unigrec.core.training.student import StudentTraining
from unigrec.core.training.student_validation import hard_tokens, soft_tokens
from unigrec.core.training.teacher_items import Best

if TYPE_CHECKING:
    from unigrec.config.schema import JointParams, RecommenderParams


class JointData(NamedTuple):
    """The data of the joint phase."""

    sequences: Sequences
    embeddings: Vectors  # (N, D) what the tokenizer reads of the items
    teacher: Tensor  # (N, teacher dimension) the teacher's item embeddings
    ranker: Teacher | None = None  # the teacher itself, if its ranking is distilled too
    earlier: np.ndarray | None = None  # (N, L) identifiers of the bundle that a warm start continues; -1: none


def disambiguation_room(codes: np.ndarray) -> int:
    """Size of the disambiguation range while identifiers may change: twice today's need, at least 8."""
    return max(2 * disambiguate(codes, np.zeros(len(codes))).disambiguation, 8)


def recommender_config(tokenizer: Tokenizer, params: RecommenderParams, disambiguation: int) -> RecommenderConfig:
    """The shape that params ask for, for the identifiers of a tokenizer."""
    return RecommenderConfig(
        **params.model_dump(exclude={"item_vectors"}),
        vector_width=tokenizer.embedding_dim if params.item_vectors else 0,
        levels=tokenizer.levels,
        codebook_size=tokenizer.codebook_size,
        disambiguation=disambiguation,
    )


def new_unified(
    tokenizer: Tokenizer,
    codes: np.ndarray,
    params: JointParams,
    teacher_dim: int,
    resolution: str,
    recommender: Recommender | None = None,
) -> UnifiedModel:
    """A recommender around a pre-trained tokenizer. codes: (N, L) today's hard codes.

    recommender: a trained one to continue from. None: an untrained one of the size that params ask for.
    """
    room = 0 if resolution == "reassign" else disambiguation_room(codes)
    if recommender is not None:
        # Finetuning left it room for the items of that time alone.
        resized = fit_disambiguation(recommender, max(recommender.config.disambiguation, room))
        return UnifiedModel(tokenizer, resized, teacher_dim)
    recommender = Recommender(recommender_config(tokenizer, params.recommender, room))
    recommender.start_from_codebooks(tokenizer.codebooks.detach().cpu())
    return UnifiedModel(tokenizer, recommender, teacher_dim)


def joint_losses(
    model: nn.Module,
    samples: Samples,
    identifiers: Tensor,
    data: JointData,
    params: JointParams,
    temperature: float,
    distil: bool,
    ranking: Ranking | Best | None = None,
    fixed: Tensor | None = None,
    sums: CodeSums | None = None,
) -> dict[str, Tensor]:
    """All losses of a batch; `loss` is their weighted sum. Its gradient, averaged over ranks, is the global batch's.

    Args:
        model: a UnifiedModel, or an engine around one. identifiers: (N, T) codes of every item.
        temperature: of the soft identifiers. distil: whether the distillation losses are part of the sum already.
        ranking: the teacher's, if it is distilled too.
        fixed: (M, L, K) identifiers of the samples' distinct items, if the tokenizer is not trained.
        sums: over the identifiers' codes, for a set decoder.
    """
    embeddings = data.embeddings[samples.items]
    distil_tokenizer = distil and params.w_tokenizer_distillation > 0
    output: JointOutput = model(
        embeddings,
        samples.asked(codes_to_decode(identifiers[samples.targets], ranking), identifiers),
        teacher=data.teacher[samples.targets],
        temperature=temperature,
        autocast=params.precision == "bf16",
        fixed=fixed,
        distillation_temperature=params.distillation_temperature if distil_tokenizer else None,
    )
    size, ranks = len(samples.batch_targets), world_size()
    of_targets, of_sampled = student_losses(output.logits, samples.targets, identifiers, sums, ranking)
    losses = {"recommendation_loss": samples.weighted(of_targets).sum() * ranks / size}
    if output.reconstructed is not None:
        share = samples.occurrences / samples.batch_occurrences  # (M,) weight of each distinct item in the global batch
        losses["reconstruction_loss"] = (share * reconstruction_loss(output.reconstructed, embeddings)).sum() * ranks
        mean_assignment = global_sum(torch.einsum("m,mlk->lk", share, output.probabilities))
        losses["uniformity_loss"] = uniformity_loss(mean_assignment)
    if output.history_log_probabilities is not None and output.teacher_log_probabilities is not None:
        divergence = symmetric_kl(output.history_log_probabilities, output.teacher_log_probabilities)
        losses["tokenizer_distillation_loss"] = samples.weighted(divergence).sum() * ranks / size
    if distil and params.w_recommender_distillation > 0:
        states = gather_rows(output.student_state, samples.batch_sizes)
        targets = samples.batch_targets
        losses["recommender_distillation_loss"] = contrastive_loss(
            states,
            data.teacher[targets],
            targets,
            temperature=params.contrast_temperature,
            weights=samples.batch_weights,
        )
    if of_sampled is not None:
        losses["ranking_distillation_loss"] = samples.weighted(of_sampled).sum() * ranks / size
    weights = loss_weights(params)
    total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
    return {"loss": total, **losses}


def loss_weights(params: JointParams) -> dict[str, float]:
    """The weight of each loss in the sum."""
    return {
        "recommendation_loss": 1.0,
        "reconstruction_loss": params.reconstruction_weight,
        "uniformity_loss": params.uniformity_weight,
        "tokenizer_distillation_loss": params.w_tokenizer_distillation,
        "recommender_distillation_loss": params.w_recommender_distillation,
        "ranking_distillation_loss": params.w_ranking_distillation,
    }


@torch.no_grad()
def fixed_identifiers(tokenizer: Tokenizer, embeddings: Tensor, temperature: float, hard: bool) -> Tensor:
    """The recommender's input if the tokenizer is not trained: embeddings (M, D) -> (M, L, K), soft or one-hot."""
    latent = tokenizer.encoder(embeddings)
    if hard:
        return F.one_hot(tokenizer.quantize_hard(latent).codes, tokenizer.codebook_size).to(latent.dtype)
    return tokenizer.quantize_soft(latent, temperature).probabilities


def trained_groups(model: UnifiedModel, params: JointParams) -> list[dict[str, Any]]:
    """What is trained. The tokenizer is a group of its own: its learning rate is smaller by orders of magnitude."""
    parts = nn.ModuleList(part for part in model.children() if part is not model.tokenizer)
    groups = parameter_groups(parts, lr=params.recommender_lr, weight_decay=params.weight_decay)
    if params.tokenizer == "trained":
        tokenizer = list(model.tokenizer.parameters())
        groups.append({"params": tokenizer, "lr": params.tokenizer_lr, "weight_decay": params.weight_decay})
    return groups


def train_joint(
    data: JointData,
    tokenizer: Tokenizer,
    params: JointParams,
    resolution: str,
    run: Run,
    recommender: Recommender | None = None,
) -> Trained:
    """Train until validation NDCG@10 (unmasked, soft identifiers as input) stops rising, and keep the best weights.

    recommender: a trained one to continue from, trained on identifiers of this tokenizer.
    """
    start_process_group(run.device, needed=params.engine == "deepspeed")
    torch.manual_seed(run.seed)
    data = data._replace(embeddings=data.embeddings.to(run.device), teacher=data.teacher.to(run.device))
    tokenizer = tokenizer.to(run.device)
    codes = hard_codes(tokenizer, data.embeddings)
    width = data.teacher.shape[1]
    model = new_unified(tokenizer, codes, params, teacher_dim=width, resolution=resolution, recommender=recommender)
    model = model.to(run.device)
    model.fit_teacher_projection(data.embeddings, data.teacher)
    student = StudentTraining(
        engine=make_engine(params.engine, model, trained_groups(model, params), batch_size=params.batch_size),
        recommender=model.recommender,
        sequences=data.sequences,
        params=params,
        joint_params=params,
        run=run,
        teacher=data.ranker,
    )
    training = JointTraining(student, params, tokenizer, data=data, first_codes=codes, resolution=resolution)
    return student.train(
        "joint",
        training.losses,
        training.validate,
        warmup_share=params.warmup_share,
        start_epoch=training.start_epoch,
        end_epoch=training.end_epoch,
        state=training.state,
        load_state=training.load_state,
    )


@dataclass
class JointTraining:
    """The joint phase while it runs.

    Target codes and temperature are set at the start of an epoch and hold until its end, so a checkpoint has both.
    """

    student: StudentTraining
    params: JointParams
    tokenizer: Tokenizer
    data: JointData
    first_codes: np.ndarray  # (N, L) hard codes at the start of the phase
    resolution: str
    codes: Tensor = field(init=False)  # (N, T) target codes of the current epoch
    temperature: float = field(init=False)  # of its soft identifiers

    def __post_init__(self) -> None:
        self.device = self.student.run.device
        self.popularity = self.data.sequences.train_counts()
        self.distillation_start = self.params.distillation_warmup_epochs * len(self.student.batches(0))  # a step

    def identifiers(self) -> np.ndarray:
        """(N, T) today's identifiers. Raises TrainingError when the decoder's table has no room for them."""
        resolved = resolve(
            self.tokenizer,
            self.data.embeddings,
            self.popularity,
            resolution=self.resolution,
            earlier=self.data.earlier,
        )
        if resolved.disambiguation > self.student.recommender.config.disambiguation:
            raise TrainingError(
                f"joint: {resolved.disambiguation} items share one semantic ID, more than twice as many as at the "
                "start: the codebooks are collapsing; lower joint.tokenizer_lr, or raise joint.reconstruction_weight"
            )
        return resolved.codes

    def start_epoch(self, epoch: int) -> dict[str, float]:
        """Read the target codes from today's tokenizer, and lower the temperature."""
        done = epoch / max(self.params.epochs - 1, 1)
        self.codes = torch.as_tensor(self.identifiers(), device=self.device)
        self.temperature = temperature_at(done, self.params.temperature_start, self.params.temperature_end)
        return {"temperature": self.temperature}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Figures of today's identifiers, and how many have changed since the start of the phase."""
        return identifier_curve(self.tokenizer, self.data.embeddings, self.temperature, first_codes=self.first_codes)

    def state(self) -> dict[str, Tensor]:
        return {"codes": self.codes, "temperature": torch.tensor(self.temperature, dtype=torch.float64)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.codes, self.temperature = tensors["codes"].to(self.device), float(tensors["temperature"])

    def losses(self, batch: np.ndarray, step: int) -> dict[str, Tensor]:
        samples = self.student.samples(batch, step)
        fixed = None
        if self.params.tokenizer != "trained":
            embeddings, hard = self.data.embeddings[samples.items], self.params.tokenizer == "hard"
            fixed = fixed_identifiers(self.tokenizer, embeddings, self.temperature, hard=hard)
        return joint_losses(
            self.student.engine.forward,
            samples,
            self.codes,
            data=self.data,
            params=self.params,
            temperature=self.temperature,
            distil=step >= self.distillation_start,
            ranking=self.student.ranking_targets(samples, self.codes, step),
            fixed=fixed,
            sums=self.student.code_sums(self.codes),
        )

    def validate(self) -> dict[str, float]:
        codes, recommender = self.identifiers(), self.student.recommender
        if self.params.tokenizer == "hard":
            tokens = hard_tokens(recommender, torch.as_tensor(codes, device=self.device), self.data.embeddings)
        else:
            tokens = soft_tokens(self.tokenizer, recommender, self.data.embeddings, temperature=self.temperature)
        return self.student.beam_metrics(tokens, PrefixTree(codes, self.device))
