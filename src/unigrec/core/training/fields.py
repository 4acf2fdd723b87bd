"""Heads that predict fields of the next item, such as its brand, while the teacher is trained.

A field has fewer values than there are items, so a state sees more examples of each. The heads are dropped after
training. What they are worth: docs/RESULTS.md.

Shapes: N items, V classes of the item that has most, C classes, P places, E width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unigrec.core.distributed import world_size


class FieldHeads(nn.Module):
    """A linear head per field.

    Args:
        fields: (N, V) int64 per field, the classes of each item; -1 for none.
        d_model: E.
    """

    def __init__(self, fields: Sequence[Tensor], d_model: int):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(d_model, int(classes.max()) + 1) for classes in fields])
        for number, classes in enumerate(fields):
            self.register_buffer(f"classes_{number}", classes, persistent=False)

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        batch_targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Cross entropy of the next items' classes, summed over fields: states (P, E), next items (P,) -> scalar.

        What is to be predicted is uniform over the classes of an item. Places whose item has none do not count.

        batch_targets: the next items of all ranks, whose mean the mean over ranks is then. None: there is one rank.
        weights: (P,) of the places. None: 1 each.
        """
        total = hidden.new_zeros(())
        for number, head in enumerate(self.heads):
            table = self.get_buffer(f"classes_{number}")
            classes = table[targets]  # (P, V)
            size = (table[targets if batch_targets is None else batch_targets] >= 0).any(1).sum()
            has_class = (classes >= 0).any(1)
            classes, states = classes[has_class], hidden[has_class]
            exists = classes >= 0
            log_p = head(states).log_softmax(-1).gather(1, classes.clamp_min(0))  # (P, V)
            of_places = (log_p * exists / exists.sum(1, keepdim=True)).sum(1)
            of_places = of_places if weights is None else of_places * weights[has_class]
            total -= of_places.sum() * world_size() / size.clamp_min(1)
        return total
