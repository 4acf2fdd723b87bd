"""The teacher's training: cross entropy over the catalogue at every position, whole or estimated (sampled_softmax).

A row is a piece of a user's sequence, as `Sequences.segments` cuts it: every training target of a log counts, however
long its users' histories are.

Several ranks share the rows of each batch. The loss is that of the whole batch, so its gradient, averaged over ranks,
is that of one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unigrec.core.distributed import gather_rows, rank, rank_slices, world_size
from unigrec.core.evaluation.metrics import rank_in_scores, validation_figures
from unigrec.core.losses import Bonus, catalogue_cross_entropy
from unigrec.core.models.ensemble import Teacher, TeacherEnsemble
from unigrec.core.models.repeat_bias import parameter_groups
from unigrec.core.models.sasrec import SASRec
from unigrec.core.sequences import Sequences, bucketed_batches, in_chunks, sample
from unigrec.core.training.engine import make_engine, start_process_group
from unigrec.core.training.fields import FieldHeads
from unigrec.core.training.loop import Phase, Run, Trained, train
from unigrec.core.training.sampled_softmax import SampledLoss, Sampler, StepItems, sampled_loss

if TYPE_CHECKING:
    from unigrec.config.schema import TeacherParams

EVALUATION_BATCH, SCORES_AT_ONCE = 512, 2**26  # users of a validation's batch; fewer for more items than 131,072
FieldClasses = Sequence[Tensor]


def new_teacher(items: int, params: TeacherParams, content_dim: int = 0) -> SASRec:
    """An untrained member of the size that params ask for."""
    return SASRec(items, content_dim=content_dim, **teacher_shape(params))


def teacher_shape(params: TeacherParams) -> dict[str, Any]:
    """The arguments that rebuild a trained member, without the number of items."""
    bsarec = params.architecture == "bsarec"
    return {
        **params.model_dump(include={"d_model", "blocks", "heads", "history", "dropout", "repeat_bias"}),
        "filter_share": params.filter_share if bsarec else 0.0,
        "filter_components": params.filter_components,
    }


def teacher_config(items: int, params: TeacherParams) -> dict[str, Any]:
    """What `build_teacher` rebuilds a trained teacher from."""
    return {"items": items, "members": params.members, **teacher_shape(params)}


def train_teacher(
    sequences: Sequences, embeddings: Tensor | None, params: TeacherParams, run: Run, fields: FieldClasses = ()
) -> Trained:
    """Train every member of the teacher, one after the other.

    The history has the rows of all members, with their number, and the validation of them all as the last row.

    Args:
        embeddings: (N, D) item embeddings. If `params.content` is set, the teacher's own embeddings are added to them.
        fields: (N, V) int64 per field, the classes of each item; -1 for none. Those of the next item are predicted too.
    """
    trained = [
        train_member(sequences, embeddings, params, run.part(number), fields=fields) for number in range(params.members)
    ]
    if len(trained) == 1:
        return trained[0]
    ensemble = TeacherEnsemble([member.model for member in trained]).to(run.device)  # type: ignore[misc]
    history: list[dict[str, float]] = []
    for number, member in enumerate(trained, start=1):
        epoch, step = (history[-1]["epoch"], history[-1]["step"]) if history else (0, 0)
        rows = [row | {"epoch": row["epoch"] + epoch, "step": row["step"] + step} for row in member.history]
        history += [row | {"member": number} for row in rows]
    last = {name: history[-1][name] for name in ("epoch", "step")} if history else {"epoch": 0, "step": 0}
    kept = last | validation_metrics(ensemble, sequences, run.device, validation_users(sequences, params, run.seed))
    return Trained(ensemble, [*history, kept], kept)


def train_member(
    sequences: Sequences, embeddings: Tensor | None, params: TeacherParams, run: Run, fields: FieldClasses
) -> Trained:
    """Train until validation NDCG@10 (unmasked) stops rising, and keep the best weights. Arguments as above."""
    start_process_group(run.device, needed=False)
    torch.manual_seed(run.seed)
    sampled = params.loss == "sampled"
    if embeddings is not None and params.content:
        model = new_teacher(sequences.catalogue_size, params, embeddings.shape[1])
        scale = embeddings.norm(dim=1).mean()
        if sampled:  # a step divides the rows that it reads, so the content needs no copy
            model.content, model.content_scale = embeddings, float(scale)
        else:
            model.content = embeddings / scale
    else:
        model = new_teacher(sequences.catalogue_size, params)
    model = model.to(run.device)
    heads = FieldHeads(fields, params.d_model).to(run.device) if fields else None
    trainee = nn.ModuleDict({"teacher": model, "heads": heads}) if heads else model
    groups = parameter_groups(trainee, lr=params.lr, weight_decay=params.weight_decay)
    engine = make_engine("torch", trainee, groups, batch_size=params.batch_size, lazy=sampled)
    pieces = sequences.segments(params.history)
    sampler = Sampler(sequences, pieces, params.negatives, run.seed) if sampled else None
    judges = validation_users(sequences, params, run.seed)

    def losses(batch: np.ndarray, step: int) -> dict[str, Tensor]:
        read = sequences.teacher_batch(pieces[batch])
        items, sizes = (torch.as_tensor(part, device=run.device) for part in read)
        counts = torch.as_tensor(pieces[batch, 2].astype(np.int64), device=run.device)
        rows = rank_slices(len(items))[rank()]
        candidates = None if sampler is None else sampler.draw(*read, step, run.device)
        found = next_items(model, items[rows], sizes[rows], candidates, counts=counts[rows])
        known = sequences.teacher_weights(pieces[batch])
        weights = None if known is None else torch.as_tensor(known[rows, 1:], device=run.device)[found.mask]
        smoothing = params.label_smoothing
        own = found.loss(smoothing) if weights is None else found.weighted_loss(weights, smoothing)
        # A mean over this rank's places. Its weight makes the mean over ranks that over the places of the whole batch.
        loss = own * (len(found.targets) * world_size() / int(counts.sum()))
        if heads is None:
            return {"loss": loss}
        batch_targets = items[:, 1:][asked(items, sizes, counts)]
        field_loss = heads(found.hidden, found.targets, batch_targets=batch_targets, weights=weights)
        return {"loss": loss + params.field_weight * field_loss, "field_loss": field_loss}

    phase = Phase(
        name="teacher",
        epochs=params.epochs,
        batches=lambda epoch: epoch_batches(pieces, params, run.seed, epoch),
        losses=losses,
        validate=lambda: validation_metrics(model, sequences, run.device, judges),
        validate_every=params.validate_every,
        patience=params.patience,
    )
    return train(phase, engine, run)._replace(model=model.without_content())


class NextItems(NamedTuple):
    """The places of a batch that have a target, and what its loss needs. P places, N items, E width."""

    hidden: Tensor  # (P, E)
    targets: Tensor  # (P,) the next item
    table: Tensor  # (N, E) item embeddings; with `sampled`, those of its candidates
    bonus: Bonus | None  # of the repeat bias, with rows of the table as columns
    mask: Tensor  # (B, T) bool: the places of the batch
    sampled: SampledLoss | None = None

    def loss(self, smoothing: float = 0.0) -> Tensor:
        """Mean cross entropy over the whole catalogue (an estimate if sampled), a scalar; 0 without places."""
        if not len(self.targets):
            return self.hidden.sum() * 0.0
        if self.sampled is not None:
            return self.sampled.loss(self.hidden, self.table, self.bonus, smoothing)
        return catalogue_cross_entropy(self.hidden, self.table, self.targets, smoothing=smoothing, bonus=self.bonus)

    def weighted_loss(self, weights: Tensor, smoothing: float = 0.0) -> Tensor:
        """As `loss`, with each place's cross entropy times its weight (P,), of which there are few distinct ones."""
        total = self.hidden.sum() * 0.0
        for weight in weights.unique().tolist():
            rows = weights == weight
            bonus = None if self.bonus is None else Bonus(self.bonus.items[rows], self.bonus.values[rows])
            sampled = None if self.sampled is None else self.sampled.at(rows)
            part = self._replace(hidden=self.hidden[rows], targets=self.targets[rows], bonus=bonus, sampled=sampled)
            if weight:
                total = total + weight * rows.float().mean() * part.loss(smoothing)
        return total


