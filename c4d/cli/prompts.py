"""Prompts as people give them: a text, a file with one a line, or JSON lines with what is a prompt's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c4d.bundled.models import BUNDLED
from c4d.cli.config import read_text
from c4d.cli.options import Calling, Shared, flag
from c4d.pipelines import InputError
from c4d.pipelines.inputs import is_file

JSONL = ".jsonl"
FIELDS = ("prompt", "seed", "negative_prompt", "image", "last_image", "video", "mask", "control")


def read_prompts(options: Shared) -> list[dict[str, Any]]:
    """Of each prompt of ``--prompt`` or ``--prompt-file`` what is its own, by the fields of a request: ``prompt`` and,
    if a line of a .jsonl file says more, that. Files are meant from the folder of that file.

    Raises :class:`InputError` for none, both, or a bad file.
    """
    if (options.prompt is None) == (options.prompt_file is None):
        both = "--prompt and --prompt-file are both given; keep one"
        known = f", such as --prompt {BUNDLED[options.model].example!r}" if options.model in BUNDLED else ""
        raise InputError(both if options.prompt is not None else f"no prompt: give --prompt or --prompt-file{known}")
    if options.prompt is not None:
        return [{"prompt": options.prompt}]
    assert options.prompt_file is not None
    lines = list(_lines(options.prompt_file, "prompt file"))
    if not lines:
        raise InputError(f"prompt file {str(options.prompt_file)!r} has no prompt; write one a line")
    if options.prompt_file.suffix != JSONL:
        return [{"prompt": line} for _, line in lines]
    found = [_said(line, f"line {number} of prompt file {str(options.prompt_file)!r}") for number, line in lines]
    for field in {name for each in found for name in each} - {"prompt", "seed"}:
        if getattr(options, field, None):
            raise InputError(
                f"{flag(field)} is given, and prompt file {str(options.prompt_file)!r} has {field} of its own; keep one"
            )
    folder = options.prompt_file.parent
    return [{name: _placed(folder, name, value) for name, value in each.items()} for each in found]


def negative_prompts(options: Calling, count: int) -> list[str | None]:
    """The negative prompt of each of ``count`` prompts. Raises :class:`InputError` for a file that does not fit."""
    if options.negative_prompt_file is None:
        return [options.negative_prompt] * count
    if options.negative_prompt is not None:
        raise InputError("--negative-prompt and --negative-prompt-file are both given; keep one")
    file = f"negative prompt file {str(options.negative_prompt_file)!r}"
    lines: list[str | None] = [line for _, line in _lines(options.negative_prompt_file, "negative prompt file")]
    if len(lines) not in (1, count):
        raise InputError(
            f"{file} has {len(lines)} lines for {count} prompt{'s' * (count != 1)}: write one for each, or one for all"
        )
    return lines * count if len(lines) == 1 else lines


def requests_of(options: Calling) -> list[dict[str, Any]]:
    """:func:`read_prompts`, each with its seed (N, N + 1, … of ``--seed N`` where none is its own) and negative prompt.

    Raises :class:`InputError` as that does, and for negative prompts that are said twice.
    """
    found = read_prompts(options)
    if options.negative_prompt_file is not None and any("negative_prompt" in each for each in found):
        raise InputError(
            f"--negative-prompt-file is given, and prompt file {str(options.prompt_file)!r} has negative_prompt of its "
            "own; keep one"
        )
    negatives = negative_prompts(options, len(found))
    return [
        {"seed": options.seed + i, "negative_prompt": negative, **each}
        for i, (negative, each) in enumerate(zip(negatives, found, strict=True))
    ]


def _lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path, what).split("\n"), 1):
        if (text := line.strip()) and not text.startswith("#"):
            yield number, text


def _said(line: str, where: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise InputError(f'{where} is no JSON ({error}); write {{"prompt": "…", "seed": 7}}') from error
    if not isinstance(said, dict) or not isinstance(said.get("prompt"), str):
        raise InputError(f'{where} is no object with a prompt; write {{"prompt": "…", "seed": 7}}')
    for name, value in said.items():
        if name not in FIELDS:
            raise InputError(f"unknown {name!r} in {where}: known are {', '.join(FIELDS)}")
        if name == "seed":
            wrong = isinstance(value, bool) or not isinstance(value, int)
        else:
            texts = value if name == "image" and isinstance(value, list) else [value]
            wrong = not texts or not all(isinstance(text, str) and text for text in texts)
        if wrong:
            wanted = "a whole number" if name == "seed" else "a text" + (" or a list of texts" * (name == "image"))
            raise InputError(f"{name} is {value!r} in {where}; it takes {wanted}")
    return said


def _placed(folder: Path, name: str, value: Any) -> Any:
    if not is_file(name):
        return value
    if name == "image":
        return tuple(folder / each for each in ([value] if isinstance(value, str) else value))
    return folder / value
