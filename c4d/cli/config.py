"""The options of ``c4d generate`` in a YAML file, and text files as people write them."""

from __future__ import annotations

import argparse
from collections.abc import Container
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from c4d.pipelines import InputError


def from_file(path: Path, parser: argparse.ArgumentParser, names: Container[str]) -> dict[str, Any]:
    """The options called ``names`` of a YAML file, read by ``parser`` as if each were given on the command line."""
    file = f"config {str(path)!r}"
    try:
        root = yaml.compose(read_text(path, "config"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{file} is not valid YAML: {problem}{line}; write lines 'name: value'") from error
    known = {action.dest.rstrip("_"): action for action in parser._actions if action.dest in names}
    listed = ", ".join(name.replace("_", "-") for name in known)
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{file} holds no options; write lines 'name: value' with names of {listed}")
    words: dict[str, list[str]] = {}
    for key, value in root.value:
        name = str(key.value).replace("-", "_")
        if name not in known:
            raise InputError(f"unknown option {_written(key)!r} in {file}: known are {listed}")
        if name in words:
            raise InputError(f"{key.value} is given twice in {file} (line {key.start_mark.line + 1}); keep one")
        several = isinstance(known[name], argparse._AppendAction) and isinstance(value, yaml.SequenceNode)
        words[name] = [_as_flag(known[name], key.value, each, file) for each in (value.value if several else [value])]
    try:
        return {name: x for name, x in vars(parser.parse_args(list(chain(*words.values())))).items() if name in names}
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _as_flag(action: argparse.Action, key: str, value: yaml.Node, file: str) -> str:
    """The words of the file stay as written: YAML itself would read 012 as 10 and 2026-01-01 as a date."""
    flag, kind = action.option_strings[0], value.tag.rpartition(":")[2]
    is_switch = isinstance(action, argparse.BooleanOptionalAction)
    if is_switch and kind == "bool":
        return flag if yaml.SafeLoader.bool_values[value.value.lower()] else flag.replace("--", "--no-", 1)
    if is_switch or kind not in ("str", "int", "float", "timestamp"):
        wanted = "true or false" if is_switch else "one text or number (in quotes if it is a word such as yes or null)"
        raise InputError(f"{file}: {key} is {_written(value)!r}; it takes {wanted}")
    return f"{flag}={value.value}"


def _written(node: yaml.Node) -> str:
    """The words of the file that a node was read from, on one line."""
    return " ".join(str(node.start_mark.buffer)[node.start_mark.pointer : node.end_mark.pointer].split())


def read_text(path: Path, what: str) -> str:
    """Text of a file, with or without a byte order mark, its lines ended as on any system."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{what} {str(path)!r} cannot be read: {reason}; give a text file in UTF-8") from error
    if wrong := unusable(text):
        raise InputError(f"{what} {str(path)!r} {wrong}: it is no text, or not UTF-8; save it as UTF-8")
    return text


def unusable(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return "has a zero byte" if "\0" in text else None
