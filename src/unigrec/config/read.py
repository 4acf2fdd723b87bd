"""Read params.yaml. An unknown key, a wrong type or a bad value is an error that names it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.masking import masked
from unigrec.config.schema import Params


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        UnigrecError: the file is missing, is not a YAML mapping, or holds a forbidden key or value; every finding is
            listed with its key, its value and the allowed values.
    """
    return parse_params(read_mapping(path), str(path))


def read_mapping(path: Path, *, keep_notation: bool = False) -> dict[str, Any]:
    """Read a YAML file of sections; `keep_notation` as in `files.parse_yaml`.

    Raises:
        UnigrecError: the file is missing, or is not UTF-8, not YAML or not a mapping.
    """
    if not path.is_file():
        raise UnigrecError(f"{path}: no such file; run inside the project's folder, or restore it from git")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UnigrecError(f"{path}: not UTF-8: {error}; save it as UTF-8") from error
    raw = files.parse_yaml(text, str(path), keep_notation=keep_notation)
    if not isinstance(raw, dict):
        raise UnigrecError(f"{path}: expected a mapping of sections, found {type(raw).__name__}")
    return raw


def parse_params(raw: dict, where: str = "params") -> Params:
    """Check a mapping against the schema; `where` names it in errors. Raises UnigrecError."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        findings = "\n".join(f"{where}: {line}" for line in _findings(error))
        raise UnigrecError(masked(findings)) from None  # the cause repeats the findings, with every value


def _nearest(loc: tuple[int | str, ...]) -> str:
    """`; did you mean ...?` with the key of the same section that resembles an unknown one most."""
    section: Any = Params
    *sections, name = loc
    for part in sections:
        section = _fields(section)[str(part)]
    found = difflib.get_close_matches(str(name), _fields(section), n=1)
    return f"; did you mean {found[0]!r}?" if found else "; compare with the committed params.yaml"


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    """Keys of a section as params.yaml spells them, with their types."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def is_value(key: str) -> bool:
    """Whether a dotted key names a value of params.yaml, not a section; a file of an earlier version may lack it."""
    section: Any = Params
    for part in key.split("."):
        fields = _fields(section) if isinstance(section, type) and issubclass(section, BaseModel) else {}
        if part not in fields:
            return False
        section = fields[part]
    return not (isinstance(section, type) and issubclass(section, BaseModel))


def _findings(error: ValidationError) -> list[str]:
    lines = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"])
        value = finding["input"]
        if finding["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r} (value {value!r}){_nearest(finding['loc'])}")
        elif finding["type"] == "missing":
            lines.append(f"missing key {key!r}")
        elif isinstance(value, dict):  # a check over several keys of a section: its message names them
            lines.append(f"{key + ': ' if key else ''}{finding['msg'].removeprefix('Value error, ')}")
        else:
            message = finding["msg"].removeprefix("Value error, ")
            lines.append(f"{key} = {value!r}: {message[0].lower()}{message[1:]}")
    return lines
