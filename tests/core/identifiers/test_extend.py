import numpy as np
import pytest
import torch

from unigrec.base.errors import UnigrecError
from unigrec.core.identifiers.collisions import hard_codes
from unigrec.core.identifiers.extend import free_identifiers
from unigrec.core.models.tokenizers.residual import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(embedding_dim=3, code_dim=2, hidden=[], levels=2, codebook_size=4).eval()


@pytest.fixture(scope="module")
def vectors():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


NOBODY = np.empty((0, 2), np.int64)


def test_an_item_alone_gets_its_nearest_codes(tokenizer, vectors):
    for vector in vectors.split(1):
        assert free_identifiers(tokenizer, vector, NOBODY, [4, 4]).tolist() == hard_codes(tokenizer, vector).tolist()


def test_new_identifiers_are_distinct_and_nobodys_and_keep_the_first_code_where_it_has_room(tokenizer, vectors):
    wanted = hard_codes(tokenizer, vectors)
    found = free_identifiers(tokenizer, vectors, wanted, [4, 4])
    assert len(np.unique(np.concatenate([wanted, found]), axis=0)) == 12
    first = np.bincount(wanted[:, 0], minlength=4)  # taken by both
    assert (found[:, 0] == wanted[:, 0])[2 * first[wanted[:, 0]] <= 4].all()


def test_several_items_of_one_prefix_get_the_free_codes_at_least_total_distance(tokenizer):
    alike = torch.ones(3, 3) + 0.01 * torch.arange(3.0)[:, None]
    (prefix,) = np.unique(hard_codes(tokenizer, alike)[:, 0])
    taken = np.array([[prefix, 1]])
    found = free_identifiers(tokenizer, alike, taken, [4, 4])
    assert sorted(found.tolist()) == [[prefix, 0], [prefix, 2], [prefix, 3]]


def test_where_a_prefix_is_full_the_next_nearest_is_chosen(tokenizer, vectors):
    one = vectors[:1]
    ((nearest, _),) = hard_codes(tokenizer, one).tolist()
    full = np.array([[nearest, code] for code in range(4)])
    ((first, _),) = free_identifiers(tokenizer, one, full, [4, 4]).tolist()
    distances = (tokenizer.encoder(one) - tokenizer.codebooks[0]).square().sum(-1)
    assert first == distances.argsort()[1] != nearest


def test_a_code_that_tells_colliding_items_apart_is_the_lowest_free_one(tokenizer, vectors):
    one = vectors[:1]
    ((first, second),) = hard_codes(tokenizer, one).tolist()
    taken = np.array([[first, second, 0], [first, second, 2]])
    assert free_identifiers(tokenizer, one.repeat(2, 1), taken, [4, 4, 4])[:, 2].tolist() == [1, 3]


def test_more_items_than_free_identifiers_are_an_error(tokenizer, vectors):
    everything = np.array([[first, second] for first in range(4) for second in range(4)])
    with pytest.raises(UnigrecError, match="6 new items, but only 5 free identifiers"):
        free_identifiers(tokenizer, vectors, everything[:-5], [4, 4])
    assert len(free_identifiers(tokenizer, vectors, everything[:-6], [4, 4])) == 6
