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

from unigrec.models.layers import product

LONG = 200 * 200  # scores of a head of a sequence
ENTRIES = 1 << 17  # scores of a block
LONG_ENTRIES = 1 << 19  # of a part of a block
STEP = 64  # a number of keys is rounded up to a multiple of it: oneDNN compiles a product for each number


def is_long(queries: int, keys: int) -> bool:
    """Whether a product for each head of each sequence costs less than batches of products."""
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


class Block(NamedTuple):
    heads: slice
    sequences: slice
    parts: list[tuple[slice, slice]]  # queries, keys
    single: bool  # one head of one sequence, with products by oneDNN

    def of(self, tensor: Tensor) -> Tensor:
        """(H, B, T or S, d) -> (h, b, T or S, d), dense where oneDNN multiplies: gaps slow it down a thousandfold."""
        part = tensor[self.heads, self.sequences]
        return part.contiguous() if self.single else part

    def scores(self, tensor: Tensor, queries: slice, keys: slice) -> Tensor:
        """(H or 1, B or 1, T or 1, S) -> (h or 1, b or 1, t or 1, s), a view."""
        where = zip(tensor.shape, (self.heads, self.sequences, queries, keys), strict=True)
        return tensor[tuple(slice(None) if size == 1 else one for size, one in where)]


def mix(given: Given, into: Tensor) -> None:
    """into (H, B, T, d) = dropout(softmax(query key^T + bias)) value."""
    missing = _missing(given.there)
    for block in _blocks(given):
        q, k, v, mixed = (
            block.of(given.query),
            block.of(given.key),
            block.of(given.value),
            into[block.heads, block.sequences],
        )
        for queries, keys in block.parts:
            weights = _weights(block, q, k, given.bias, missing, queries, keys)
            if given.kept is not None:
                weights.mul_(block.scores(given.kept, queries, keys))
            mixed[:, :, queries] = _multiply(weights.to(q.dtype), v[:, :, keys], block.single)


def unmix(given: Given, by_mixed: Tensor, gradients: Gradients, into: Tensor) -> None:
    """All gradients from that of what `mix` writes, (H, B, T, d); `into` is written as `mix` does."""
    missing, dtype = _missing(given.there), given.query.dtype
    for block in _blocks(given):
        q, k, v, g = (block.of(tensor) for tensor in (given.query, given.key, given.value, by_mixed))
        own = block.heads, block.sequences
        by_key: Tensor | None = None
        by_value: Tensor | None = None
        for queries, keys in block.parts:
            weights = _weights(block, q, k, given.bias, missing, queries, keys)
            by_weights = _multiply(g[:, :, queries], v[:, :, keys].mT, block.single).float()
            dropped = weights
            if given.kept is not None:
                kept = block.scores(given.kept, queries, keys)
                by_weights.mul_(kept)
                dropped = weights * kept
            dropped = dropped.to(dtype)
            into[own][:, :, queries] = _multiply(dropped, v[:, :, keys], block.single)
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, torch.float32)
            if gradients.bias is not None:
                by_bias = block.scores(gradients.bias, queries, keys)
                by_bias += by_scores.sum_to_size(by_bias.shape)
            by_scores = by_scores.to(dtype)
            gradients.query[own][:, :, queries] = _multiply(by_scores, k[:, :, keys], block.single)
            by_key = _added(by_key, _multiply_transposed(by_scores, q[:, :, queries], block.single), k.shape[2])
            by_value = _added(by_value, _multiply_transposed(dropped, g[:, :, queries], block.single), k.shape[2])
        if gradients.value is None:
            gradients.key[own] = by_key
            gradients.key[own] += by_value
        else:
            gradients.key[own] = by_key
            gradients.value[own] = by_value


def _blocks(given: Given) -> list[Block]:
    (heads, sequences, queries, _), keys = given.query.shape, given.key.shape[2]
    if not is_long(queries, keys):
        several = _slices(sequences, ENTRIES // max(queries * keys, 1))
        together = _slices(heads, ENTRIES // max(sequences * queries * keys, 1))
        parts = [(slice(0, queries), slice(0, keys))]
        return [Block(some, one, parts, False) for some in together for one in several]
    parts_of = _slices(queries, LONG_ENTRIES // keys)
    places = torch.arange(1, keys + 1)
    finite = (given.bias.amax((0, 1)) > float("-inf")) * places  # (T or 1, S)
    by_part = [int((finite if len(finite) == 1 else finite[part]).amax()) for part in parts_of]
    by_sequence = [keys] * sequences if given.there is None else (given.there * places).amax(-1).tolist()

    def parts_up_to(last: int) -> list[tuple[slice, slice]]:
        reads = [min(last, read) for read in by_part]
        return [
            (part, slice(0, min(-(-read // STEP) * STEP, keys))) for part, read in zip(parts_of, reads, strict=True)
        ]

    by_sequence = [parts_up_to(last) for last in by_sequence]
    return [
        Block(slice(head, head + 1), slice(sequence, sequence + 1), by_sequence[sequence], True)
        for head in range(heads)
        for sequence in range(sequences)
    ]


def _slices(count: int, most: int) -> list[slice]:
    """Of about equal size, none with more than `most`, or one."""
    size = max(-(-count // max(-(-count // max(most, 1)), 1)), 1)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _missing(there: Tensor | None) -> Tensor | None:
    """(B, S) -> (1, B, 1, S), minus infinity where there is no key; None where there are all."""
    if there is None or bool(there.all()):
        return None
    return torch.zeros(there.shape).masked_fill(~there, float("-inf"))[None, :, None]


def _weights(
    block: Block, q: Tensor, k: Tensor, bias: Tensor, missing: Tensor | None, queries: slice, keys: slice
) -> Tensor:
    """Before dropout, in single precision: (h, b, t, s)."""
    scores = _multiply(q[:, :, queries], k[:, :, keys].mT, block.single).float()
    scores.add_(block.scores(bias, queries, keys))
    if missing is not None:
        scores.add_(block.scores(missing, queries, keys))
    return scores.softmax(-1)


def _multiply(left: Tensor, right: Tensor, single: bool) -> Tensor:
    """(h, b, m, k) @ (h, b, k, n) -> (h, b, m, n); batches a head at a time, so that no operand is laid out anew."""
    if single:
        return product(left[0, 0], right[0, 0].T)[None, None]
    result = left.new_empty(*left.shape[:3], right.shape[3])
    for one, other, into in zip(left, right, result, strict=True):
        torch.bmm(one, other, out=into)
    return result


def _multiply_transposed(left: Tensor, right: Tensor, single: bool) -> Tensor:
    """(h, b, k, m), (h, b, k, n) -> (h, b, m, n), left^T right."""
    if single:  # the large one second, which is not laid out anew
        return product(right[0, 0].T, left[0, 0].T).T[None, None]
    return _multiply(left.mT, right, False)


def _added(total: Tensor | None, part: Tensor, keys: int) -> Tensor:
    """Of parts (h, b, s, d) of the first s keys, the sum (h, b, keys, d)."""
    if total is None and part.shape[2] == keys:
        return part
    if total is None:
        total = part.new_zeros(*part.shape[:2], part.shape[3], keys).mT
    total[:, :, : part.shape[2]] += part
    return total
