"""Sublayers with our own backward pass equal torch's operators, in values and in gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from support.small import padded, random_sequences, small_recommender, small_tokenizer
from unigrec.core.models.cpu import blocked, fused
from unigrec.core.models.cpu.operators import draw_dropout_mask, row_buffer
from unigrec.core.models.unified import UnifiedModel
from unigrec.core.training.samples import make_samples

B, T, S, E, H, D, F = 3, 5, 7, 12, 2, 8, 20
LENGTHS = [5, 1, 3]


def check(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *given: Tensor, seed: int = 0) -> None:
    """Assert equal values and gradients. Both functions draw their dropout from the same seed."""
    upstream, results = torch.randn_like(given[0]), []
    for function in (ours, plain):
        inputs = [tensor.clone().requires_grad_() for tensor in given]
        torch.manual_seed(seed)
        found = function(*inputs)
        found.backward(upstream)
        results.append([found.detach(), *(tensor.grad for tensor in inputs)])
    for one, other in zip(*results, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def dropped(values: Tensor, p: float) -> Tensor:
    return values if p == 0.0 else values * draw_dropout_mask(values.shape, p) / (1.0 - p)


def normed(hidden: Tensor, gain: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(hidden, gain.shape, gain, 1e-6)


def attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, p: float) -> Tensor:
    """query (B, T, H, d), key and value (B, S, H, d), bias (B or 1, H or 1, T or 1, S) -> (B, T, H, d)."""
    scores = torch.einsum("bthd,bshd->hbts", query, key) + bias.transpose(0, 1)
    return torch.einsum("hbts,bshd->bthd", dropped(scores.softmax(-1), p), value)


def padding_bias(width: int) -> Tensor:
    """(B, 1, 1, width), minus infinity where no token exists."""
    mask = padded(LENGTHS, width)
    return torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))[:, None, None]


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_feed_forward(p):
    torch.manual_seed(1)

    def plain(hidden: Tensor, gain: Tensor, inner: Tensor, out: Tensor) -> Tensor:
        activation = (normed(hidden, gain) @ inner.T).relu().flatten(0, 1)
        dropout_mask = draw_dropout_mask(torch.Size([len(row_buffer(B * T, F, torch.float32)), F]), p)[: B * T] / (
            1.0 - p
        )
        return hidden + dropped((activation * dropout_mask).view(B, T, F) @ out.T, p)

    given = torch.randn(B, T, E), torch.rand(E) + 0.5, torch.randn(F, E), torch.randn(E, F)
    check(lambda *inputs: fused.feed_forward(*inputs, p), plain, *given)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_over_padded_rows(p, causal):
    torch.manual_seed(1)
    hidden_from = padding_bias(T)
    if causal:
        hidden_from = hidden_from + torch.full((T, T), float("-inf")).triu(1)

    def plain(hidden: Tensor, gain: Tensor, weight: Tensor, out: Tensor, position: Tensor) -> Tensor:
        parts = (normed(hidden, gain) @ weight.T).view(B, T, 3, H, D).unbind(2)
        context = attended(*parts, position + hidden_from, p)
        return hidden + dropped(context.flatten(2) @ out.T, p)

    def ours(hidden: Tensor, gain: Tensor, weight: Tensor, out: Tensor, position: Tensor) -> Tensor:
        return fused.attention(hidden, None, gain, weight, out, position + hidden_from, H, p)

    given = torch.randn(B, T, E), torch.rand(E) + 0.5, torch.randn(3 * H * D, E) / 4, torch.randn(E, H * D)
    check(ours, plain, *given, torch.randn(1, H, T, T))


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_over_keys_and_values(p):
    torch.manual_seed(1)

    def plain(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor, bias: Tensor) -> Tensor:
        query = (normed(hidden, gain) @ weight.T).view(B, T, H, D)
        context = attended(query, *memory.unbind(2), bias + padding_bias(S), p)
        return hidden + dropped(context.flatten(2) @ out.T, p)

    def ours(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor, bias: Tensor) -> Tensor:
        return fused.attention(hidden, memory, gain, weight, out, bias + padding_bias(S), H, p)

    given = torch.randn(B, T, E), torch.randn(B, S, 2, H, D), torch.rand(E) + 0.5, torch.randn(H * D, E) / 4
    check(ours, plain, *given, torch.randn(E, H * D), torch.randn(B, H, T, S))


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_over_a_memory_that_is_key_and_value_of_every_head(p):
    torch.manual_seed(1)

    def plain(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        query = (normed(hidden, gain) @ weight.T).view(B, T * H, 1, E)
        context = attended(query, memory[:, :, 0], memory[:, :, 0], padding_bias(S), p)
        return hidden + dropped(context.reshape(B, T, H * E) @ out.T, p)

    def ours(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        return fused.attention(hidden, memory, gain, weight, out, padding_bias(S), 1, p)

    given = torch.randn(B, T, E), torch.randn(B, S, 1, 1, E), torch.rand(E) + 0.5, torch.randn(H * E, E) / 4
    check(ours, plain, *given, torch.randn(E, H * E))


@pytest.fixture
def small_parts():
    """Parts of about 43 queries, so that long sequences have several and the last one is shorter."""
    with patch.object(blocked, "PART_ENTRIES", 10_000):
        yield


LONGER, READ = 233, 241  # tokens; not multiples of what parts and numbers of keys are rounded to
FEWER = [233, 65, 130]  # tokens that exist in each sequence


def missing(width: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Mask (B, width), true where a token exists, with a hole; and the same as a bias (B, 1, 1, width)."""
    mask = padded(lengths, width)
    mask[1, 5] = False
    return mask, torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))[:, None, None]


