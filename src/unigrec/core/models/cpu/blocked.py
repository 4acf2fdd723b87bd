"""Attention in blocks that stay in the processor's cache.

The scores of a batch do not, and fresh memory for them costs as much as what is computed in it. Here a block of them is
made, weighted, dropped and used before the next; the backward pass computes the weights again. A block is some heads of
some sequences. Long sequences have one for each head, in parts: some queries, less the keys that none of them may read.

Shapes: H heads, B sequences, T queries, S keys, d width of a head; h, b, t, s those of a block or a part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unigrec.core.models.cpu.operators import product

# From so many scores of a head of a sequence on (some 220 tokens by themselves), a product for each of them by oneDNN
# costs less than batches of them by MKL: of a sublayer 5 % at 200 tokens, 20 % at 300; at 150 it costs 10 % more.
LONG = 50_000
ENTRIES = 1 << 17  # scores of a block, for each thread: half of a usual second-level cache
PART_ENTRIES = 1 << 18  # of a part: more would be a little faster, but a causal encoder's would leave out less
STEP = 64  # a number of keys is rounded up to a multiple of it: oneDNN compiles a product for each number


def is_long(queries: int, keys: int) -> bool:
    """Whether the heads of a sequence are computed one by one; what sequences share is then best kept apart."""
    return queries * keys >= LONG


class Given(NamedTuple):
    """What attention is made of.

    Attributes:
        query: (H, B, T, d). key, value: (H, B, S, d). All of them views of any strides.
        bias: (H or 1, B or 1, T or 1, S), added to the scores, with at least one finite entry in every row.
        there: (B, S), true where there is a key, at least once in every row; None for all.
        kept: (H, B, T, S) dropout mask of the weights; None for no dropout. What is kept is not scaled.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    there: Tensor | None
    kept: Tensor | None


