"""The recommender equals transformers' T5 with copied weights: outputs, logits, gradients, and cached decoding."""

from __future__ import annotations

import pytest
import torch
from benchmarks.speed.t5 import stack_pairs
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from support.small import padded, small_recommender
from unigrec.core.losses import recommendation_loss
from unigrec.core.models.inference import InferenceRecommender
from unigrec.core.models.recommender import START, Recommender, relative_bucket
from unigrec.core.retrieval.decoder_cache import DecoderCache

WIDTH = 30  # source tokens: with 8 buckets up to distance 12, every kind of bucket occurs
LENGTHS = [30, 17, 1]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # T5 normalises in single precision, even with weights in double precision
CODES = torch.tensor([[3, 0, 2, 1], [1, 1, 3, 0], [0, 2, 0, 4]])


def pair() -> tuple[Recommender, T5ForConditionalGeneration]:
    """Our recommender and T5 with its weights, both in double precision."""
    ours = small_recommender(disambiguation=5, buckets=8, max_distance=12).double()
    for name, parameter in ours.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    shape = ours.config
    theirs = T5ForConditionalGeneration(
        T5Config(
            vocab_size=shape.vocabulary,
            d_model=shape.d_model,
            d_kv=shape.d_kv,
            d_ff=shape.d_ff,
            num_heads=shape.heads,
            num_layers=shape.encoder_layers,
            num_decoder_layers=shape.decoder_layers,
            relative_attention_num_buckets=shape.buckets,
            relative_attention_max_distance=shape.max_distance,
            dropout_rate=0.0,
            feed_forward_proj="relu",
            tie_word_embeddings=True,
            decoder_start_token_id=START,
            pad_token_id=START,
        )
    )
    theirs = theirs.double().eval()
    with torch.no_grad():
        for target, source in copied(ours, theirs):
            target.copy_(source)
    return ours, theirs


def copied(ours: Recommender, theirs: T5ForConditionalGeneration) -> list[tuple[Tensor, Tensor]]:
    """(theirs, ours) of every parameter."""
    pairs = [(theirs.shared.weight, ours.token_table.weight)]
    for stack, other in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
        pairs += stack_pairs(stack, other)
    assert len(pairs) == len(list(ours.parameters())), "every parameter is compared"
    return pairs


def source_and_mask() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, WIDTH, 12, dtype=torch.float64), padded(LENGTHS, WIDTH)


def decoder_input(ours: Recommender) -> Tensor:
    """Table rows that T5 reads: start, then all codes but the last."""
    rows = CODES + torch.tensor(ours.offsets[:4])
    return torch.cat([torch.full((3, 1), START), rows[:, :-1]], dim=1)


def test_encoder_output_equals_t5_at_every_real_token():
    ours, theirs = pair()
    source, mask = source_and_mask()
    expected = theirs.encoder(inputs_embeds=source, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours.encode(source, mask)[mask], expected[mask], **CLOSE)


def test_decoder_output_and_logits_of_each_position_equal_t5():
    ours, theirs = pair()
    source, mask = source_and_mask()
    output = ours.decode(ours.encode(source, mask), mask, CODES[:, None])[:, 0]
    expected = theirs(
        inputs_embeds=source,
        attention_mask=mask.long(),
        decoder_input_ids=decoder_input(ours),
        output_hidden_states=True,
    )
    torch.testing.assert_close(output, expected.decoder_hidden_states[-1], **CLOSE)
    for position in range(4):
        low, high = ours.offsets[position], ours.offsets[position + 1]
        torch.testing.assert_close(
            ours.position_logits(output[:, position], position), expected.logits[:, position, low:high], **CLOSE
        )


def test_gradients_of_the_recommendation_loss_equal_those_of_t5():
    ours, theirs = pair()
    source, mask = source_and_mask()
    output = ours.decode(ours.encode(source, mask), mask, CODES[:, None])[:, 0]
    logits = [ours.position_logits(output[:, position], position) for position in range(4)]
    recommendation_loss([scores.float() for scores in logits], CODES).sum().backward()
    scores = theirs(inputs_embeds=source, attention_mask=mask.long(), decoder_input_ids=decoder_input(ours)).logits
    ranges = [scores[:, p, ours.offsets[p] : ours.offsets[p + 1]].float() for p in range(4)]
    recommendation_loss(ranges, CODES).sum().backward()
    for number, (expected, parameter) in enumerate(copied(ours, theirs)):
        assert parameter.grad is not None, number
        torch.testing.assert_close(parameter.grad, expected.grad, **CLOSE)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 12)])
def test_relative_buckets_equal_those_of_t5(bidirectional: bool, buckets: int, max_distance: int):
    distance = torch.arange(-300, 301)
    _, theirs = pair()
    attention = theirs.encoder.block[0].layer[0].SelfAttention
    expected = attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
    assert torch.equal(relative_bucket(distance, bidirectional, buckets, max_distance), expected)


def test_cached_decoding_of_reordered_beams_equals_t5_teacher_forcing():
    ours, theirs = pair()
    source, mask = source_and_mask()
    beams = torch.stack([CODES, CODES.flip(0), CODES.roll(1, 0)], dim=1)  # (3 users, 3 beams, 4 codes)
    order = torch.tensor([2, 0, 1])
    expected = [
        theirs.decoder(
            input_ids=torch.cat([torch.full((3, 1), START), beams[user, :, :3] + torch.tensor(ours.offsets[:3])], 1),
            encoder_hidden_states=ours.encode(source, mask)[user].expand(3, -1, -1),
            encoder_attention_mask=mask[user].expand(3, -1).long(),
        ).last_hidden_state
        for user in range(3)
    ]
    with torch.no_grad():
        cache = DecoderCache(InferenceRecommender(ours), ours.encode(source, mask), mask)
        output = ours.decoder.norm(cache.step(ours.token_table.weight[START].expand(3, 1, -1)))
        torch.testing.assert_close(output[:, 0], torch.stack([one[0, 0] for one in expected]), **CLOSE)
        cache.reorder(torch.zeros(3, 3, dtype=torch.long))  # one beam becomes three
        for position in range(3):
            output = ours.decoder.norm(cache.step(ours.token_table(beams[:, :, position] + ours.offsets[position])))
            torch.testing.assert_close(output, torch.stack([one[:, position + 1] for one in expected]), **CLOSE)
            cache.reorder(order.expand(3, -1))
            beams, expected = beams[:, order], [one[order] for one in expected]
