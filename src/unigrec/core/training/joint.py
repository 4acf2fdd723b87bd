"""The joint phase: tokenizer, recommender and projections end to end, the teacher distilled into both.

Every loss is defined over the global batch: with several ranks the gradients equal those of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.base.errors import TrainingError
from unigrec.core.distributed import gather_rows, global_sum, world_size
from unigrec.core.identifiers.collisions import disambiguate, hard_codes, resolve
from unigrec.core.identifiers.health import identifier_curve
from unigrec.core.losses import contrastive_loss, reconstruction_loss, symmetric_kl, uniformity_loss
from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.sasrec import SASRec
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.models.unified import JointOutput, UnifiedModel
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import Sequences
from unigrec.core.training.engine import make_engine, start_process_group
from unigrec.core.training.loop import Phase, Run, Trained, train
from unigrec.core.training.ranking_targets import Ranking, TeacherRanking, decoder_losses, to_decode
from unigrec.core.training.samples import Samples, TrainingSamples, make_samples
from unigrec.core.training.schedules import rate_factor, temperature_at
from unigrec.core.training.student_validation import beam_metrics, hard_tokens, sampled_users, soft_tokens

if TYPE_CHECKING:
    from unigrec.config.schema import JointParams


class JointData(NamedTuple):
    """What the joint phase learns from."""

    sequences: Sequences
    embeddings: Tensor  # (N, D) item embeddings
    teacher: Tensor  # (N, teacher dimension) the teacher's item embeddings
    ranker: SASRec | None = None  # the teacher itself, where its ranking is distilled too
    earlier: np.ndarray | None = None  # (N, L) identifiers of the bundle that this training starts from, -1 for none


def disambiguation_room(codes: np.ndarray) -> int:
    """Table rows for the disambiguation code while identifiers may still move: twice today's need, at least 8."""
    return max(2 * disambiguate(codes, np.zeros(len(codes))).disambiguation, 8)


def new_unified(
    tokenizer: Tokenizer,
    codes: np.ndarray,
    params: JointParams,
    teacher_dim: int,
    resolution: str,
    recommender: Recommender | None = None,
) -> UnifiedModel:
    """A recommender around a pre-trained tokenizer. codes: (N, L) today's hard codes.

    recommender: a trained one to go on from; without it, an untrained one of the size that params ask for.
    """
    if recommender is not None:
        return UnifiedModel(tokenizer, recommender, teacher_dim)
    config = RecommenderConfig(
        **params.recommender.model_dump(),
        levels=tokenizer.levels,
        codebook_size=tokenizer.codebook_size,
        disambiguation=0 if resolution == "reassign" else disambiguation_room(codes),
    )
    recommender = Recommender(config)
    recommender.start_from_codebooks(tokenizer.codebooks.detach().cpu())
    return UnifiedModel(tokenizer, recommender, teacher_dim)


def joint_losses(
    model: torch.nn.Module,
    samples: Samples,
    codes: Tensor,
    data: JointData,
    params: JointParams,
    temperature: float,
    distil: bool,
    ranking: Ranking | None = None,
    fixed: Tensor | None = None,
) -> dict[str, Tensor]:
    """All losses of a batch; `loss` is their weighted sum, scaled so that its gradient averaged over ranks is the whole
    batch's.

    Args:
        model: a UnifiedModel, or an engine around one. codes: (B_local, T) codes of the targets.
        temperature: of the soft identifiers. distil: whether the distillation losses have joined already.
        ranking: what the teacher would recommend, where that is distilled too.
        fixed: (M, L, K) identifiers of the samples' distinct items, where the tokenizer is not trained.
    """
    embeddings = data.embeddings[samples.items]
    output: JointOutput = model(
        embeddings,
        samples.history,
        samples.lengths,
        samples.counts,
        to_decode(codes, ranking),
        data.teacher[samples.targets],
        temperature,
        params.precision == "bf16",
        fixed,
        params.distillation_temperature if distil and params.w_tokenizer_distillation > 0 else None,
    )
    size, ranks = len(samples.batch_targets), world_size()
    own, drawn = decoder_losses(output.logits, codes, ranking)
    losses = {"recommendation_loss": own.sum() * ranks / size}
    if output.reconstructed is not None:
        share = samples.occurrences / samples.batch_occurrences  # (M,) weight of each distinct item in the global batch
        losses["reconstruction_loss"] = (share * reconstruction_loss(output.reconstructed, embeddings)).sum() * ranks
        mean_assignment = global_sum(torch.einsum("m,mlk->lk", share, output.probabilities))
        losses["uniformity_loss"] = uniformity_loss(mean_assignment)
    if output.history_log_probabilities is not None and output.teacher_log_probabilities is not None:
        divergence = symmetric_kl(output.history_log_probabilities, output.teacher_log_probabilities)
        losses["tokenizer_distillation_loss"] = divergence.sum() * ranks / size
    if distil and params.w_recommender_distillation > 0:
        states = gather_rows(output.student_state, samples.batch_sizes)
        targets = samples.batch_targets
        contrast = contrastive_loss(states, data.teacher[targets], targets, params.contrast_temperature)
        losses["recommender_distillation_loss"] = contrast
    if drawn is not None:
        losses["ranking_distillation_loss"] = drawn.sum() * ranks / size
    weights = loss_weights(params)
    total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
    return {"loss": total, **losses}


