"""Large catalogues: the items of the best cells, and the same lists as a scan where everything is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.small import random_sequences
from support.small_catalogue import catalogue, recommender_of
from unigrec.core.models.ensemble import TeacherEnsemble
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval import cells as cells_module
from unigrec.core.retrieval import dense as dense_module
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.fused import FusedRetriever, Weights
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.neighbours import Neighbours, Pairs
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction

ITEMS, WIDTH = 150, 8
CODES = catalogue(ITEMS, seed=0, levels=3)
SEQUENCES = random_sequences(80, ITEMS, 9)
USERS = SEQUENCES.evaluation_users()[:20]
HISTORIES = SEQUENCES.held_out(USERS, "test", 8)
ALLOWED = torch.arange(ITEMS) % 3 != 0


def teacher(members: int) -> SASRec | TeacherEnsemble:
    torch.manual_seed(0)
    networks = [SASRec(ITEMS, WIDTH, 1, 2, history=6, dropout=0.5, repeat_bias=True) for _ in range(members)]
    for network in networks:
        torch.nn.init.normal_(network.item_embedding.weight)
        assert network.repeat_bias is not None
        torch.nn.init.normal_(network.repeat_bias.weight)
    return networks[0] if members == 1 else TeacherEnsemble(networks)


def restrictions(tree: PrefixTree) -> dict[str, Restriction | None]:
    denied = torch.as_tensor(HISTORIES.items)
    return {
        "none": None,
        "allowed": Restriction(tree, ALLOWED),
        "denied": Restriction(tree, None, denied),
        "both": Restriction(tree, ALLOWED, denied),
        "few": Restriction(tree, torch.arange(ITEMS) < 7),
    }


@pytest.fixture(scope="module", params=[1, 2])
def pair(request) -> tuple[FusedRetriever, FusedRetriever]:
    """The same model twice: one scans its catalogue, the other reads its cells."""
    recommender = recommender_of(CODES, repeat_bias=True).eval()
    generative = GenerativeRetriever.hardened(recommender, CODES, 4, beam=7)
    counted = count_neighbours(SEQUENCES, torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(1)  # counts are often equal, and then any of them may be a candidate
    drawn = [
        pairs._replace(weights=torch.rand(len(pairs.weights)).half().float())
        for pairs in (counted.successors, counted.together)
    ]
    neighbours = Neighbours(*drawn, counted.content)
    short = Neighbours(
        *(
            Pairs(pairs.starts, pairs.items.int(), pairs.weights.half())
            for pairs in (neighbours.successors, neighbours.together)
        ),
        neighbours.content.half(),
    )
    weights = Weights(0.5, follows=1.5, alike=3.0, follows_earlier=0.7, alike_earlier=0.4, together=2.0, own=1.5)
    model = teacher(request.param)
    found = [
        FusedRetriever(generative, DenseRetriever(model, generative.tree, generative.device, scanned), held, weights)
        for scanned, held in ((ITEMS, neighbours), (ITEMS - 1, short))
    ]
    return found[0], found[1]


@pytest.mark.parametrize("name", ["none", "allowed", "denied", "both", "few"])
@pytest.mark.parametrize("k", [10, 60])
def test_where_all_items_are_read_the_lists_are_those_of_a_scan(pair, name, k):
    scan, read = pair
    restriction = restrictions(scan.tree)[name]
    histories = HISTORIES.items, HISTORIES.lengths
    fused = [part.best(*histories, restriction, k) for part in (scan, read)]
    dense = [scan.dense.best(*histories, restriction, k), read.dense.read(*histories).best(k, restriction)]
    for expected, found in (fused, dense):
        width = min(k, expected.items.shape[1], found.items.shape[1])
        assert all((part.items[:, width:k] < 0).all() for part in (expected, found))
        exists = expected.items[:, :width] >= 0
        assert torch.equal(found.items[:, :width] >= 0, exists)
        torch.testing.assert_close(
            found.scores[:, :width][exists], expected.scores[:, :width][exists], rtol=1e-3, atol=2e-3
        )
        same = (found.items[:, :width] == expected.items[:, :width])[exists].float().mean()
        assert same > 0.98  # neighbouring scores may be equal but for rounding


def test_only_the_best_cells_are_read(monkeypatch):
    tables = [torch.randn(ITEMS, WIDTH), torch.randn(ITEMS, 3)]
    cells = Cells(PrefixTree(CODES), tables)
    monkeypatch.setattr(cells_module, "MOST_CELLS", 40)
    few = Cells(PrefixTree(CODES), tables)
    assert len(few.sizes) <= 40 < len(cells.sizes) == ITEMS
    queries = [torch.randn(4, WIDTH), torch.randn(4, 3)]
    items, scores = few.nearest(queries, 30)
    exact = queries[0] @ tables[0].T + queries[1] @ tables[1].T
    by_cell = sum(query @ means.T for query, means in zip(queries, few.means, strict=True))
    cell_of = torch.repeat_interleave(torch.arange(len(few.sizes)), few.sizes)[few.tree.rank]
    for row in range(4):
        own = items[row][items[row] >= 0]
        assert len(own.unique()) == len(own) == 30
        torch.testing.assert_close(scores[row][: len(own)], exact[row, own])
        assert torch.equal(
            cell_of[own].unique_consecutive(), by_cell[row].argsort(descending=True)[: len(cell_of[own].unique())]
        )


def test_a_restriction_that_leaves_little_is_read_as_a_whole(monkeypatch):
    monkeypatch.setattr(cells_module, "MOST_CELLS", 40)
    tree = PrefixTree(CODES)
    cells = Cells(tree, [torch.randn(ITEMS, WIDTH)])
    items, _ = cells.nearest([torch.randn(3, WIDTH)], 5, Restriction(tree, torch.arange(ITEMS) % 40 == 7))
    assert [row.sort().values.tolist() for row in items] == [[7, 47, 87, 127]] * 3


def test_what_a_history_holds_is_read_in_any_case(monkeypatch, pair):
    _, read = pair
    monkeypatch.setattr(dense_module, "READ", 1)
    found = read.dense.read(HISTORIES.items, HISTORIES.lengths)
    for row, (items, length) in enumerate(zip(HISTORIES.items, HISTORIES.lengths, strict=True)):
        own = set(items[:length][-6:].tolist())
        kept = found.free.items[row][found.free.scores[row] > -torch.inf].tolist()
        assert own <= set(kept)
        assert len(kept) == len(set(kept)) <= len(own) + 1


@pytest.mark.parametrize("name", ["allowed", "denied", "both"])
def test_a_scan_in_pieces_is_one_of_the_whole_batch(monkeypatch, pair, name):
    scan, _ = pair
    restriction = restrictions(scan.tree)[name]
    expected = scan.dense.best(HISTORIES.items, HISTORIES.lengths, restriction, 10)
    monkeypatch.setattr(dense_module, "AT_ONCE", 3 * ITEMS)
    found = scan.dense.best(HISTORIES.items, HISTORIES.lengths, restriction, 10)
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("k", [1, 40])
def test_denied_items_take_no_place_of_others(monkeypatch, pair, k):
    _, read = pair
    monkeypatch.setattr(dense_module, "READ", 1)
    first = read.dense.read(HISTORIES.items, HISTORIES.lengths)
    denied = first.best(k, None).items  # what would be found
    for allowed in (None, ALLOWED):
        found = first.best(k, Restriction(read.tree, allowed, denied))
        assert (found.items >= 0).all()
        assert not (found.items[:, :, None] == denied[:, None]).any()


def test_vectors_without_a_number_have_products_of_zero():
    items, scores = Cells(PrefixTree(CODES), [torch.zeros(ITEMS, 0)]).nearest([torch.zeros(2, 0)], ITEMS)
    assert items.sort().values.tolist() == [[*range(ITEMS)]] * 2
    assert not scores.any()


@pytest.mark.parametrize("count", [1, 4, 100])
def test_the_largest_sums_are_those_of_all(count):
    generator = np.random.default_rng(0)
    counted = np.where(generator.random((ITEMS, ITEMS)) < 0.05, generator.random((ITEMS, ITEMS)), 0.0)
    rows, columns = counted.nonzero()
    starts = torch.as_tensor(np.searchsorted(rows, np.arange(ITEMS + 1)))
    pairs = Pairs(starts, torch.as_tensor(columns), torch.as_tensor(counted[rows, columns]).float())
    items, weights = torch.as_tensor(generator.integers(0, ITEMS, (6, 3))), torch.tensor([1.0, 0.5, 0.0]).expand(6, 3)
    allowed = torch.as_tensor(generator.random(ITEMS) < 0.5)
    for permits in (None, lambda found: allowed[found.clamp_min(0)] & (found >= 0)):
        sums = pairs.sums(items, weights)
        expected = sums if permits is None else sums * allowed
        found = pairs.largest(items, weights, count, permits)
        for row in range(6):
            own = found[row][found[row] >= 0]
            best = expected[row].sort(descending=True).values[:count]
            torch.testing.assert_close(expected[row, own], best[best > 0])


def test_the_largest_of_nothing_is_nothing():
    assert Pairs.none(ITEMS).largest(torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1), 5).numel() == 0


def test_what_was_not_read_is_estimated_in_the_log_probabilities(monkeypatch, pair):
    scan, read = pair
    monkeypatch.setattr(dense_module, "READ", 30)
    monkeypatch.setattr(dense_module, "SAMPLED", 75)
    found = read.dense.read(HISTORIES.items, HISTORIES.lengths)
    exact = scan.dense.scores(HISTORIES.items, HISTORIES.lengths)
    errors = (found.scores_of(torch.arange(ITEMS).expand(len(exact), -1)) - exact).mean(1)
    read_alone = found.total[:, 0] - found.free.scores.logsumexp(1)  # what the log-probabilities would be too high by
    assert errors.abs().mean() < 0.3 * read_alone.mean()
    assert errors.mean().abs() < 0.1
