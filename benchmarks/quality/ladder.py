"""The rungs of infra/ladder.yaml: experiments as data, and the params of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from unigrec.base.errors import UnigrecError
from unigrec.config.profiles import PROFILES, leaves, parse_setting, profile_values, with_values
from unigrec.config.read import parse_params, read_mapping
from unigrec.config.schema import Params

LADDER = Path("infra/ladder.yaml")  # in the project's folder, like params.yaml and the profiles
FROM_PROFILE = "profile"  # as a value in the ladder: not what the rung inherits, but the profile's value
KEYS = {"description", "published", "against", "parts", "params"}


class Rung(NamedTuple):
    """One experiment: the params that it changes, and the rung that it is compared with."""

    name: str
    description: str
    params: dict[str, Any]  # dotted keys, those of `against` among them
    against: str | None  # an earlier rung
    published: dict[str, float]  # metric -> value
    parts: tuple[str, ...] = ()  # baselines that it is compared with too


def read_ladder(path: Path) -> list[Rung]:
    """The rungs in their order, each with the params that it inherits. Raises UnigrecError, naming the rung."""
    rungs: dict[str, Rung] = {}
    for name, entry in read_mapping(path).items():
        if not isinstance(entry, dict) or set(entry) - KEYS:
            raise UnigrecError(f"{path}: {name}: expected a mapping with {', '.join(sorted(KEYS))}, found {entry!r}")
        against = entry.get("against", next(reversed(rungs), None))
        if against is not None and against not in rungs:
            raise UnigrecError(f"{path}: {name}: against: no rung {against!r} before it")
        params = (rungs[against].params if against else {}) | dict(leaves(entry.get("params", {})))
        params = {key: value for key, value in params.items() if value != FROM_PROFILE}
        description, published = entry.get("description", ""), entry.get("published", {})
        parts = tuple(entry.get("parts", ()))
        rungs[str(name)] = Rung(str(name), description, params, against=against, published=published, parts=parts)
    return list(rungs.values())


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
    """`values`, overwritten by the rung's params, then by the settings, then by the seed. Raises UnigrecError."""
    wanted = rung.params | dict(map(parse_setting, settings)) | {"seed": seed}
    return parse_params(with_values(values, wanted), rung.name)
