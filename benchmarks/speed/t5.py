"""The joint model from public parts: the obvious way to build it, as a baseline for ours.

`transformers` runs encoder and decoder. Every history is padded to its full length, every target has its own history,
and the tokenizer runs once per position of each history. Losses, optimizer and clipping are ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from unigrec.core.models.recommender import START, Attention, Recommender, RecommenderConfig
from unigrec.core.models.unified import Asked, JointOutput, UnifiedModel
from unigrec.core.sequences import Segments
from unigrec.core.training.samples import Samples


class PublicParts(nn.Module):
    """Called like a `UnifiedModel`, with `padded_samples`. Starts with the weights of the given one."""

    def __init__(self, ours: UnifiedModel):
        super().__init__()
        config = ours.recommender.config
        assert not config.causal, "T5's encoder is bidirectional"
        self.offsets, self.levels, self.width = ours.recommender.offsets, config.levels, config.d_model
        self.tokenizer = ours.tokenizer
        self.history_to_code, self.teacher_to_code = ours.history_to_code, ours.teacher_to_code
        self.state_to_teacher = ours.state_to_teacher
        self.table = nn.Embedding.from_pretrained(ours.recommender.token_table.weight.detach().clone(), freeze=False)
        self.encoder, self.decoder = t5_stack(config, decoder=False), t5_stack(config, decoder=True)
        with torch.no_grad():
            for theirs, source in self.copied(ours.recommender):
                theirs.copy_(source)

    def copied(self, ours: Recommender) -> list[tuple[Tensor, Tensor]]:
        """Pairs (theirs, ours) of all parameters of the transformer."""
        pairs = [(self.table.weight, ours.token_table.weight)]
        return pairs + stack_pairs(ours.encoder, self.encoder) + stack_pairs(ours.decoder, self.decoder)

    def forward(
        self,
        embeddings: Tensor,
        asked: Asked,
        teacher: Tensor,
        temperature: float,
        autocast: bool = False,
        fixed: Tensor | None = None,
        distillation_temperature: float | None = None,
    ) -> JointOutput:
        """embeddings (P * (n + 1), D): of all positions of all histories, then of the targets; codes (P, 1, T)."""
        history, lengths, codes = asked.history, asked.lengths, asked.codes
        soft = self.tokenizer.quantize_soft(self.tokenizer.encoder(embeddings), temperature)
        reconstructed = self.tokenizer.decode(soft.quantized)
        tables = [self.level_table(level) for level in range(self.levels)]
        tokens = torch.stack([soft.probabilities[:, level] @ table for level, table in enumerate(tables)], dim=1)
        source = tokens[history].flatten(1, 2)  # (P, n * L, E)
        steps = torch.arange(history.shape[1], device=lengths.device)
        mask = (steps < lengths[:, None]).repeat_interleave(self.levels, dim=1)
        rows = codes[:, 0] + torch.tensor(self.offsets[: codes.shape[2]])
        inputs = torch.cat([torch.full((len(rows), 1), START), rows[:, :-1]], dim=1)
        with torch.autocast(embeddings.device.type, torch.bfloat16, enabled=autocast):
            memory = self.encoder(inputs_embeds=source, attention_mask=mask.long()).last_hidden_state
            output = self.decoder(
                inputs_embeds=self.table(inputs),
                encoder_hidden_states=memory,
                encoder_attention_mask=mask.long(),
                use_cache=False,
            ).last_hidden_state
            scaled = output * self.width**-0.5
            logits = [(scaled[:, p] @ self.level_table(p).T).float()[:, None] for p in range(codes.shape[2])]
        history_log_probabilities = teacher_log_probabilities = None
        if distillation_temperature is not None:
            pooled = (memory.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            quantize = self.tokenizer.quantize_soft
            of_history = quantize(self.history_to_code(pooled), distillation_temperature)
            of_teacher = quantize(self.teacher_to_code(teacher), distillation_temperature)
            history_log_probabilities = of_history.log_probabilities
            teacher_log_probabilities = of_teacher.log_probabilities
        return JointOutput(
            logits=logits,
            probabilities=soft.probabilities,
            reconstructed=reconstructed,
            history_log_probabilities=history_log_probabilities,
            teacher_log_probabilities=teacher_log_probabilities,
            student_state=self.state_to_teacher(output[:, 0].float()),
        )

    def level_table(self, position: int) -> Tensor:
        """Rows of the token table for a position: (K, E)."""
        return self.table.weight[self.offsets[position] : self.offsets[position + 1]]


def t5_config(config: RecommenderConfig, **more: Any) -> T5Config:
    """Config of a T5 with the shape of the recommender."""
    return T5Config(
        vocab_size=config.vocabulary,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_heads=config.heads,
        num_layers=config.encoder_layers,
        num_decoder_layers=config.decoder_layers,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=config.max_distance,
        dropout_rate=config.dropout,
        feed_forward_proj="relu",
        **more,
    )


def t5_stack(config: RecommenderConfig, decoder: bool) -> Any:
    """T5's encoder or decoder of that shape. It reads embeddings and has no token table."""
    shape = t5_config(config, is_decoder=decoder, use_cache=False)
    shape.num_layers = config.decoder_layers if decoder else config.encoder_layers
    stack: Any = T5Stack(shape)
    stack.embed_tokens = None
    return stack