def epoch_batches(pieces: np.ndarray, params: TeacherParams, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of the pieces (R, 3), `params.batch_size` per batch, until they hold `params.epoch_samples` targets."""
    starts, ends, counts = pieces.T
    batches = bucketed_batches(ends - starts, params.batch_size, seed, epoch=epoch)
    if not params.epoch_samples:
        return batches
    totals = np.cumsum([counts[batch].sum() for batch in batches])
    return batches[: int(np.searchsorted(totals, params.epoch_samples)) + 1]


def next_items(
    model: SASRec,
    items: Tensor,
    lengths: Tensor,
    candidates: StepItems | None = None,
    counts: Tensor | None = None,
) -> NextItems:
    """The places with a target of each sequence: items (B, T + 1), padded on the right, and their lengths (B,).

    Args:
        candidates: the items that are scored, among them all of `items`; only their embeddings are read. None: all.
        counts: (B,) targets of each row, which are its last items. None: all but the first.
    """
    table = model.item_table() if candidates is None else model.item_rows(candidates.items)
    columns = items if candidates is None else candidates.columns(items)
    hidden = model(columns[:, :-1], lengths - 1, table)
    mask = asked(items, lengths, lengths - 1 if counts is None else counts)
    bonus = None if model.repeat_bias is None else Bonus(*model.repeat_bias.at_places(columns[:, :-1], mask))
    size = model.item_embedding.num_embeddings
    sampled = None if candidates is None else sampled_loss(candidates, size, columns, lengths, mask)
    return NextItems(hidden[mask], items[:, 1:][mask], table, bonus, mask, sampled)


def asked(items: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
    """(B, T) bool: the places of the sequences (B, T + 1) whose next item is a target."""
    places, ends = torch.arange(items.shape[1] - 1, device=items.device), (lengths - 1)[:, None]
    return (places < ends) & (places >= ends - counts[:, None])


def validation_users(sequences: Sequences, params: TeacherParams, seed: int) -> np.ndarray:
    """Users whose validation items judge a teacher, the same in every epoch."""
    users = sequences.evaluation_users()
    return sample(users, params.validation_users, seed) if params.validation_users else users


@torch.no_grad()
def validation_metrics(
    model: Teacher, sequences: Sequences, device: torch.device, users: np.ndarray
) -> dict[str, float]:
    """Metrics of the unmasked ranking of the whole catalogue, over the users' validation items.

    Ranks share the users; each has the metrics of all. Memory for scores is bounded, whatever the catalogue's size.
    """
    model.eval()
    slices = rank_slices(len(users))
    ranks = [np.empty(0, np.int64)]
    # Content is projected once. Members of an ensemble have none left.
    known = {"table": model.item_table()} if isinstance(model, SASRec) else {}
    size = min(EVALUATION_BATCH, max(SCORES_AT_ONCE // sequences.catalogue_size, 1))
    for chunk in in_chunks(users[slices[rank()]], size):
        held_out = sequences.held_out(chunk, "validation", model.history)
        read = (torch.as_tensor(part, device=device) for part in (held_out.items, held_out.lengths))
        scores = model.scores(*read, **known)
        ranks.append(rank_in_scores(scores, torch.as_tensor(held_out.targets, device=device)).cpu().numpy())
    own = torch.as_tensor(np.concatenate(ranks), device=device)
    every = gather_rows(own, [part.stop - part.start for part in slices]).cpu().numpy()
    return validation_figures(every)
