"""The options of ``c4d generate``, defined once: on the command line, in a file, and as data."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from c4d.backends import BACKENDS
from c4d.pipelines import EMBEDDED, InputError


@dataclass(frozen=True)
class Options:
    """Every option of ``generate`` with its default; names as on the command line, dashes as underscores."""

    model: str = "wan-tiny"
    backend: str = "auto"
    cache: str | None = None
    prompt: str | None = None
    prompt_file: Path | None = None
    negative_prompt: str | None = None
    image: Path | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    fps: float | None = None
    dtype: str | None = None
    threads: int | None = None
    compile: bool = False
    out: Path = Path("out")
    overwrite: bool = False
    compare: bool = False
    repeats: int = 1
    history_dtype: str | None = None
    history_on: str = "device"
    quiet: bool = False


class Parser(argparse.ArgumentParser):
    """Raises :class:`InputError` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} ({self.prog} --help explains every option)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``generate``; those not given leave no trace in the namespace."""
    add = parser.add_argument_group

    def option(group: Any, name: str, convert: Any, metavar: str, text: str) -> None:
        group.add_argument(name, type=convert, metavar=metavar, default=argparse.SUPPRESS, help=text)

    def switch(group: Any, name: str, text: str) -> None:
        group.add_argument(name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)

    what = add("what to generate")
    embedded = ", ".join(EMBEDDED)
    option(
        what, "--model", str, "NAME", f"embedded model ({embedded}), diffusers directory or hub id; default wan-tiny"
    )
    option(what, "--prompt", str, "TEXT", "what to show")
    option(what, "--prompt-file", Path, "FILE", "one prompt a line (UTF-8); blank lines and # comments are skipped")
    option(what, "--negative-prompt", str, "TEXT", "what to steer away from")
    option(what, "--image", Path, "FILE", "first frame, for image-to-video models")
    option(what, "--height", whole, "N", "pixels; default: the model's own")
    option(what, "--width", whole, "N", "pixels; default: the model's own")
    option(what, "--frames", whole, "N", "frames of the clip, 1 for a picture; default: the model's own")
    option(what, "--steps", whole, "N", "denoising steps; default: the model's own")
    option(what, "--guidance-scale", number, "X", "how strongly to follow the prompt; default: the model's own")
    option(what, "--seed", whole, "N", "of the noise, the same on every device; default 0")
    option(what, "--fps", number, "X", "frames a second of the saved video; default: the embedded model's own, else 16")

    how = add("how to run")
    option(how, "--cache", none_or_text, "TEXT", "caching method, such as fora:interval=3 (c4d methods); default none")
    option(how, "--backend", str, "NAME", f"auto, {', '.join(BACKENDS)}; default auto")
    option(how, "--dtype", str, "NAME", "of the weights: float32, bfloat16, float16; default: the backend's own")
    option(how, "--threads", whole, "N", "CPU threads; default: the embedded model's own (1), else torch's choice")
    option(how, "--history-dtype", str, "NAME", "what the cache keeps its features in; default: as computed")
    option(how, "--history-on", str, "PLACE", "where the cache keeps them: device or host; default device")
    switch(how, "--compile", "compile the transformer's blocks before use")
    switch(how, "--compare", "also generate without the cache, and compare")
    option(how, "--repeats", whole, "N", "timed runs of each kind, in turns, after a warm-up; default 1 without one")

    where = add("where to")
    option(where, "--out", Path, "DIR", "folder for the files, 000, 001, ... inside it with --prompt-file; default out")
    switch(where, "--overwrite", "make again what --out holds; without it that is kept, or refused if it differs")
    option(where, "--config", Path, "FILE", "YAML file with any of these options; the command line wins over it")
    switch(where, "--quiet", "no progress bar and no report on the terminal")


def read_options(given: Mapping[str, Any], parser: argparse.ArgumentParser) -> Options:
    """Defaults, then the file named by ``config``, then what the command line gave.

    Raises :class:`InputError` for an unknown key of the file and a value of the wrong kind.
    """
    flags = _own(given)
    merged = {**(_from_file(given["config"], parser) if "config" in given else {}), **flags}
    for one, other in (("prompt", "prompt_file"), ("prompt_file", "prompt")):
        if one in flags and other not in flags:
            merged.pop(other, None)  # the command line wins over the file for the pair
    return Options(**merged)


def read_prompts(options: Options) -> list[str]:
    """The prompts of ``--prompt`` or ``--prompt-file``. Raises :class:`InputError` for none, both, or a bad file."""
    if (options.prompt is None) == (options.prompt_file is None):
        both = "--prompt and --prompt-file are both given; keep one"
        known = f", such as --prompt {EMBEDDED[options.model].example!r}" if options.model in EMBEDDED else ""
        raise InputError(both if options.prompt is not None else f"no prompt: give --prompt or --prompt-file{known}")
    if options.prompt is not None:
        return [options.prompt]
    assert options.prompt_file is not None
    lines = [line.strip() for line in _read(options.prompt_file, "prompt file").splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"prompt file {str(options.prompt_file)!r} has no prompt; write one a line")
    return prompts


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def none_or_text(text: str) -> str | None:
    return None if text.strip() == "none" else text


def _from_file(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The options of a YAML file, read as if each were given on the command line."""
    try:
        values = yaml.safe_load(_read(path, "config"))
    except yaml.YAMLError as error:
        raise InputError(f"config {str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from error
    known = {action.dest: action for action in parser._actions if action.dest in Options.__dataclass_fields__}
    names = ", ".join(name.replace("_", "-") for name in known)
    if not isinstance(values, dict):
        raise InputError(f"config {str(path)!r} holds no options; write lines 'name: value' with names of {names}")
    words: list[str] = []
    for key, value in values.items():
        action = known.get(str(key).replace("-", "_"))
        if action is None:
            raise InputError(f"unknown option {key!r} in config {str(path)!r}: known are {names}")
        words.append(_as_flag(action, key, value, path))
    return _own(vars(parser.parse_args(words)))


def _own(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what belongs to the parser: the command, --config, --debug."""
    return {name: value for name, value in given.items() if name in Options.__dataclass_fields__}


def _as_flag(action: argparse.Action, key: Any, value: Any, path: Path) -> str:
    flag = action.option_strings[0]
    is_switch = isinstance(action, argparse.BooleanOptionalAction)
    if is_switch and isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    if is_switch or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        wanted = "true or false" if is_switch else "one text or number (in quotes if it is a word such as yes)"
        raise InputError(f"config {str(path)!r}: {key} is {value!r}; it takes {wanted}")
    return f"{flag}={value}"


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{what} {str(path)!r} cannot be read: {reason}; give a text file") from error
