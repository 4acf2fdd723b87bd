import numpy as np
import pytest
import torch

from unigrec.core.retrieval.segments import adjusted_rand, find_segments, telling


def test_planted_tastes_and_their_shades_are_found_and_noise_is_not_stable():
    generator = np.random.default_rng(0)
    taste, shade = generator.choice(4, 400, p=[0.4, 0.3, 0.2, 0.1]), generator.integers(0, 2, 400)
    centres = 6.0 * np.eye(4, 6)
    states = centres[taste] + 0.2 * generator.normal(size=(400, 6))
    states[:, 4] += 2.0 * shade
    found = find_segments(torch.as_tensor(states).float(), 4, 2, seed=1)
    assert adjusted_rand(found.segments, taste) > 0.9
    assert adjusted_rand(found.segments * 2 + found.parts, taste * 2 + shade) > 0.9
    assert (np.diff(np.bincount(found.segments)) <= 0).all()
    noise = find_segments(torch.as_tensor(generator.normal(size=(400, 6))).float(), 4, 2, seed=1)
    assert noise.stability < 0.8 < found.stability


def test_adjusted_rand_by_hand():
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3])) == 1.0
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(4 / 7)
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(-0.5)
    assert adjusted_rand(np.zeros(3, int), np.zeros(3, int)) == 1.0


def test_what_tells_a_segment_is_frequent_there_and_rare_elsewhere():
    inside = np.array([True, True, False, False])
    users, things = np.array([0, 1, 2, 3, 0, 1, 0, 2]), np.array([0, 0, 0, 0, 2, 2, 3, 3])
    assert telling(inside, users, things, 5) == [
        (2, 2, 2.0)
    ]  # all have 0, and one user of the segment is too few for 3
