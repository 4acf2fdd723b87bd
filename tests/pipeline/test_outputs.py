"""What the stages leave: files as other tools read them."""

import torch

from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.pipeline import outputs


def test_rows_of_a_written_history_have_the_same_keys():
    rows = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "validation_ndcg_at_10": 0.5}]
    assert outputs._alike(rows) == [
        {"epoch": 1.0, "loss": 2.0, "validation_ndcg_at_10": None},
        {"epoch": 2.0, "loss": None, "validation_ndcg_at_10": 0.5},
    ]
    assert outputs._alike([]) == []


def test_the_tokenizer_reads_the_content_of_each_item_and_then_its_part_of_the_teacher(tmp_path):
    artifacts = Artifacts(tmp_path)
    content, part = torch.arange(6.0).reshape(3, 2), -torch.arange(3.0).reshape(3, 1)
    files.write_tensors(artifacts.embeddings, {"embedding": content})
    files.write_tensors(artifacts.tokenizer / paths.COLLABORATIVE_FILE, {"part": part})
    vectors = outputs.load_item_vectors(artifacts)[torch.arange(3)]
    assert torch.equal(vectors[:, :2], content)
    assert torch.equal(vectors[:, 2:], part)
