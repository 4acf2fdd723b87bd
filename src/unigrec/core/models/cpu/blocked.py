"""Attention in blocks that stay in the processor's cache.

The scores of a whole batch do not fit into the cache, and fresh memory for them costs as much time as the computation.
Here each block of scores goes through softmax, dropout and the product with the values before the next block is made.
The backward pass computes the attention weights again, unless they are few enough to be kept. A block is some heads of
some sequences. In long sequences a block is one head of one sequence, divided into parts: some queries, and only the
keys that at least one of them may read.

Shapes: H heads, B sequences, T queries, S keys, d width of a head; h, b, t, s are those of a block or a part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unigrec.core.models.cpu.operators import cpu_matmul

# From this many scores per head and sequence (about 220 x 220 tokens), one oneDNN matmul per head is faster than a
# batched MKL matmul: a sublayer takes 5 % less time at 200 tokens, 20 % less at 300, but 10 % more at 150.
LONG = 50_000
WHOLE_VECTOR = 16  # keys; a softmax over fewer takes torch several times as long
BLOCK_ENTRIES = 1 << 17  # scores per block and thread: half of a usual second-level cache
# Up to so many attention weights of a sublayer, counted in the precision of the products, are kept for the backward
# pass, which takes a tenth less time then. They are stored in single precision: 16 MiB at most, 32 in half precision.
# In single precision the longest batches of the published size, which decide the peak of memory, have more.
KEPT_BYTES = 1 << 24
PART_ENTRIES = 1 << 18  # scores per part and thread: larger parts are a little faster, but skip fewer unreadable keys
STEP = 64  # the number of keys of a part is rounded up to a multiple of this: oneDNN compiles a matmul for each number


def is_long(queries: int, keys: int) -> bool:
    """True if heads are computed one by one. The mask is then best passed apart from the bias that sequences share."""
    return queries * keys >= LONG


class AttentionInputs(NamedTuple):
    """The inputs of attention.

    Attributes:
        query: (H, B, T, d). key, value: (H, B, S, d). Views with any strides.
        bias: (H or 1, B or 1, T or 1, S), added to the scores, with at least one finite entry per row.
        mask: (B, S), true where a key exists, at least once per row; None if all exist.
        dropout_mask: (H, B, T, S) dropout mask of the attention weights, which are not scaled; None for no dropout.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    mask: Tensor | None
    dropout_mask: Tensor | None


