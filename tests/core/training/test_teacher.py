"""The teacher's training: its loss counts real positions only, and it learns what follows what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from support.project import ROOT
from support.small import sequences_of
from support.tiny_training import CPU, ITEMS, tiny_embeddings, tiny_params, tiny_run, tiny_sequences
from unigrec.base.errors import TrainingError
from unigrec.base.files import read_json, read_tensors
from unigrec.base.launcher import run_ranks
from unigrec.core.sequences import Sequences
from unigrec.core.training import teacher
from unigrec.core.training.checkpoint import CheckpointFolder, Stopped
from unigrec.core.training.loop import Trained
from unigrec.core.training.teacher import new_teacher, next_items, train_teacher, validation_metrics

# Items that follow each other share their brand. Every fifth item has none.
EVERY = tiny_sequences().evaluation_users()
BRANDS = torch.where(torch.arange(ITEMS) % 5 == 4, -1, torch.arange(ITEMS) // 6)[:, None]


def run(seed: int = 7, fields: tuple[torch.Tensor, ...] = (), **changes):
    params = tiny_params(teacher=changes).teacher
    return train_teacher(tiny_sequences(), tiny_embeddings(), params, run=tiny_run(seed), fields=fields)


def test_the_loss_is_the_cross_entropy_of_every_next_item_and_of_no_padding():
    model = new_teacher(ITEMS, tiny_params().teacher).eval()
    items, lengths = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    each = []
    for row, length in zip(items, lengths, strict=True):
        for end in range(1, int(length)):
            # The loss places a sequence's last input last, so shorter prefixes are read from the whole sequence.
            hidden = model(row[None, : length - 1], length[None] - 1)[0, end - 1]
            each.append(F.cross_entropy(hidden @ model.item_table().T, row[end]))
    torch.testing.assert_close(next_items(model, items, lengths).loss(), torch.stack(each).mean())


def test_weights_of_targets_scale_their_cross_entropy():
    model = new_teacher(ITEMS, tiny_params().teacher).eval()
    found = next_items(model, torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2]))
    each = torch.stack([found.weighted_loss(torch.eye(4)[place]) * 4 for place in range(4)])
    torch.testing.assert_close(found.loss(), each.mean())
    weights = torch.tensor([0.5, 0.0, 2.0, 0.5])
    torch.testing.assert_close(found.weighted_loss(weights), (weights * each).mean())
    assert found.weighted_loss(torch.zeros(4)).item() == 0.0


def test_a_target_without_weight_is_not_learned():
    plain = tiny_sequences()
    weights = (np.arange(len(plain.items)) % 2).astype(np.float32) * 2
    params, embeddings = tiny_params(teacher={"epochs": 1}).teacher, tiny_embeddings()
    losses = [
        train_teacher(sequences, embeddings, params, run=tiny_run(7)).history[0]["loss"]
        for sequences in (plain, plain._replace(weights=np.ones_like(weights)), plain._replace(weights=weights))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2] != pytest.approx(losses[0], rel=1e-5)


def test_it_learns_what_follows_what_and_keeps_its_best_weights():
    # Content, and the rule that nothing comes twice, would give most of it away at once.
    trained = run(epochs=40, patience=40, lr=0.01, content=False, architecture="sasrec", repeat_bias=False)
    found = [row["validation_ndcg_at_10"] for row in trained.history]
    assert max(found) > 2 * found[0]
    assert trained.history[-1]["loss"] < 0.7 * trained.history[0]["loss"]
    assert validation_metrics(trained.model, tiny_sequences(), CPU, EVERY)["validation_ndcg_at_10"] == max(found)


@pytest.mark.parametrize("architecture", ["sasrec", "bsarec"])
def test_content_helps_from_the_start_and_is_folded_into_the_embeddings(architecture):
    with_content, without = (
        run(epochs=2, content=content, architecture=architecture, repeat_bias=False) for content in (True, False)
    )
    assert with_content.history[0]["validation_ndcg_at_10"] > without.history[0]["validation_ndcg_at_10"]
    assert set(with_content.model.state_dict()) == set(without.model.state_dict())
    best = max(row["validation_ndcg_at_10"] for row in with_content.history)
    assert validation_metrics(with_content.model, tiny_sequences(), CPU, EVERY)["validation_ndcg_at_10"] == best


def test_the_sampled_loss_learns_as_the_whole_one_does():
    whole, sampled = (run(epochs=12, lr=0.01, loss=loss, negatives=12) for loss in ("full", "sampled"))
    found, expected = (max(row["validation_ndcg_at_10"] for row in one.history) for one in (sampled, whole))
    assert found > 0.8 * expected
    assert sampled.history[-1]["loss"] < 0.85 * sampled.history[0]["loss"]


def test_validation_takes_a_fixed_sample_of_users(monkeypatch):
    asked = []
    measure = teacher.validation_metrics
    monkeypatch.setattr(
        teacher, "validation_metrics", lambda *given: asked.append(given[-1].tolist()) or measure(*given)
    )
    run(validation_users=9, members=2, epochs=2)
    assert len(asked) == 5  # two members over two epochs, and both together
    assert len(set(asked[0])) == 9
    assert asked[0] == asked[1] == asked[4]
    monkeypatch.setattr(teacher, "SCORES_AT_ONCE", 3 * ITEMS)  # three users at a time, however large the catalogue is
    trained = run(validation_users=9, members=2, epochs=2).history[-1]
    assert trained == run(validation_users=9, members=2, epochs=2).history[-1]


def test_it_stops_when_validation_no_longer_rises():
    found = [row["validation_ndcg_at_10"] for row in run(epochs=200, patience=2, lr=0.02).history]
    assert len(found) < 200
    assert max(found[-2:]) <= max(found[:-2])


def test_same_seed_same_bits():
    first, second, other = run(), run(), run(seed=8)
    weights = first.model.state_dict()
    assert first.history == second.history
    assert all(torch.equal(weights[name], value) for name, value in second.model.state_dict().items())
    assert other.history != first.history


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [False, True])
def test_the_bias_says_whether_customers_come_back_for_the_same_thing(comes_back: bool):
    params = tiny_params(teacher={"epochs": 30, "validate_every": 30, "history": 10}).teacher
    weights = train_teacher(shop(comes_back), None, params, run=tiny_run()).model.repeat_bias.weight
    assert (weights[1:4] > 0.5).all() if comes_back else (weights[1:4] < -0.5).all()


def shop(comes_back: bool) -> Sequences:
    """200 customers with eight purchases each: of eight different items, or of a few that they buy again and again."""
    generator = np.random.default_rng(0)
    users = []
    for _ in range(200):
        own = generator.permutation(ITEMS)[: 4 if comes_back else 8]
        users.append(np.r_[own, generator.permutation(own)].tolist() if comes_back else own.tolist())
    return sequences_of(*users, items=ITEMS)


def test_members_are_trained_one_after_the_other_and_the_first_is_the_teacher_that_trains_alone():
    alone, both = run(), run(members=2)
    weights, of_both = alone.model.state_dict(), both.model.state_dict()
    assert all(torch.equal(of_both[f"members.0.{name}"], value) for name, value in weights.items())
    assert not all(torch.equal(of_both[f"members.1.{name}"], value) for name, value in weights.items())
    assert [row["member"] for row in both.history if "member" in row] == [1] * 4 + [2] * 4
    assert [row["epoch"] for row in both.history] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    measured = validation_metrics(both.model, tiny_sequences(), CPU, EVERY)
    assert measured == {name: both.kept[name] for name in measured}


def test_an_ensemble_that_is_stopped_while_its_second_member_trains_ends_with_the_same_bits(tmp_path):
    params = tiny_params(teacher={"members": 2}).teacher
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 18  # it is asked four times per epoch, in four epochs per member

    def attempt() -> Trained:
        checkpoints = CheckpointFolder(tmp_path, "key", every_seconds=0.0, stop=stop)
        return train_teacher(
            tiny_sequences(), tiny_embeddings(), params, run=tiny_run()._replace(checkpoints=checkpoints)
        )

    with pytest.raises(Stopped):
        attempt()
    assert (tmp_path / "part-1").is_dir()
    again, whole = attempt(), run(members=2)
    assert again.history == whole.history
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


# What a rank runs: with fields, weights of events and two members. 40 users in batches of 39 leave one user for the
# last batch: the second rank has none. With a short history, users have several pieces.
RANK = """
import sys
import numpy as np
import torch
from safetensors.torch import save_file
from support.tiny_training import tiny_embeddings, tiny_params, tiny_run, tiny_sequences
from unigrec.core.distributed import rank
from unigrec.core.training.teacher import train_teacher
from pathlib import Path
from unigrec.base.files import write_json
sequences = tiny_sequences()
sequences = sequences._replace(weights=np.where(np.arange(len(sequences.items)) % 3, 1.2, 0.6).astype(np.float32))
changes = {"dropout": 0.0, "batch_size": 39, "members": 2, "label_smoothing": 0.1, "loss": sys.argv[2], "negatives": 9}
changes["history"] = int(sys.argv[3])
brands = torch.where(torch.arange(24) % 5 == 4, -1, torch.arange(24) // 6)[:, None]
trained = train_teacher(sequences, tiny_embeddings(), tiny_params(teacher=changes).teacher, tiny_run(), [brands])
write_json(Path(f"{sys.argv[1]}-{rank()}.json"), trained.history)
save_file(trained.model.state_dict(), f"{sys.argv[1]}-{rank()}.safetensors")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "history"), [("full", 6), ("sampled", 6), ("full", 3), ("sampled", 3)])
def test_two_ranks_give_the_losses_and_weights_of_one_on_every_rank(loss, history, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT / 'src'}")
    for count in (1, 2):
        run_ranks(["-c", RANK, f"{tmp_path}/{count}", loss, str(history)], count)
    alone, *both = (read_json(tmp_path / f"{name}.json") for name in ("1-0", "2-0", "2-1"))
    assert both[0] == both[1]
    for row, other in zip(alone, both[0], strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
    weights, *others = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    for name, weight in weights.items():
        assert torch.equal(others[0][name], others[1][name]), name
        # The bias of the keys has no gradient but rounding, which the optimizer magnifies.
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(weight, others[0][name], rtol=0, atol=1e-5, msg=name)


def test_heads_for_fields_learn_change_the_teacher_and_are_dropped():
    plain, trained = run(), run(fields=(BRANDS,))
    shapes = [{name: value.shape for name, value in one.model.state_dict().items()} for one in (plain, trained)]
    assert shapes[0] == shapes[1]
    found = [row["field_loss"] for row in trained.history]
    assert found[-1] < 0.95 * found[0]
    assert all("field_loss" not in row for row in plain.history)
    assert not torch.equal(trained.model.item_vectors(), plain.model.item_vectors())
    best = max(row["validation_ndcg_at_10"] for row in trained.history)
    assert validation_metrics(trained.model, tiny_sequences(), CPU, EVERY)["validation_ndcg_at_10"] == best


def test_heads_of_no_weight_leave_the_teacher_and_its_random_stream_as_they_are():
    plain, weightless = run(), run(fields=(BRANDS,), field_weight=0.0)
    weights = plain.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in weightless.model.state_dict().items())
    assert [row["loss"] for row in weightless.history] == [row["loss"] for row in plain.history]


