"""Test users of a bundle's run: their histories, and the item after each, which was held out from the training.

A bundle holds no histories but those of the examples in its report. All test users come from the project's artifacts,
where the service runs in the project's folder and the artifacts are those of the bundle.

Shapes: U test users, n interactions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unigrec.base import files, paths
from unigrec.base.data_version import test_set_version
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.core.evaluation.protocol import SHIPPED, Protocol
from unigrec.core.sequences import LONGEST
from unigrec.serving.manifest import FACTS

if TYPE_CHECKING:
    from unigrec.serving.bundle import Bundle


class HeldOutUser(NamedTuple):
    """history: items, oldest first. earlier: how many before these are left out. rank: of the run; None: not found."""

    history: list[int]
    held_out: int
    earlier: int
    rank: int | None


class OfArtifacts(NamedTuple):
    """Test users of the project's prepared data.

    Args:
        items: (n,). offsets: of all users. users, ranks: (U,) as ranks.parquet has them.
    """

    items: np.ndarray
    offsets: np.ndarray
    users: np.ndarray
    ranks: np.ndarray
    source: str = "artifacts"

    @property
    def size(self) -> int:
        return len(self.users)

    def user(self, number: int) -> HeldOutUser:
        start, end = self.offsets[self.users[number] : self.users[number] + 2].tolist()
        first = max(start, end - 1 - LONGEST)
        history, held_out = self.items[first : end - 1].tolist(), int(self.items[end - 1])
        return HeldOutUser(history, held_out, first - start, int(self.ranks[number]) or None)


class OfReport(NamedTuple):
    """The examples of the bundle's report whose items the catalogue holds."""

    users: list[HeldOutUser]
    source: str = "report"

    @property
    def size(self) -> int:
        return len(self.users)

    def user(self, number: int) -> HeldOutUser:
        return self.users[number]


def held_out_users(bundle: Bundle) -> OfArtifacts | OfReport:
    """All test users if the artifacts are there, else the report's examples. Raises UnigrecError for neither."""
    users = _found(bundle)
    if users is None:
        raise UnigrecError(
            "no test users: the bundle's report has no examples, and the service does not run in the folder of the "
            "project that made the bundle"
        )
    return users


@lru_cache(maxsize=1)
def _found(bundle: Bundle) -> OfArtifacts | OfReport | None:
    """Looked for once: that there are none is kept too."""
    return _of_artifacts(bundle, Artifacts()) or _of_report(bundle)


def _of_artifacts(bundle: Bundle, artifacts: Artifacts) -> OfArtifacts | None:
    if not (artifacts.sequences.is_file() and artifacts.catalogue.is_file()):
        return None
    if test_set_version(artifacts) != bundle.manifest.get("data", {}).get("test_set"):
        return None
    arrays = files.read_arrays(artifacts.sequences)
    table = files.read_table(bundle.folder / paths.RANKS_FILE)
    ranked = f"{SHIPPED}_{Protocol.UNMASKED}"
    if ranked not in table.column_names or not len(table):
        return None
    users, ranks = table["user_index"].to_numpy(), table[ranked].to_numpy()
    return OfArtifacts(arrays["items"], arrays["offsets"], users, ranks)


def _of_report(bundle: Bundle) -> OfReport | None:
    path = bundle.folder / FACTS
    examples = files.read_json(path).get("examples", []) if path.is_file() else []
    found = [user for user in (_of_example(bundle, example) for example in examples) if user is not None]
    return OfReport(found) if found else None


def _of_example(bundle: Bundle, example: dict[str, Any]) -> HeldOutUser | None:
    """None if an item is not in the catalogue: the report shortens long ids."""
    ids = [item["id"] for item in (*example["history"], example["taken"])]
    if any(item not in bundle.index_of for item in ids):
        return None
    *history, held_out = [bundle.index_of[item] for item in ids]
    return HeldOutUser(history, held_out, example["earlier"], example["rank"] or None)