def stack_pairs(ours: Any, theirs: Any) -> list[tuple[Tensor, Tensor]]:
    """Pairs (theirs, ours) of all parameters of a stack."""
    first = theirs.block[0].layer[0].SelfAttention
    pairs = [
        (first.relative_attention_bias.weight, ours.position_bias.weight),
        (theirs.final_layer_norm.weight, ours.norm.weight),
    ]
    for layer, block in zip(ours.layers, theirs.block, strict=True):
        pairs += attention_pairs(layer.self_attention, block.layer[0].SelfAttention)
        pairs.append((block.layer[0].layer_norm.weight, layer.self_norm.weight))
        if layer.cross_attention is not None:
            pairs += attention_pairs(layer.cross_attention, block.layer[1].EncDecAttention)
            pairs.append((block.layer[1].layer_norm.weight, layer.cross_norm.weight))
        feed = block.layer[-1]
        pairs.append((feed.layer_norm.weight, layer.feed_norm.weight))
        pairs.append((feed.DenseReluDense.wi.weight, layer.feed_in.weight))
        pairs.append((feed.DenseReluDense.wo.weight, layer.feed_out.weight))
    return pairs


def attention_pairs(ours: Attention, theirs: Any) -> list[tuple[Tensor, Tensor]]:
    return [
        (theirs.q.weight, ours.query.weight),
        (theirs.k.weight, ours.key.weight),
        (theirs.v.weight, ours.value.weight),
        (theirs.o.weight, ours.out.weight),
    ]


def padded_samples(batch: Segments, history: int) -> Samples:
    """Pad a batch of histories with one target each to `history` items. Every position is an item of its own.

    Padded positions run through the tokenizer too, but count in no loss.
    """
    assert (batch.counts == 1).all(), "every target needs its own history"
    rows = len(batch.lengths)
    items = np.zeros((rows, history), np.int64)
    items[:, : batch.items.shape[1]] = batch.items
    mask = np.arange(history) < batch.lengths[:, None]
    targets = torch.as_tensor(batch.targets)
    return Samples(
        items=torch.cat([torch.as_tensor(items).flatten(), targets]),
        occurrences=torch.cat([torch.as_tensor(mask).flatten(), torch.ones(rows, dtype=torch.bool)]).long(),
        history=torch.arange(rows * history).view(rows, history),
        lengths=torch.as_tensor(batch.lengths),
        counts=torch.as_tensor(batch.counts),
        targets=targets,
        positions=batch.positions,
        batch_targets=targets,
        batch_sizes=[rows],
        batch_occurrences=int(batch.lengths.sum()) + rows,
    )
