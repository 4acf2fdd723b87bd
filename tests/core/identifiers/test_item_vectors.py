"""What the tokenizer reads of the teacher."""

from __future__ import annotations

import numpy as np
import torch

from support.tiny_training import ITEMS, tiny_embeddings
from unigrec.core.identifiers.item_vectors import collaborative_part, continued_part


def test_the_part_is_the_centred_teacher_with_its_share_of_the_variance():
    content, teacher = tiny_embeddings(), 5.0 + 0.01 * torch.randn(ITEMS, 3, generator=torch.Generator().manual_seed(0))
    added = collaborative_part(content, teacher, 0.5)
    torch.testing.assert_close(added.var(0).sum(), 0.25 * content.var(0).sum())
    centred = teacher - teacher.mean(0)
    torch.testing.assert_close(added / added.norm(), centred / centred.norm())
    assert collaborative_part(content, teacher, 0.0).shape == (ITEMS, 0)


def test_known_items_keep_what_the_tokenizer_read_and_a_map_gives_the_others_theirs():
    generator = torch.Generator().manual_seed(0)
    earlier = torch.randn(200, 4, generator=generator)
    part = collaborative_part(torch.randn(200, 6, generator=generator), earlier, 1.0)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    today = 3.0 * earlier @ rotation + 1.0  # another training's space
    known = np.arange(200) < 150
    read = part.clone()
    read[150:] = float("nan")  # unknown items have none
    continued = continued_part(today, read, known, ridge=1e-9)
    assert torch.equal(continued[:150], part[:150])
    torch.testing.assert_close(continued[150:], part[150:], rtol=1e-3, atol=1e-3)
