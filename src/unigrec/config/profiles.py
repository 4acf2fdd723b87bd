"""Values of params.yaml by dotted keys: profiles, nested overrides, single settings. Reads YAML, writes nothing.

A profile (infra/profiles/NAME.yaml) holds the values that differ from the committed params.yaml. `sample.yaml` holds
the sample's value of every key that another profile sets, so that a change of profile leaves nothing of the first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unigrec.base.errors import UnigrecError
from unigrec.base.files import parse_yaml
from unigrec.config.read import read_mapping

SAMPLE = "sample"
MAPPINGS = {
    "ingest.sql.attach",
    "ingest.events",
    "spark.conf",
}  # keys whose value is a mapping with keys of the user's own: one value
BEGINS_QUOTED = re.compile(r"""\s*("[^"]*"|'[^']*')\s*[^\s"']""")
PROFILES = Path("infra/profiles")  # next to the params file


def profile_names(folder: Path) -> list[str]:
    """The profiles in a folder, the sample first, then by name."""
    return sorted((file.stem for file in folder.glob("*.yaml")), key=lambda name: (name != SAMPLE, name))


def profile_values(folder: Path, name: str) -> dict[str, Any]:
    """The values that a profile sets: the sample's value of every key that any profile sets, then the profile's own.

    Raises:
        UnigrecError: no such profile; the message names the existing ones.
    """
    names = profile_names(folder)
    if name not in names:
        raise UnigrecError(
            f"no profile {name!r} in {folder}; there are {', '.join(names) or 'none'}{guess(name, names)}"
        )
    sample, own = (read_mapping(folder / f"{file}.yaml", keep_notation=True) for file in (SAMPLE, name))
    return dict(leaves(sample)) | dict(leaves(own))


def leaves(mapping: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and their values, in order: {"a": {"b": 1}} -> ("a.b", 1). A list is one value."""
    for key, value in mapping.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in MAPPINGS:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_values(values: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Copy nested values and set some dotted keys. Raises UnigrecError for an unknown key."""
    known = dict(leaves(values))
    for key in wanted:
        if key not in known:
            raise UnigrecError(unknown_key(key, known))

    def copied(mapping: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            name: copied(value, f"{prefix}{name}.")
            if isinstance(value, dict) and f"{prefix}{name}" not in MAPPINGS
            else wanted.get(f"{prefix}{name}", value)
            for name, value in mapping.items()
        }

    return copied(values, "")


def parse_setting(setting: str) -> tuple[str, Any]:
    """`section.key=value` -> key and value; the value is read as YAML. Raises UnigrecError.

    A text that begins with a quoted part and goes on, such as the SQL condition `"Type" = 'order'`, is no YAML, and
    taken as it stands.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise UnigrecError(f"--set {setting}: expected section.key=value, for example joint.epochs=20")
    try:
        value = parse_yaml(text, f"--set {setting}", keep_notation=True) if text.strip() else ""
    except UnigrecError:
        if not BEGINS_QUOTED.match(text):
            raise
        value = text.strip()
    return key.strip(), value


def unknown_key(key: str, known: dict[str, Any]) -> str:
    """The message for a key that params.yaml does not have."""
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f"{key!r} is a section; set one of its keys: {', '.join(inside)}"
    same_ending = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return f"unknown key {key!r}{guess(key, known) or _listed(same_ending)}"


def guess(name: str, candidates: Sequence[str] | dict[str, Any]) -> str:
    """`; did you mean ...?`, or nothing."""
    return _listed(difflib.get_close_matches(name, candidates, n=3, cutoff=0.75))


def _listed(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""