@pytest.mark.parametrize("lengths", [None, FEWER])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("group", [0, 3])
def test_self_attention_over_long_sequences(small_parts, p, group, lengths):
    torch.manual_seed(1)
    assert blocked.is_long(LONGER, LONGER)
    mask, hidden_from = missing(LONGER, lengths or [LONGER] * B)
    item = torch.arange(LONGER) // max(group, 1)
    later = (item[None] > item[:, None]) & (group > 0)

    def causal(position: Tensor) -> Tensor:
        return position.masked_fill(later, float("-inf"))

    def plain(hidden: Tensor, gain: Tensor, weight: Tensor, out: Tensor, position: Tensor) -> Tensor:
        parts = (normed(hidden, gain) @ weight.T).view(B, LONGER, 3, H, D).unbind(2)
        context = attended(*parts, causal(position) + hidden_from, p)
        return hidden + dropped(context.flatten(2) @ out.T, p)

    def ours(hidden: Tensor, gain: Tensor, weight: Tensor, out: Tensor, position: Tensor) -> Tensor:
        bias = causal(position) + hidden_from if lengths is None else causal(position)
        return fused.attention(hidden, None, gain, weight, out, bias, H, p, None if lengths is None else mask)

    given = torch.randn(B, LONGER, E), torch.rand(E) + 0.5, torch.randn(3 * H * D, E) / 4, torch.randn(E, H * D)
    check(ours, plain, *given, torch.randn(1, H, LONGER, LONGER))


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(B, H, LONGER, READ), (B, 1, 1, READ)])
def test_attention_of_many_queries_over_keys_and_values(small_parts, p, shape):
    torch.manual_seed(1)
    _, hidden_from = missing(READ, FEWER)

    def plain(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor, bias: Tensor) -> Tensor:
        query = (normed(hidden, gain) @ weight.T).view(B, LONGER, H, D)
        context = attended(query, *memory.unbind(2), bias + hidden_from, p)
        return hidden + dropped(context.flatten(2) @ out.T, p)

    def ours(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor, bias: Tensor) -> Tensor:
        return fused.attention(hidden, memory, gain, weight, out, bias + hidden_from, H, p)

    given = torch.randn(B, LONGER, E), torch.randn(B, READ, 2, H, D), torch.rand(E) + 0.5, torch.randn(H * D, E) / 4
    check(ours, plain, *given, torch.randn(E, H * D), torch.randn(shape))


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_of_many_queries_over_a_memory_that_is_key_and_value(small_parts, p):
    torch.manual_seed(1)
    _, hidden_from = missing(READ, FEWER)
    T = 120

    def plain(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        query = (normed(hidden, gain) @ weight.T).view(B, T * H, 1, E)
        context = attended(query, memory[:, :, 0], memory[:, :, 0], hidden_from, p)
        return hidden + dropped(context.reshape(B, T, H * E) @ out.T, p)

    def ours(hidden: Tensor, memory: Tensor, gain: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        return fused.attention(hidden, memory, gain, weight, out, hidden_from, 1, p)

    given = torch.randn(B, T, E), torch.randn(B, READ, 1, 1, E), torch.rand(E) + 0.5, torch.randn(H * E, E) / 8
    check(ours, plain, *given, torch.randn(E, H * E))


def test_short_sequences_give_the_same_bits_whatever_the_blocks_and_whether_weights_are_kept():
    results = []
    for entries, kept in itertools.product((1 << 17, 2 * T * T, 1), (blocked.KEPT_BYTES, 0)):
        torch.manual_seed(1)
        given = torch.randn(B, T, E), torch.rand(E) + 0.5, torch.randn(3 * H * D, E), torch.randn(E, H * D)
        inputs = [tensor.requires_grad_() for tensor in (*given, torch.randn(B, H, T, T))]
        hidden, gain, weight, out, bias = inputs
        with patch.object(blocked, "BLOCK_ENTRIES", entries), patch.object(blocked, "KEPT_BYTES", kept):
            found = fused.attention(hidden, None, gain, weight, out, bias, H, 0.3)
            found.backward(torch.ones(B, T, E))
        results.append([found, *(tensor.grad for tensor in inputs)])
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_keys_that_nothing_may_read_are_left_out():
    """These are half of a causal encoder's scores, and those of padding. Numbers of keys are rounded up to 64."""
    tokens = 600
    item = torch.arange(tokens) // 3
    causal = torch.zeros(1, 1, tokens, tokens).masked_fill(item[None] > item[:, None], float("-inf"))
    query = torch.zeros(1, 2, tokens, D)

    def read(bias: Tensor, mask: Tensor | None) -> list[list[int]]:
        with patch.object(blocked, "PART_ENTRIES", 200 * tokens):
            blocks = blocked._blocks(blocked.AttentionInputs(query, query, query, bias, mask, None))
        return [[part.keys.stop for part in block.parts] for block in blocks]

    assert read(causal, None) == [[256, 448, 600], [256, 448, 600]]
    assert read(torch.zeros(1, 1, 1, tokens), padded([600, 70], tokens)) == [[600, 600, 600], [128, 128, 128]]
    assert read(causal, padded([300, 600], tokens)) == [[256, 320, 320], [256, 448, 600]]


def outputs_and_gradients(model: UnifiedModel, causal: bool, identifiers: int) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and gradients of a batch with histories of several lengths. identifiers: R per target."""
    sequences = random_sequences(users=6, items=10, longest=8, seed=1)
    pieces = sequences.segments(5) if causal else sequences.window_segments(5)
    samples = make_samples(sequences.segment_batch(pieces), torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 4, (len(samples.targets), identifiers, 3), generator=generator)
    embeddings = torch.randn(len(samples.items), 6, generator=generator)
    teacher = torch.randn(len(samples.targets), 7, generator=generator)
    output = model(embeddings, samples.asked(codes, codes[:, 0]), teacher, 0.3)
    (sum(of.square().sum() for of in output.logits) + output.student_state.sum()).backward()
    named = model.named_parameters()
    return [of.detach() for of in output.logits], [
        parameter.grad for name, parameter in named if parameter.grad is not None
    ]


@pytest.mark.parametrize("d_kv", [1, 12])  # with wide heads the keys are always folded into the queries
@pytest.mark.parametrize("identifiers", [1, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("long", [False, True])  # True: every sequence is treated as long
def test_the_model_in_training_equals_the_model_by_torchs_operators(long, causal, identifiers, d_kv, monkeypatch):
    monkeypatch.setattr(blocked, "LONG", 0 if long else blocked.LONG)
    results = []
    for fused_backward in (True, False):
        recommender = small_recommender(causal=causal, d_kv=d_kv, dropout=0.0)
        model = UnifiedModel(small_tokenizer(), recommender, 7).train()
        with (
            patch("unigrec.core.models.recommender.uses_cpu_backward", return_value=fused_backward),
            patch("unigrec.core.models.cpu.operators.uses_cpu_backward", return_value=fused_backward),
        ):
            results.append(outputs_and_gradients(model, causal, identifiers))
    (ours, gradients), (plain, expected) = results
    assert len(gradients) == len(expected)
    for one, other in zip([*ours, *gradients], [*plain, *expected], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5 * float(other.abs().max()))


def test_few_queries_fold_the_keys_into_them_and_many_do_not():
    attention = small_recommender().decoder.layers[0].cross_attention
    memory, bias = torch.randn(2, 6, 12), torch.zeros(2, 1, 1, 6)
    assert attention.cross_inputs(memory, bias, 1).heads == 1
    assert attention.cross_inputs(memory, bias, 50).heads == 3


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("entries", [1 << 17, T * S])  # all in one block, or a head of a sequence per block
@pytest.mark.parametrize("sublayer", ["self", "keys and values", "key is value", "feed forward"])
def test_half_precision_rounds_values_and_gradients_and_changes_nothing_else(sublayer, entries, p, monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK_ENTRIES", entries)
    torch.manual_seed(1)
    hidden, gain, upstream = torch.randn(B, T, E), torch.rand(E) + 0.5, torch.randn(B, T, E)
    memories = {"self": None, "keys and values": torch.randn(B, S, 2, H, D), "key is value": torch.randn(B, S, 1, 1, E)}
    memory = memories.get(sublayer)
    read = E if sublayer == "key is value" else D
    weight = torch.randn((3 if memory is None else 1) * H * read, E) / 8
    out, bias = torch.randn(E, H * read) / 4, torch.randn(1, 1, 1, T if memory is None else S)
    inner, outer = torch.randn(F, E), torch.randn(E, F) / 4

    def run(half: bool) -> list[Tensor]:
        given = [hidden, gain, *((inner, outer) if sublayer == "feed forward" else (weight, out, bias))]
        given = [tensor.clone().requires_grad_() for tensor in (*given, *([] if memory is None else [memory]))]
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if sublayer == "feed forward":
                found = fused.feed_forward(*given, p)
            else:
                rest = given[5] if memory is not None else None
                found = fused.attention(given[0], rest, *given[1:5], 1 if sublayer == "key is value" else H, p)
        found.backward(upstream)
        return [found.detach(), *(tensor.grad for tensor in given)]

    for rounded, full in zip(run(True), run(False), strict=True):
        assert rounded.dtype == torch.float32
        # Where rounding moves an activation over zero, ReLU passes another gradient: the whole is compared.
        assert float((rounded - full).norm() / full.norm()) < 0.03


@pytest.mark.parametrize("long", [False, True])
def test_half_precision_keeps_the_residual_stream_in_single_precision(long, monkeypatch):
    monkeypatch.setattr(blocked, "LONG", 0 if long else blocked.LONG)
    recommender = small_recommender(dropout=0.1).train()
    source, mask = torch.randn(3, 6, 12), padded([6, 2, 3], 6)
    results = []
    for half in (True, False):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            memory = recommender.encode(source, mask)
            output = recommender.decode(memory, mask, torch.tensor(np.eye(3, dtype=np.int64))[:, None])[:, 0]
        results.append((memory, output))
    for half, full in zip(*results, strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("long", [False, True])
def test_a_rank_without_rows_has_gradients_of_zero(long, monkeypatch):
    monkeypatch.setattr(blocked, "LONG", 0 if long else blocked.LONG)
    recommender = small_recommender(dropout=0.1).train()
    memory = recommender.encode(torch.zeros(0, 6, 12), torch.zeros(0, 6, dtype=torch.bool))
    output = recommender.decode(memory, torch.zeros(0, 6, dtype=torch.bool), torch.zeros(0, 1, 3, dtype=torch.long))
    (output.sum() + sum(recommender.position_logits(output[:, 0, p], p).sum() for p in range(3))).backward()
    for parameter in recommender.parameters():
        assert parameter.grad is None or float(parameter.grad.abs().sum()) == 0.0
