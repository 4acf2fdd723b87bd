"""What the stages leave: files as other tools read them."""

import numpy as np
import pytest
import torch

from support.small import small_recommender
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.core.models.vectors import ItemVectors
from unigrec.core.training.loop import Trained
from unigrec.core.training.student_validation import hard_tokens
from unigrec.pipeline import outputs


def test_rows_of_a_written_history_have_the_same_keys():
    rows = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "validation_ndcg_at_10": 0.5}]
    assert outputs._alike(rows) == [
        {"epoch": 1.0, "loss": 2.0, "validation_ndcg_at_10": None},
        {"epoch": 2.0, "loss": None, "validation_ndcg_at_10": 0.5},
    ]
    assert outputs._alike([]) == []


def test_the_figures_of_a_training_are_those_of_the_weights_that_it_kept(tmp_path):
    rows = [{"epoch": float(epoch), "loss": 1.0, "validation_ndcg_at_10": 0.5 / epoch} for epoch in (1, 2)]
    outputs.save_trained(tmp_path, Trained(torch.nn.Linear(1, 1), rows, rows[0]), {})
    found = files.read_json(tmp_path / paths.METRICS_FILE)
    assert found == {"epoch": 1.0, "loss": 1.0, "best_validation_ndcg_at_10": 0.5}


def test_the_tokenizer_reads_the_content_of_each_item_and_then_its_part_of_the_teacher(tmp_path):
    artifacts = Artifacts(tmp_path)
    content, part = torch.arange(6.0).reshape(3, 2), -torch.arange(3.0).reshape(3, 1)
    files.write_tensors(artifacts.embeddings, {"embedding": content})
    files.write_tensors(artifacts.tokenizer / paths.COLLABORATIVE_FILE, {"part": part})
    vectors = outputs.load_item_vectors(artifacts)[torch.arange(3)]
    assert torch.equal(vectors[:, :2], content)
    assert torch.equal(vectors[:, 2:], part)


def test_finetuned_weights_and_item_tokens_belong_together(tmp_path):
    artifacts, vectors = Artifacts(tmp_path), torch.randn(5, 4)
    codes = np.random.default_rng(0).integers(0, 4, (5, 3))
    reading, plain = (small_recommender(merge=True, vector_width=width) for width in (4, 0))
    for recommender in (reading, plain):
        given = ItemVectors([vectors]) if recommender is reading else None
        outputs.save_finetuned(artifacts.finetune, Trained(recommender, [], {}), codes, given)
        tokens = outputs.load_item_tokens(artifacts, outputs.load_recommender(artifacts))
        if given is None:
            assert tokens is None
        else:
            torch.testing.assert_close(tokens, hard_tokens(reading, torch.as_tensor(codes), vectors))
    with pytest.raises(UnigrecError, match=r"item_tokens\.safetensors"):  # those of the earlier weights are gone
        outputs.load_item_tokens(artifacts, reading)
