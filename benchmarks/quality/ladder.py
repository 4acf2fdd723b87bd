"""The rungs of infra/ladder.yaml: experiments as data, and the params that each one runs with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from unigrec.base.errors import UnigrecError
from unigrec.config.profiles import PROFILES, leaves, parse_setting, profile_values, with_values
from unigrec.config.schema import Params, parse_params, read_mapping

LADDER = Path("infra/ladder.yaml")  # in the project's folder, as params.yaml and the profiles
KEYS = {"description", "published", "against", "params"}


class Rung(NamedTuple):
    """One experiment: what it changes in params, and what it is compared with."""

    name: str
    description: str
    params: dict[str, Any]  # dotted keys
    against: str | None  # an earlier rung
    published: dict[str, float]  # metric -> value


def read_ladder(path: Path) -> list[Rung]:
    """The rungs in their order. Raises UnigrecError, naming the rung."""
    rungs: list[Rung] = []
    for name, entry in read_mapping(path).items():
        if not isinstance(entry, dict) or set(entry) - KEYS:
            raise UnigrecError(f"{path}: {name}: expected a mapping with {', '.join(sorted(KEYS))}, found {entry!r}")
        against = entry.get("against", rungs[-1].name if rungs else None)
        if against is not None and against not in {rung.name for rung in rungs}:
            raise UnigrecError(f"{path}: {name}: against: no rung {against!r} before it")
        changes = dict(leaves(entry.get("params", {})))
        rungs.append(Rung(str(name), entry.get("description", ""), changes, against, entry.get("published", {})))
    return rungs


def chosen_rungs(ladder: list[Rung], names: str | None) -> list[Rung]:
    """Rungs by their names with commas between them, in the ladder's order; all for None. Raises UnigrecError."""
    if names is None:
        return ladder
    wanted = {name.strip() for name in names.split(",")}
    unknown = wanted - {rung.name for rung in ladder}
    if unknown:
        known = ", ".join(rung.name for rung in ladder)
        raise UnigrecError(f"--rungs {names}: no rung {min(unknown)!r}; there are {known}")
    return [rung for rung in ladder if rung.name in wanted]


def profile_params(root: Path, profile: str) -> dict[str, Any]:
    """The values of params.yaml with a profile over them. Raises UnigrecError."""
    wanted = profile_values(root / PROFILES, profile) | {"profile": profile}
    return with_values(read_mapping(root / "params.yaml"), wanted)


def rung_params(values: dict[str, Any], rung: Rung, settings: list[str], seed: int) -> Params:
    """`values`, over them the rung's, then the settings, then the seed. Raises UnigrecError."""
    wanted = rung.params | dict(map(parse_setting, settings)) | {"seed": seed}
    return parse_params(with_values(values, wanted), rung.name)
