"""The options of ``c4d generate``, defined once: on the command line, in a file, and as data."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from c4d.backends import known
from c4d.pipelines import EMBEDDED, InputError


@dataclass(frozen=True)
class Options:
    """Every option of ``generate`` with its default; names as on the command line, dashes as underscores."""

    model: str = "wan-tiny"
    backend: str = "auto"
    cache: str | None = None
    attention: str = "auto"
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
    allow_pickle: bool = False
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
    option(what, "--prompt-file", path_to, "FILE", "one prompt a line (UTF-8); blank lines and # comments are skipped")
    option(what, "--negative-prompt", str, "TEXT", "what to steer away from")
    option(what, "--image", path_to, "FILE", "first frame, for image-to-video models")
    option(what, "--height", whole, "N", "pixels; default: the model's own")
    option(what, "--width", whole, "N", "pixels; default: the model's own")
    option(what, "--frames", whole, "N", "frames of the clip, 1 for a picture; default: the model's own")
    option(what, "--steps", whole, "N", "denoising steps; default: the model's own")
    option(what, "--guidance-scale", number, "X", "how strongly to follow the prompt; default: the model's own")
    option(what, "--seed", whole, "N", "of the noise, the same on every device; default 0")
    option(
        what,
        "--fps",
        number,
        "X",
        "frames a second of a saved video, not of a picture; default: the model's own or 16",
    )

    how = add("how to run")
    option(how, "--cache", none_or_text, "TEXT", "caching method, such as fora:interval=3 (c4d methods); default none")
    option(
        how,
        "--attention",
        str,
        "NAME",
        "attention kernel (c4d doctor), auto: the best exact one, or own: the model's code; default auto",
    )
    option(how, "--backend", str, "NAME", f"auto, {', '.join(known())}; default auto")
    option(how, "--dtype", str, "NAME", "of the weights: float32, bfloat16, float16; default: the backend's own")
    option(how, "--threads", whole, "N", "CPU threads; default: the embedded model's own (1), else torch's choice")
    option(how, "--history-dtype", str, "NAME", "what the cache keeps its features in; default: as computed")
    option(how, "--history-on", str, "PLACE", "where the cache keeps them: device or host; default device")
    switch(how, "--allow-pickle", "also read pickled weights (.bin), of people you trust; default: safetensors only")
    switch(how, "--compile", "compile the transformer's blocks before use")
    switch(how, "--compare", "also generate without the cache, and compare")
    option(how, "--repeats", whole, "N", "timed runs of each kind, in turns, after a warm-up; default 1 without one")

    where = add("where to")
    option(
        where, "--out", path_to, "DIR", "folder for the files; with --prompt-file 000, 001, ... inside it; default out"
    )
    switch(where, "--overwrite", "make again what --out holds; without it that is kept, or refused if it differs")
    option(
        where,
        "--config",
        path_to,
        "FILE",
        "YAML file with any of these options; the command line wins over it",
    )
    switch(where, "--quiet", "no progress bar and no report on the terminal")


def read_options(given: Mapping[str, Any], parser: argparse.ArgumentParser) -> Options:
    """Defaults, then the file named by ``config``, then what the command line gave.

    Raises :class:`InputError` for an unknown or repeated key of the file, a value of the wrong kind, and text that is
    not UTF-8.
    """
    flags = _own(given)
    merged = {**(_from_file(given["config"], parser) if "config" in given else {}), **flags}
    for one, other in (("prompt", "prompt_file"), ("prompt_file", "prompt")):
        if one in flags and other not in flags:
            merged.pop(other, None)  # the command line wins over the file for the pair
    for name, value in merged.items():
        if isinstance(value, (str, Path)) and (wrong := _unusable(str(value))):
            raise InputError(f"--{name.replace('_', '-')} {str(value)!r} {wrong}; write it in UTF-8")
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
    lines = [line.strip() for line in _read(options.prompt_file, "prompt file").split("\n")]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"prompt file {str(options.prompt_file)!r} has no prompt; write one a line")
    return prompts


def whole(text: str) -> int:
    try:
        return int(_digits(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    try:
        return float(_digits(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def none_or_text(text: str) -> str | None:
    return None if text.strip() == "none" else text


def path_to(text: str) -> Path:
    if not text:  # would be the folder one is in
        raise argparse.ArgumentTypeError("the name is empty; name a file or folder (. is this folder)")
    return Path(text)


def _digits(text: str) -> str:
    """Python would also take 1_0 and the digits of other scripts."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text


def _unusable(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return "has a zero byte" if "\0" in text else None


def _from_file(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The options of a YAML file, read as if each were given on the command line."""
    file = f"config {str(path)!r}"
    try:
        root = yaml.compose(_read(path, "config"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{file} is not valid YAML: {problem}{line}; write lines 'name: value'") from error
    known = {action.dest: action for action in parser._actions if action.dest in Options.__dataclass_fields__}
    names = ", ".join(name.replace("_", "-") for name in known)
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{file} holds no options; write lines 'name: value' with names of {names}")
    words: dict[str, str] = {}
    for key, value in root.value:
        name = str(key.value).replace("-", "_")
        if name not in known:
            raise InputError(f"unknown option {_written(key)!r} in {file}: known are {names}")
        if name in words:
            raise InputError(f"{key.value} is given twice in {file} (line {key.start_mark.line + 1}); keep one")
        words[name] = _as_flag(known[name], key.value, value, file)
    try:
        return _own(vars(parser.parse_args(list(words.values()))))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _own(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what belongs to the parser: the command, --config, --debug."""
    return {name: value for name, value in given.items() if name in Options.__dataclass_fields__}


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


def _read(path: Path, what: str) -> str:
    """Text of a file, with or without a byte order mark, its lines ended as on any system."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{what} {str(path)!r} cannot be read: {reason}; give a text file in UTF-8") from error
    if wrong := _unusable(text):
        raise InputError(f"{what} {str(path)!r} {wrong}: it is no text, or not UTF-8; save it as UTF-8")
    return text