class AttentionGrads(NamedTuple):
    """The gradients to write: views with any strides, of the shapes in `AttentionInputs`.

    Attributes:
        key: if the key is also the value, the sum of both gradients.
        value: None if the key is also the value.
        bias: zeros to add to; None if its gradient is not needed.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    bias: Tensor | None


class Part(NamedTuple):
    """Some queries of one head of one sequence, and the keys that at least one of them may read."""

    queries: slice
    keys: slice


class Block(NamedTuple):
    """Some heads of some sequences, or one head of a long sequence in parts. Methods return views unless noted."""

    heads: slice
    sequences: slice
    whole: bool  # true if the block is all heads of all sequences
    parts: list[Part] | list[None]  # [None] if the block is not divided

    def select(self, tensor: Tensor) -> Tensor:
        """(H, B, T or S, d) -> (h, b, T or S, d); a dense copy if in parts: strides slow oneDNN down a thousandfold."""
        if self.whole:
            return tensor
        part = tensor[self.heads, self.sequences]
        return part if self.parts[0] is None else part.contiguous()

    def select_scores(self, tensor: Tensor, part: Part | None) -> Tensor:
        """(H or 1, B or 1, T or 1, S) -> (h or 1, b or 1, t or 1, s)."""
        if self.whole:
            return tensor
        index = (self.heads, self.sequences, *(part or ()))
        return tensor[tuple(slice(None) if size == 1 else one for size, one in zip(tensor.shape, index, strict=False))]


def attention_forward(inputs: AttentionInputs, context: Tensor) -> Tensor | None:
    """Write context (H, B, T, d) = dropout(softmax(query key^T + bias)) value.

    Returns the attention weights before dropout (H, B, T, S), if they are few enough to be kept for the backward pass.
    """
    key_bias, blocks = _key_bias(inputs.mask), _blocks(inputs)
    shape = torch.Size([*inputs.query.shape[:3], inputs.key.shape[2]])
    keep = shape.numel() * inputs.query.itemsize <= KEPT_BYTES and not is_long(*shape[2:])
    kept = torch.empty(shape) if keep and len(blocks) > 1 else None
    for block in blocks:
        q, k, v = block.select(inputs.query), block.select(inputs.key), block.select(inputs.value)
        for part in block.parts:
            weights = _attention_weights(
                block, part, _queries(q, part), key=_keys(k, part), bias=inputs.bias, key_bias=key_bias
            )
            if keep and block.whole:
                kept = weights
            elif kept is not None:
                block.select_scores(kept, part).copy_(weights)
            if inputs.dropout_mask is not None:
                dropout_mask = block.select_scores(inputs.dropout_mask, part)
                weights = weights * dropout_mask if kept is weights else weights.mul_(dropout_mask)
            result = _multiply(weights.to(q.dtype), _keys(v, part), part)
            _queries(context[block.heads, block.sequences], part).copy_(result)
    return kept


def attention_backward(
    inputs: AttentionInputs, grad_context: Tensor, grads: AttentionGrads, context: Tensor, kept: Tensor | None
) -> None:
    """Write all gradients, given that of the context (H, B, T, d).

    kept: what `attention_forward` has returned. If it is None, `context` is computed again and written too.
    """
    key_bias, dtype = _key_bias(inputs.mask), inputs.query.dtype
    for block in _blocks(inputs):
        index = block.heads, block.sequences
        block_key, block_value, total = block.select(inputs.key), block.select(inputs.value), inputs.key.shape[2]
        block_query, block_grad_context = block.select(inputs.query), block.select(grad_context)
        grad_key: Tensor | None = None
        grad_value: Tensor | None = None
        for part in block.parts:
            q, g = _queries(block_query, part), _queries(block_grad_context, part)
            k, v = _keys(block_key, part), _keys(block_value, part)
            # The weights, and the gradient that reaches them through the values.
            if kept is None:
                weights = _attention_weights(block, part, q, key=k, bias=inputs.bias, key_bias=key_bias)
            else:
                weights = block.select_scores(kept, part)
            grad_weights, dropped = _multiply(g, v.mT, part).float(), weights
            if inputs.dropout_mask is not None:
                dropout_mask = block.select_scores(inputs.dropout_mask, part)
                grad_weights.mul_(dropout_mask)
                dropped = weights * dropout_mask
            dropped = dropped.to(dtype)
            if kept is None:
                _queries(context[index], part).copy_(_multiply(dropped, v, part))
            # Through the softmax to the scores, and from there to queries and keys.
            grad_scores = _grad_scores(block, part, grad_weights, weights=weights, grad_bias=grads.bias).to(dtype)
            _queries(grads.query[index], part).copy_(_multiply(grad_scores, k, part))
            grad_key = _add_part(grad_key, _multiply_transposed(grad_scores, q, part), total)
            grad_value = _add_part(grad_value, _multiply_transposed(dropped, g, part), total)
        # Keys and values are read by every part: their sums are written once.
        assert grad_key is not None
        assert grad_value is not None
        grads.key[index] = grad_key
        if grads.value is None:
            grads.key[index] += grad_value
        else:
            grads.value[index] = grad_value


def dense_if_half(heads: Tensor) -> Tensor:
    """Heads (..., H, B, T, d) as products read them fastest: unchanged in single precision, a dense copy in half.

    oneDNN, which multiplies in half precision, copies an operand with strides in each product that has it. MKL, which
    multiplies in single precision, takes strides as they are.
    """
    return heads if heads.dtype == torch.float32 else heads.contiguous()


def _blocks(inputs: AttentionInputs) -> list[Block]:
    """The blocks that together cover all heads of all sequences."""
    (heads, sequences, queries, _), keys = inputs.query.shape, inputs.key.shape[2]
    if sequences and is_long(queries, keys):
        parts = _parts(inputs)
        return [
            Block(slice(head, head + 1), slice(row, row + 1), False, parts=parts[row])
            for head in range(heads)
            for row in range(sequences)
        ]
    most = BLOCK_ENTRIES * torch.get_num_threads()
    sequence_slices = _slices(sequences, most // max(queries * keys, 1))
    head_slices = _slices(heads, most // max(sequences * queries * keys, 1))
    whole = len(sequence_slices) * len(head_slices) == 1
    return [Block(head_slice, rows, whole, parts=[None]) for head_slice in head_slices for rows in sequence_slices]


def _parts(inputs: AttentionInputs) -> list[list[Part]]:
    """For each sequence the parts of its scores. Keys beyond the last one that a part may read are left out."""
    (_, sequences, queries, _), keys = inputs.query.shape, inputs.key.shape[2]
    query_slices = _slices(queries, PART_ENTRIES * torch.get_num_threads() // keys)
    positions = torch.arange(1, keys + 1)
    readable = (inputs.bias.amax((0, 1)) > float("-inf")) * positions  # (T or 1, S)
    lasts = [int((readable if len(readable) == 1 else readable[rows]).amax()) for rows in query_slices]
    ends = [keys] * sequences if inputs.mask is None else (inputs.mask * positions).amax(-1).tolist()

    def key_slice(last: int, end: int) -> slice:
        return slice(0, min(-(-min(last, end) // STEP) * STEP, keys))

    return [[Part(rows, key_slice(last, end)) for rows, last in zip(query_slices, lasts, strict=True)] for end in ends]


def _slices(count: int, most: int) -> list[slice]:
    """Slices that cover range(count), of about equal size: at most `most`, but at least 1."""
    size = max(-(-count // max(-(-count // max(most, 1)), 1)), 1)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _key_bias(mask: Tensor | None) -> Tensor | None:
    """(B, S) -> (1, B, 1, S), minus infinity where no key exists; None if all keys exist."""
    if mask is None or bool(mask.all()):
        return None
    return torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))[None, :, None]


def _queries(tensor: Tensor, part: Part | None) -> Tensor:
    return tensor if part is None else tensor[:, :, part.queries]


def _keys(tensor: Tensor, part: Part | None) -> Tensor:
    return tensor if part is None else tensor[:, :, part.keys]


def _attention_weights(
    block: Block, part: Part | None, query: Tensor, key: Tensor, bias: Tensor, key_bias: Tensor | None
) -> Tensor:
    """(h, b, t, s) attention weights before dropout, in single precision."""
    scores = _multiply(query, key.mT, part).float().add_(block.select_scores(bias, part))
    if key_bias is not None:
        scores.add_(block.select_scores(key_bias, part))
    if scores.shape[-1] >= WHOLE_VECTOR:
        return scores.softmax(-1)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


def _grad_scores(
    block: Block, part: Part | None, grad_weights: Tensor, weights: Tensor, grad_bias: Tensor | None
) -> Tensor:
    """Gradient (h, b, t, s) of the scores; it is also added to the gradient of the bias."""
    target = None if grad_bias is None else block.select_scores(grad_bias, part)
    if target is not None and part is None and target.shape == weights.shape:  # each bias is added to one score
        return torch._softmax_backward_data(grad_weights, weights, -1, torch.float32, grad_input=target)
    grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, torch.float32)
    if target is not None:
        target += grad_scores.sum_to_size(target.shape)
    return grad_scores


def _multiply(left: Tensor, right: Tensor, part: Part | None) -> Tensor:
    """(h, b, m, k) @ (h, b, k, n) -> (h, b, m, n).

    In single precision one batched matmul per head, which copies no operand; in half precision one for all heads.
    """
    if part is not None:
        return cpu_matmul(left[0, 0], right[0, 0].T)[None, None]
    if left.dtype != torch.float32:
        return torch.bmm(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])
    result = left.new_empty(*left.shape[:3], right.shape[3])
    for left_head, right_head, result_head in zip(left, right, result, strict=True):
        torch.bmm(left_head, right_head, out=result_head)
    return result


def _multiply_transposed(left: Tensor, right: Tensor, part: Part | None) -> Tensor:
    """left^T right: (h, b, k, m), (h, b, k, n) -> (h, b, m, n)."""
    if part is not None:  # the large operand second: it is not copied then
        return cpu_matmul(right[0, 0].T, left[0, 0].T).T[None, None]
    return _multiply(left.mT, right, None)


def _add_part(total: Tensor | None, part: Tensor, keys: int) -> Tensor:
    """total (h, b, keys, d) plus a part (h, b, s, d) that belongs to the first s keys."""
    if total is None and part.shape[2] == keys:
        return part
    if total is None:
        total = part.new_zeros(*part.shape[:2], part.shape[3], keys).mT
    total[:, :, : part.shape[2]] += part
    return total
