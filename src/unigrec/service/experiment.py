"""A champion and a challenger that answer side by side: when the experiment runs, and when it is over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from unigrec.service.variants import name_of

if TYPE_CHECKING:
    from unigrec.service.fleet import Fleet
    from unigrec.service.watch import Version

log = logging.getLogger("unigrec.service")


class Experiment:
    """Two fleets, and the share of visitors that the challenger's answers.

    The challenger never costs an answer: while it does not answer, the champion does, also what waits for it.
    When its version has become champion, the experiment is over, and stays over after a rollback: it begins again with
    another version, or with another start of the service.
    """

    def __init__(self, champion: Fleet, challenger: Fleet, share: float):
        self.champion, self.challenger, self.share = champion, challenger, share
        self.over: str | None = None  # the version that has become champion
        challenger.on_down = lambda: challenger.batcher.hand_over(champion.batcher)

    @property
    def name(self) -> str | None:
        """Of the versions that answer now; None while it does not run."""
        champion, challenger = self.champion.current, self.challenger.current
        if champion is None or challenger is None or not self.challenger.is_ready:
            return None
        if self.is_same():
            return None
        return name_of(champion.version.label, challenger.version.label)

    def is_same(self) -> bool:
        """Whether both fleets hold one bundle."""
        champion, challenger = self.champion.current, self.challenger.current
        return (
            champion is not None and challenger is not None and champion.facts["bundle"] == challenger.facts["bundle"]
        )

    def wants(self, version: Version) -> bool:
        """Whether a version can be challenger: it is not champion now, nor did it end this experiment."""
        champion = self.champion.current
        if champion is not None and version.label == champion.version.label:
            self.over = version.label
            log.info("no experiment: %s is the champion already", version.label)
        return version.label != self.over

    async def settle(self) -> None:
        """End the experiment if challenger and champion are one model. To be called after each change of either."""
        if (challenger := self.challenger.current) is None:
            return
        self.over = None
        if self.is_same():
            self.over = challenger.version.label
            log.info("the experiment is over: %s is the champion now", self.over)
            self.challenger.report(None)
            await self.challenger.end()

    def state(self) -> dict[str, Any]:
        """For /readyz."""
        current = self.challenger.current
        return {
            "running": self.name is not None,
            "experiment": self.name,
            "version": current.version.label if current else None,
            "share": self.share,
            "workers": self.challenger.alive,
            "over": self.over,
            "problem": self.challenger.problem,
        }
