"""The last phase: the recommender alone, on the hardened identifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrec.core.distributed import world_size
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.sasrec import SASRec
from unigrec.core.models.unified import decode_targets, embed_hard_history, readable_tokens
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import Sequences
from unigrec.core.training.engine import make_engine, start_process_group
from unigrec.core.training.loop import Phase, Run, Trained, train
from unigrec.core.training.ranking_targets import TeacherRanking, decoder_losses, to_decode
from unigrec.core.training.samples import TrainingSamples, make_samples
from unigrec.core.training.schedules import rate_factor
from unigrec.core.training.student_validation import beam_metrics, hard_tokens, sampled_users

if TYPE_CHECKING:
    from unigrec.config.schema import FinetuneParams, JointParams


def fit_disambiguation(recommender: Recommender, size: int) -> Recommender:
    """The same recommender with room for `size` disambiguation codes; rows beyond the old range start at its mean."""
    old = recommender.config
    if old.disambiguation == size:
        return recommender
    resized = Recommender(type(old)(**(old.to_dict() | {"disambiguation": size})))
    weights = recommender.state_dict()
    first = recommender.offsets[old.levels]
    rows = weights["token_table.weight"][first:]
    missing = max(size - len(rows), 0)
    filled = torch.cat([rows[:size], rows.mean(0, keepdim=True).expand(missing, -1)]) if len(rows) else None
    table = resized.token_table.weight.detach().clone()
    table[:first] = weights["token_table.weight"][:first]
    if filled is not None:
        table[first:] = filled
    resized.load_state_dict(weights | {"token_table.weight": table})
    return resized


def train_finetune(
    sequences: Sequences,
    recommender: Recommender,
    codes: np.ndarray,
    params: FinetuneParams,
    joint_params: JointParams,
    run: Run,
    teacher: SASRec | None = None,
) -> Trained:
    """Train until validation NDCG@10 (unmasked) stops rising; the untouched recommender is a candidate too.

    Args:
        codes: (N, T) hardened identifiers.
        joint_params: history, validation and drawing of items are those of the joint phase.
        teacher: whose ranking is distilled here too, where `params.w_ranking_distillation` asks for it.
    """
    start_process_group(run.device, needed=params.engine == "deepspeed")
    torch.manual_seed(run.seed)
    disambiguation = int(codes[:, -1].max()) + 1 if codes.shape[1] > recommender.config.levels else 0
    model = fit_disambiguation(recommender, disambiguation).to(run.device)
    group = {"params": list(model.parameters()), "lr": params.lr, "weight_decay": params.weight_decay}
    engine = make_engine(params.engine, model, [group], params.batch_size)
    all_codes = torch.as_tensor(codes, device=run.device)
    ranking = None
    if teacher is not None and params.w_ranking_distillation:
        ranking = TeacherRanking(
            teacher.to(run.device), model.config.code_sizes, joint_params.ranking_samples, run.seed
        )
        ranking.read(all_codes)
    tree = PrefixTree(codes, run.device)
    users = sampled_users(sequences, joint_params.validation_users, run.seed)
    training = TrainingSamples(sequences, joint_params.history, model.config.causal)

    def losses(batch: np.ndarray, step: int) -> dict[str, Tensor]:
        samples = make_samples(training[batch], run.device)
        history, codes = all_codes[samples.items[samples.history]], all_codes[samples.targets]
        scale = world_size() / len(samples.batch_targets)
        expected = None if ranking is None else ranking.expect(samples, step)
        logits = hardened_logits(model, history, samples.lengths, samples.counts, to_decode(codes, expected))
        own, drawn = decoder_losses(logits, codes, expected)
        recommendation = own.sum() * scale
        if drawn is None:
            return {"loss": recommendation}
        distillation = drawn.sum() * scale
        total = recommendation + params.w_ranking_distillation * distillation
        return {"loss": total, "recommendation_loss": recommendation, "ranking_distillation_loss": distillation}

    def validate() -> dict[str, float]:
        tokens = hard_tokens(model, all_codes)
        return beam_metrics(model, tokens, tree, sequences, users, joint_params.history, joint_params.validation_beam)

    phase = Phase(
        name="finetune",
        seed=run.seed,
        epochs=params.epochs,
        batches=lambda epoch: training.batches(params.batch_size, run.seed, epoch),
        losses=losses,
        learning_rate=lambda done: rate_factor(done, 0.0, params.schedule),
        validate=validate,
        validate_first=True,
        validate_every=params.validate_every,
        patience=params.patience,
    )
    history = train(phase, engine, run.checkpoints, log=run.log)
    return Trained(model, history)


def hardened_logits(
    model: Recommender, history: Tensor, lengths: Tensor, counts: Tensor, codes: Tensor
) -> list[Tensor]:
    """A (P, R, size) tensor a decoder position, after histories of hardened identifiers.

    history: (B, n, at least L) codes, padded by lengths (B,). counts: (B,) targets of each history, one after each of
    its last items. codes: (P, R, T) to decode.
    """
    levels = model.config.levels
    source, mask = embed_hard_history(model, history[..., :levels], lengths)  # (B, n * L, E), (B, n * L)
    readable, there = readable_tokens(lengths, counts, mask, levels)
    output = decode_targets(model, model.encode(source, mask), readable, there, codes)  # (P, R, T, E)
    return [model.position_logits(output[:, :, position], position) for position in range(codes.shape[2])]