class Gradients(NamedTuple):
    """What is written: views of any strides, of the shapes in `Given`.

    Attributes:
        value: None where the key is the value too.
        bias: zeros; None where its gradient is not needed.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    bias: Tensor | None


class Part(NamedTuple):
    """Some queries of one head of one sequence, and the keys that they read."""

    queries: slice
    keys: slice


class Block(NamedTuple):
    """Some heads of some sequences, or, in parts, one head of a long one. Its methods give views if nothing is said."""

    heads: slice
    sequences: slice
    whole: bool  # all heads of all sequences
    parts: list[Part] | list[None]

    def of(self, tensor: Tensor) -> Tensor:
        """(H, B, T or S, d) -> (h, b, T or S, d), dense where oneDNN multiplies: gaps slow it down a thousandfold."""
        if self.whole:
            return tensor
        part = tensor[self.heads, self.sequences]
        return part if self.parts[0] is None else part.contiguous()

    def scores(self, tensor: Tensor, part: Part | None) -> Tensor:
        """(H or 1, B or 1, T or 1, S) -> (h or 1, b or 1, t or 1, s)."""
        if self.whole:
            return tensor
        where = (self.heads, self.sequences, *(part or ()))
        return tensor[tuple(slice(None) if size == 1 else one for size, one in zip(tensor.shape, where, strict=False))]


def mix(given: Given, into: Tensor) -> None:
    """into (H, B, T, d) = dropout(softmax(query key^T + bias)) value."""
    missing = _missing(given.there)
    for block in _blocks(given):
        q, k, v = block.of(given.query), block.of(given.key), block.of(given.value)
        for part in block.parts:
            weights = _weights(block, part, _queries(q, part), _keys(k, part), given.bias, missing)
            if given.kept is not None:
                weights.mul_(block.scores(given.kept, part))
            mixed = _multiply(weights.to(q.dtype), _keys(v, part), part)
            _queries(into[block.heads, block.sequences], part).copy_(mixed)


def unmix(given: Given, by_mixed: Tensor, gradients: Gradients, into: Tensor) -> None:
    """All gradients from that of what `mix` writes, (H, B, T, d); `into` is written as `mix` does."""
    missing, dtype = _missing(given.there), given.query.dtype
    for block in _blocks(given):
        own = block.heads, block.sequences
        every_key, every_value, total = block.of(given.key), block.of(given.value), given.key.shape[2]
        every_query, every_mixed = block.of(given.query), block.of(by_mixed)
        by_key: Tensor | None = None
        by_value: Tensor | None = None
        for part in block.parts:
            q, g = _queries(every_query, part), _queries(every_mixed, part)
            k, v = _keys(every_key, part), _keys(every_value, part)
            weights = _weights(block, part, q, k, given.bias, missing)
            by_weights, dropped = _multiply(g, v.mT, part).float(), weights
            if given.kept is not None:
                kept = block.scores(given.kept, part)
                by_weights.mul_(kept)
                dropped = weights * kept
            dropped = dropped.to(dtype)
            _queries(into[own], part).copy_(_multiply(dropped, v, part))
            by_scores = _by_scores(block, part, by_weights, weights, gradients.bias).to(dtype)
            _queries(gradients.query[own], part).copy_(_multiply(by_scores, k, part))
            by_key = _added(by_key, _multiply_transposed(by_scores, q, part), total)
            by_value = _added(by_value, _multiply_transposed(dropped, g, part), total)
        assert by_key is not None
        assert by_value is not None
        gradients.key[own] = by_key
        if gradients.value is None:
            gradients.key[own] += by_value
        else:
            gradients.value[own] = by_value


def _blocks(given: Given) -> list[Block]:
    (heads, sequences, queries, _), keys = given.query.shape, given.key.shape[2]
    if sequences and is_long(queries, keys):
        parts = _parts(given)
        each = [(slice(head, head + 1), one) for head in range(heads) for one in range(sequences)]
        return [Block(head, slice(one, one + 1), False, parts[one]) for head, one in each]
    most = ENTRIES * torch.get_num_threads()
    several = _slices(sequences, most // max(queries * keys, 1))
    together = _slices(heads, most // max(sequences * queries * keys, 1))
    whole = len(several) * len(together) == 1
    return [Block(some, one, whole, [None]) for some in together for one in several]


def _parts(given: Given) -> list[list[Part]]:
    """The parts of a long sequence's scores, for each sequence."""
    (_, sequences, queries, _), keys = given.query.shape, given.key.shape[2]
    rows = _slices(queries, PART_ENTRIES * torch.get_num_threads() // keys)
    places = torch.arange(1, keys + 1)
    finite = (given.bias.amax((0, 1)) > float("-inf")) * places  # (T or 1, S)
    lasts = [int((finite if len(finite) == 1 else finite[some]).amax()) for some in rows]
    ends = [keys] * sequences if given.there is None else (given.there * places).amax(-1).tolist()

    def read(last: int, end: int) -> slice:
        return slice(0, min(-(-min(last, end) // STEP) * STEP, keys))

    return [[Part(some, read(last, end)) for some, last in zip(rows, lasts, strict=True)] for end in ends]


def _slices(count: int, most: int) -> list[slice]:
    """Of about equal size, none with more than `most`, or one."""
    size = max(-(-count // max(-(-count // max(most, 1)), 1)), 1)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _missing(there: Tensor | None) -> Tensor | None:
    """(B, S) -> (1, B, 1, S), minus infinity where there is no key; None where there are all."""
    if there is None or bool(there.all()):
        return None
    return torch.zeros(there.shape).masked_fill(~there, float("-inf"))[None, :, None]


def _queries(tensor: Tensor, part: Part | None) -> Tensor:
    return tensor if part is None else tensor[:, :, part.queries]


def _keys(tensor: Tensor, part: Part | None) -> Tensor:
    return tensor if part is None else tensor[:, :, part.keys]


def _weights(
    block: Block, part: Part | None, query: Tensor, key: Tensor, bias: Tensor, missing: Tensor | None
) -> Tensor:
    """Before dropout, in single precision: (h, b, t, s)."""
    scores = _multiply(query, key.mT, part).float().add_(block.scores(bias, part))
    if missing is not None:
        scores.add_(block.scores(missing, part))
    return scores.softmax(-1)


def _by_scores(block: Block, part: Part | None, by_weights: Tensor, weights: Tensor, by_bias: Tensor | None) -> Tensor:
    """Gradient (h, b, t, s) of the scores, added onto that of the bias as well."""
    into = None if by_bias is None else block.scores(by_bias, part)
    if into is not None and part is None and into.shape == weights.shape:  # each of its entries is of one score
        return torch._softmax_backward_data(by_weights, weights, -1, torch.float32, grad_input=into)
    by_scores = torch._softmax_backward_data(by_weights, weights, -1, torch.float32)
    if into is not None:
        into += by_scores.sum_to_size(into.shape)
    return by_scores


def _multiply(left: Tensor, right: Tensor, part: Part | None) -> Tensor:
    """(h, b, m, k) @ (h, b, k, n) -> (h, b, m, n); batches a head at a time, so that no operand is laid out anew."""
    if part is not None:
        return product(left[0, 0], right[0, 0].T)[None, None]
    result = left.new_empty(*left.shape[:3], right.shape[3])
    for one, other, into in zip(left, right, result, strict=True):
        torch.bmm(one, other, out=into)
    return result


def _multiply_transposed(left: Tensor, right: Tensor, part: Part | None) -> Tensor:
    """(h, b, k, m), (h, b, k, n) -> (h, b, m, n), left^T right."""
    if part is not None:  # the large one second, which is not laid out anew
        return product(right[0, 0].T, left[0, 0].T).T[None, None]
    return _multiply(left.mT, right, None)


def _added(total: Tensor | None, part: Tensor, keys: int) -> Tensor:
    """Of parts (h, b, s, d) of the first s keys, the sum (h, b, keys, d)."""
    if total is None and part.shape[2] == keys:
        return part
    if total is None:
        total = part.new_zeros(*part.shape[:2], part.shape[3], keys).mT
    total[:, :, : part.shape[2]] += part
    return total
