"""The teacher as the other stages see it: one SASRec, or several that differ in their seed alone.

Networks of different seeds make different mistakes, so the mean of their scores ranks better than each. A mean of
logits is a mean of log-probabilities, but for a constant per history.

Shapes: B histories of up to T items, P targets, N items, E width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from unigrec.core.models.sasrec import SASRec, States


class TeacherEnsemble(nn.Module):
    """Several teachers of one catalogue. It has the interface of `SASRec` that retrieval and distillation use."""

    def __init__(self, members: Sequence[SASRec]):
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def history(self) -> int:
        return self.networks[0].history

    @property
    def networks(self) -> list[SASRec]:
        """The teachers."""
        return [member for member in self.members if isinstance(member, SASRec)]

    def item_vectors(self) -> Tensor:
        """(N, E) of the first member: the members' spaces have nothing to do with each other."""
        return self.networks[0].item_vectors()

    def scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Mean of the members' logits after each history: (B, T), (B,) -> (B, N)."""
        return self._mean([member.scores(items, lengths) for member in self.networks])

    def scores_of(self, items: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """As `SASRec.scores_of`, the mean of the members' logits."""
        return self._mean([member.scores_of(items, lengths, wanted) for member in self.networks])

    def last_states(self, items: Tensor, lengths: Tensor) -> tuple[States, ...]:
        """As `SASRec.last_states`, an entry per member."""
        return tuple(states for member in self.networks for states in member.last_states(items, lengths))

    def states_at(self, items: Tensor, lengths: Tensor, mask: Tensor) -> tuple[States, ...]:
        """As `SASRec.states_at`, an entry per member."""
        return tuple(states for member in self.networks for states in member.states_at(items, lengths, mask))

    def block_scores(self, states: Sequence[States], items: slice) -> Tensor:
        """As `SASRec.block_scores`, the mean of the members' logits."""
        return self._mean([m.block_scores([own], items) for m, own in zip(self.networks, states, strict=True)])

    def scores_at(self, states: Sequence[States], items: Tensor) -> Tensor:
        """As `SASRec.scores_at`, the mean of the members' logits."""
        return self._mean([m.scores_at([own], items) for m, own in zip(self.networks, states, strict=True)])

    def _mean(self, scores: list[Tensor]) -> Tensor:
        total = scores[0]
        for one in scores[1:]:
            total = total.add_(one)
        return total.div_(len(scores))


Teacher = SASRec | TeacherEnsemble


def members_of(teacher: Teacher) -> list[SASRec]:
    """The networks of a teacher; their scores are averaged."""
    return [teacher] if isinstance(teacher, SASRec) else teacher.networks


def build_teacher(config: dict[str, Any]) -> Teacher:
    """An untrained teacher. config: the arguments of `SASRec`, and `members`."""
    shape = dict(config)
    count = shape.pop("members", 1)
    members = [SASRec(**shape) for _ in range(count)]
    return members[0] if len(members) == 1 else TeacherEnsemble(members)
