"""What the stages leave: files as other tools read them."""

from unigrec.pipeline import outputs


def test_rows_of_a_written_history_have_the_same_keys():
    rows = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "validation_ndcg_at_10": 0.5}]
    assert outputs._alike(rows) == [
        {"epoch": 1.0, "loss": 2.0, "validation_ndcg_at_10": None},
        {"epoch": 2.0, "loss": None, "validation_ndcg_at_10": 0.5},
    ]
    assert outputs._alike([]) == []
