"""`unigrec configure`: rewrite values in params.yaml by profile, data source or single key; comments and layout stay.

Profiles are explained in profiles.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from unigrec.base.errors import UnigrecError
from unigrec.base.files import dump_yaml, parse_yaml, write_text
from unigrec.config.profiles import (
    PROFILES,
    SAMPLE,
    leaves,
    parse_setting,
    profile_names,
    profile_values,
    unknown_key,
)
from unigrec.config.read import is_value, parse_params, read_mapping

SAMPLE_SOURCE = {"ingest.source": "sample", "ingest.path": "infra/sample.yaml"}
COMMENT_COLUMN = 34  # where params.yaml starts its comments; after a longer value, two spaces


class Change(NamedTuple):
    """One value that `configure` rewrote."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def configure(
    params_file: Path,
    profile: str | None = None,
    data: str | None = None,
    source: str | None = None,
    settings: Sequence[str] = (),
) -> list[Change]:
    """Rewrite values of a params file; a later argument wins over an earlier one.

    Args:
        params_file: rewritten as a whole or not at all; profiles are looked up in `infra/profiles` next to it.
        profile: a name. Every key that any profile sets first goes back to the sample's value.
        data: a folder, relative to the working directory or absolute, or "sample" for the generator.
        source: the kind of source of `data`, or of the path that is already set; "folder" if only `data` is given.
        settings: "section.key=value", the value as YAML, written as it was typed.

    Returns:
        The changed values, in the order of the file.

    Raises:
        UnigrecError: an unknown profile or key, a missing folder, a value that the schema refuses; nothing is written.
    """
    document = read_mapping(params_file, keep_notation=True)
    wanted: dict[str, Any] = {}
    if profile is not None:
        wanted |= profile_values(params_file.parent / PROFILES, profile) | {"profile": profile}
    wanted |= _source_values(params_file, data, source) | dict(map(parse_setting, settings))

    known = dict(leaves(document))
    new = [key for key in wanted if key not in known]
    for key in new:
        if not is_value(key):
            raise UnigrecError(unknown_key(key, known))
    changes = [
        Change(key, old, wanted[key]) for key, old in known.items() if key in wanted and _differ(old, wanted[key])
    ]
    changes += [Change(key, None, wanted[key]) for key in new]
    for change in changes:
        _set(document, change.key, change.new)

    text = dump_yaml(document)
    parse_params(parse_yaml(text, str(params_file)), str(params_file))  # as the stages will read it
    if changes:
        write_text(params_file, text)
    return changes


def describe(params_file: Path) -> str:
    """Describe in one line the profile and data that are set, and the existing profiles. Raises UnigrecError."""
    known = dict(leaves(read_mapping(params_file)))
    names = ", ".join(profile_names(params_file.parent / PROFILES))
    return (
        f"profile {known.get('profile')}, data {known.get('ingest.path')} ({known.get('ingest.source')}); "
        f"profiles: {names}"
    )


def _source_values(params_file: Path, data: str | None, source: str | None) -> dict[str, Any]:
    if SAMPLE in (data, source):
        if {data, source} - {SAMPLE, None}:
            raise UnigrecError(
                f"--data {data} --source {source}: the generator reads no folder (one named so: ./{SAMPLE})"
            )
        return SAMPLE_SOURCE
    if data is None:
        return {} if source is None else {"ingest.source": source}
    folder = Path(data).expanduser()
    if not folder.is_dir():
        found = "is a file; name the folder that holds it" if folder.exists() else "no such folder"
        raise UnigrecError(f"--data {data}: {found} (or {SAMPLE!r} for generated data)")
    if not folder.is_absolute():  # the stages run in the project's folder
        folder = Path(os.path.relpath(folder, params_file.parent))
    return {"ingest.source": source or "folder", "ingest.path": str(folder)}


def _differ(old: Any, new: Any) -> bool:
    return isinstance(old, bool) != isinstance(new, bool) or old != new


def _set(document: Any, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    section = document
    for part in sections:
        if part not in section:  # in the params.yaml of an earlier version
            section[part] = CommentedMap()
        section = section[part]
    if name not in section:  # before the last key, behind which a blank line and the next section's comments stand
        section.insert(max(len(section) - 1, 0), name, value)
    section[name] = None  # without this, the new value would get the quotes of the old one
    section[name] = _without_comment(value) if value != "" else DoubleQuotedScalarString("")
    comment = section.ca.items.get(name, (None, None, None))[2]
    if comment is not None:
        end = 2 * len(sections) + len(dump_yaml({name: section[name]}).rstrip("\n"))
        comment.start_mark.column = max(COMMENT_COLUMN, end + 2)


def _without_comment(value: Any) -> Any:
    """A list of a profile brings the comment behind it along; it stays on one line."""
    if isinstance(value, list):
        value = CommentedSeq(value)
        value.fa.set_flow_style()
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value) or '""'