@pytest.mark.parametrize("changes", [{}, {"loss": "sampled", "negatives": 8}])
def test_a_teacher_with_heads_that_is_stopped_ends_with_the_same_bits(changes, tmp_path):
    answers = iter([False] * 5 + [True])
    checkpoints = CheckpointFolder(tmp_path, "key", every_seconds=0.0, stop=lambda: next(answers, False))
    params, resumable = tiny_params(teacher=changes).teacher, tiny_run()._replace(checkpoints=checkpoints)

    def attempt() -> Trained:
        return train_teacher(tiny_sequences(), tiny_embeddings(), params, run=resumable, fields=(BRANDS,))

    with pytest.raises(Stopped):
        attempt()
    again, whole = attempt(), run(fields=(BRANDS,), **changes)
    assert again.history == whole.history
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


def test_a_learning_rate_that_blows_up_says_so():
    with pytest.raises(TrainingError, match=r"teacher: .*not finite"):
        run(lr=1e30, weight_decay=1e30)


def long_sequences() -> Sequences:
    """Users of thirty items each, read ten at a time."""
    return sequences_of(*[[(start + step) % ITEMS for step in range(30)] for start in range(12)], items=ITEMS)


def test_every_training_item_of_a_long_history_is_a_target_once_per_epoch():
    sequences, params = long_sequences(), tiny_params(teacher={"history": 10, "batch_size": 5}).teacher
    pieces = sequences.segments(10)
    batches = teacher.epoch_batches(pieces, params, seed=1, epoch=1)
    asked = np.zeros(len(sequences.items), np.int64)
    for batch in batches:
        items, lengths = sequences.teacher_batch(pieces[batch])
        mask = teacher.asked(*(torch.as_tensor(part) for part in (items, lengths, pieces[batch, 2].astype(np.int64))))
        places = pieces[batch, :1] + np.arange(1, items.shape[1])
        assert items[:, 1:][mask.numpy()].tolist() == sequences.items[places[mask.numpy()]].tolist()
        asked[places[mask.numpy()]] += 1
    assert np.flatnonzero(asked).tolist() == sequences.windows().tolist()
    assert asked.max() == 1


def test_an_epoch_of_a_long_log_can_be_cut_short_and_reads_other_targets_each_time():
    pieces = long_sequences().segments(10)
    params = tiny_params(teacher={"history": 10, "batch_size": 5, "epoch_samples": 60}).teacher
    rows = [np.concatenate(teacher.epoch_batches(pieces, params, seed=1, epoch=epoch)) for epoch in (1, 2)]
    for one in rows:
        assert 60 <= pieces[one, 2].sum() < 60 + 5 * 10
    assert set(rows[0].tolist()) != set(rows[1].tolist())
    whole = params.model_copy(update={"epoch_samples": 10**9})
    assert sum(map(len, teacher.epoch_batches(pieces, whole, seed=1, epoch=1))) == len(pieces)