def loss_weights(params: JointParams) -> dict[str, float]:
    """What each loss counts in the sum."""
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
    """What a tokenizer that is not trained gives the recommender to read: (M, D) -> (M, L, K), soft or one-hot."""
    latent = tokenizer.encoder(embeddings)
    if hard:
        return F.one_hot(tokenizer.quantize_hard(latent).codes, tokenizer.codebook_size).to(latent.dtype)
    return tokenizer.quantize_soft(latent, temperature).probabilities


def parameter_groups(model: UnifiedModel, params: JointParams) -> list[dict[str, Any]]:
    """What is trained, the tokenizer (where it is) apart: its learning rate is smaller by orders of magnitude."""
    tokenizer = list(model.tokenizer.parameters())
    inside = {id(parameter) for parameter in tokenizer}
    rest = [p for p in model.parameters() if id(p) not in inside and p.requires_grad]
    groups = [{"params": rest, "lr": params.recommender_lr, "weight_decay": params.weight_decay}]
    if params.tokenizer == "trained":
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

    recommender: a trained one to go on from, made for identifiers as the tokenizer gives them.
    """
    start_process_group(run.device, needed=params.engine == "deepspeed")
    torch.manual_seed(run.seed)
    data = data._replace(embeddings=data.embeddings.to(run.device), teacher=data.teacher.to(run.device))
    tokenizer = tokenizer.to(run.device)
    popularity = data.sequences.train_counts()
    first_codes = hard_codes(tokenizer, data.embeddings)
    model = new_unified(tokenizer, first_codes, params, data.teacher.shape[1], resolution, recommender).to(run.device)
    model.fit_teacher_projection(data.embeddings, data.teacher)
    engine = make_engine(params.engine, model, parameter_groups(model, params), params.batch_size)
    training = TrainingSamples(data.sequences, params.history, model.recommender.config.causal)
    room = model.recommender.config.disambiguation
    ranking = None
    if data.ranker is not None and params.w_ranking_distillation:
        sizes = model.recommender.config.code_sizes
        ranking = TeacherRanking(data.ranker.to(run.device), sizes, params.ranking_samples, run.seed)
    state: dict[str, Tensor] = {}

    def identifiers() -> np.ndarray:
        """(N, T) today's identifiers, as far as the decoder's table has room for them."""
        resolved = resolve(tokenizer, data.embeddings, popularity, resolution, data.earlier)
        if resolved.disambiguation > room:
            raise TrainingError(
                f"joint: {resolved.disambiguation} items share one semantic ID, more than twice as many as at the "
                "start: the codebooks are collapsing; lower joint.tokenizer_lr, or raise joint.reconstruction_weight"
            )
        return resolved.codes

    def start_epoch(epoch: int) -> dict[str, float]:
        """Re-read the target codes from today's tokenizer, and let the temperature fall."""
        done = epoch / max(params.epochs - 1, 1)
        at = temperature_at(done, params.temperature_start, params.temperature_end)
        state["codes"] = torch.as_tensor(identifiers(), device=run.device)
        state["temperature"] = torch.tensor(at, dtype=torch.float64)
        return {"temperature": at}

    def end_epoch(epoch: int) -> dict[str, float]:
        """How the identifiers are by now, and how many have moved since the joint phase began."""
        return identifier_curve(tokenizer, data.embeddings, float(state["temperature"]), first_codes)

    def losses(batch: np.ndarray, step: int) -> dict[str, Tensor]:
        samples = make_samples(training[batch], run.device)
        distil = step >= params.distillation_warmup_epochs * steps_per_epoch
        codes, temperature = state["codes"][samples.targets], float(state["temperature"])
        fixed = expected = None
        if params.tokenizer != "trained":
            hard = params.tokenizer == "hard"
            fixed = fixed_identifiers(tokenizer, data.embeddings[samples.items], temperature, hard)
        if ranking is not None:
            ranking.read(state["codes"])
            expected = ranking.expect(samples, step)
        return joint_losses(engine.forward, samples, codes, data, params, temperature, distil, expected, fixed)

    def validate() -> dict[str, float]:
        codes = identifiers()
        if params.tokenizer == "hard":
            tokens = hard_tokens(model.recommender, torch.as_tensor(codes, device=run.device))
        else:
            tokens = soft_tokens(tokenizer, model.recommender, data.embeddings, float(state["temperature"]))
        tree = PrefixTree(codes, run.device)
        return beam_metrics(
            model.recommender, tokens, tree, data.sequences, users, params.history, params.validation_beam
        )

    users = sampled_users(data.sequences, params.validation_users, run.seed)
    steps_per_epoch = len(training.batches(params.batch_size, run.seed, 0))
    phase = Phase(
        name="joint",
        seed=run.seed,
        epochs=params.epochs,
        batches=lambda epoch: training.batches(params.batch_size, run.seed, epoch),
        losses=losses,
        learning_rate=lambda done: rate_factor(done, params.warmup_share, params.schedule),
        validate=validate,
        start_epoch=start_epoch,
        end_epoch=end_epoch,
        state=state,
        validate_every=params.validate_every,
        patience=params.patience,
    )
    history = train(phase, engine, run.checkpoints, log=run.log)
    return Trained(model, history)
