"""A query as a token before the history: W q, trained by cross entropy on the wanted item's codes.

The recommender is frozen, so W alone is trained. Half of the samples have no history.

Shapes: B samples, S tokens, D content dimensions, E d_model, T codes of an identifier.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from unigrec.core.retrieval.beam import BeamResult, Repeats, beam_searches
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.prefix_tree import Restriction
from unigrec.core.sequences import Sequences, pad_rows
from unigrec.pipeline.queries import QueryKind, make_query
from unigrec.serving.search import QueryEncoder

BATCH, RATE, QUERIES, WITHOUT_HISTORY = 128, 3e-3, 3, 0.5


class QueryToken(nn.Module):
    """From the vector of a query (B, D), of length 1, to a token (B, 1, E)."""

    def __init__(self, dimensions: int, d_model: int):
        super().__init__()
        self.linear = nn.Linear(dimensions, d_model)
        nn.init.normal_(self.linear.weight, std=1.0)  # the scale of the token table

    def forward(self, query: Tensor) -> Tensor:
        return self.linear(query)[:, None]


def train(
    generative: GenerativeRetriever,
    codes: np.ndarray,
    sequences: Sequences,
    texts: pa.Table,
    encoder: QueryEncoder,
    steps: int,
) -> QueryToken:
    """Train on queries for training items, after the items before them. codes: (N, T)."""
    torch.manual_seed(0)
    recommender, history = generative.recommender, generative.history
    generator = np.random.default_rng(0)
    rows, vectors, first = texts.to_pylist(), [], [0]
    for columns in rows:
        made = [make_query(kind, columns, generator) for kind in QueryKind for _ in range(QUERIES)]
        vectors.append([query for query in made if query])
        first.append(first[-1] + len(vectors[-1]))
    found = [encoder.vector(query) for own in vectors for query in own]
    table = torch.stack([torch.zeros(encoder.width) if vector is None else vector for vector in found])
    identifiers = torch.as_tensor(codes)
    token = QueryToken(table.shape[1], recommender.config.d_model)
    optimizer = torch.optim.AdamW(token.parameters(), lr=RATE)
    windows = sequences.windows()  # training items with one before them
    starts = sequences.offsets[np.searchsorted(sequences.offsets, windows, side="right") - 1]
    sizes = np.diff(first)
    usable = np.flatnonzero(sizes[sequences.items[windows]] > 0)
    began, total = time.process_time(), 0.0
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1.0 - (step - 1) / steps)
        drawn = generator.choice(usable, BATCH)
        targets = sequences.items[windows[drawn]]
        queries = table[np.array(first)[targets] + generator.integers(0, sizes[targets])]
        empty = generator.random(BATCH) < WITHOUT_HISTORY
        before = [
            [] if nothing else sequences.items[max(start, place - history) : place].tolist()
            for nothing, start, place in zip(empty, starts[drawn], windows[drawn], strict=True)
        ]
        items, lengths = pad_rows(before, fill=0)
        source, mask = with_token(generative, token(queries), items, lengths)
        own = identifiers[targets]
        output = recommender.decode(recommender.encode(source, mask), mask, own[:, None])[:, 0]  # (B, T, E)
        loss = torch.stack(
            [
                nn.functional.cross_entropy(recommender.position_logits(output[:, level], level).float(), own[:, level])
                for level in range(own.shape[1])
            ]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
        if step % 100 == 0:
            print(f"step {step}: loss {total / 100:.3f}, {time.process_time() - began:.0f} s of CPU", flush=True)
            total = 0.0
    return token.eval()


def with_token(
    generative: GenerativeRetriever, token: Tensor, items: np.ndarray, lengths: np.ndarray
) -> tuple[Tensor, Tensor]:
    """The recommender's input (B, S, E) and mask (B, S): the token (B, 1, E), then histories items (B, n)."""
    ahead = torch.ones(len(token), 1, dtype=torch.bool)
    if not items.shape[1]:
        return token, ahead
    source, mask = generative.embed(items, lengths)
    return torch.cat([token, source], 1), torch.cat([ahead, mask], 1)


class TokenSearch:
    """Beam search after a query's token and a history."""

    def __init__(self, generative: GenerativeRetriever, token: QueryToken):
        self.generative, self.token = generative, token

    @torch.inference_mode()
    def find(self, query: Tensor, history: list[int], k: int, allowed: Tensor | None = None) -> BeamResult:
        """The k best items. query: (D,). allowed: (N,) bool."""
        recommender, tree = self.generative.recommender, self.generative.tree
        items, lengths = pad_rows([history[-self.generative.history :]], fill=0)
        source, mask = with_token(self.generative, self.token(query[None]), items, lengths)
        repeats = Repeats.of(recommender, torch.as_tensor(items), torch.as_tensor(lengths)) if len(history) else None
        restriction = None if allowed is None else Restriction(tree, allowed)
        width = max(k, self.generative.beam)
        assert self.generative.network is not None  # no set decoder
        (found,) = beam_searches(self.generative.network, tree, source, mask, width, [restriction], repeats=repeats)
        return BeamResult(found.items[:, :k], found.scores[:, :k])
