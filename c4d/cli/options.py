"""The options of ``c4d generate``, defined once: on the command line, in a file, and as data."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from c4d.backends import known
from c4d.cli.config import from_file, read_text, unusable
from c4d.pipelines import BUNDLED, InputError


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
    ulysses: int | None = None
    ring: int | None = None
    cfg: int | None = None
    data: int = 1
    jointly: bool = False
    groups: str = "auto"
    timeout: float = 600.0


class Parser(argparse.ArgumentParser):
    """Raises :class:`InputError` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        known = "generate --help" if self.prog == "c4d" else "--help"
        raise InputError(f"{message} ({self.prog} {known} explains every option)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``generate``; those not given leave no trace in the namespace."""
    add = parser.add_argument_group

    def option(group: Any, name: str, convert: Any, metavar: str, text: str) -> None:
        group.add_argument(name, type=convert, metavar=metavar, default=argparse.SUPPRESS, help=text)

    def switch(group: Any, name: str, text: str) -> None:
        group.add_argument(name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)

    what = add("what to generate")
    bundled = ", ".join(BUNDLED)
    option(what, "--model", str, "NAME", f"bundled model ({bundled}), diffusers directory or hub id; default wan-tiny")
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
    option(how, "--threads", whole, "N", "CPU threads; default: the bundled model's own (1), else torch's choice")
    option(how, "--history-dtype", str, "NAME", "what the cache keeps its features in; default: as computed")
    option(how, "--history-on", str, "PLACE", "where the cache keeps them: device or host; default device")
    switch(how, "--allow-pickle", "also read pickled weights (.bin), of people you trust; default: safetensors only")
    switch(how, "--compile", "compile the transformer's blocks before use")
    switch(how, "--compare", "also generate without the cache, and compare")
    option(how, "--repeats", whole, "N", "timed runs of each kind, in turns, after a warm-up; default 1 without one")

    ranks = add("several devices (torchrun --nproc-per-node=N)")
    option(ranks, "--ulysses", whole, "N", "ranks that share an attention by heads; default: chosen, and printed")
    option(ranks, "--ring", whole, "N", "ranks that share an attention by keys; default: chosen, and printed")
    option(ranks, "--cfg", whole, "N", "2: each branch of guidance has ranks of its own; default: chosen, and printed")
    option(ranks, "--data", whole, "N", "groups of ranks with prompts of their own (--prompt-file); default 1")
    switch(ranks, "--jointly", "both branches of guidance take the same caching decisions")
    option(ranks, "--groups", str, "NAME", "who makes the groups of ranks: xfuser, torch, or auto; default auto")
    option(ranks, "--timeout", number, "X", "seconds that ranks wait for each other before the job fails; default 600")

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
    filed = from_file(given["config"], parser, Options.__dataclass_fields__) if "config" in given else {}
    merged = {**filed, **flags}
    for one, other in (("prompt", "prompt_file"), ("prompt_file", "prompt")):
        if one in flags and other not in flags:
            merged.pop(other, None)  # the command line wins over the file for the pair
    for name, value in merged.items():
        if isinstance(value, (str, Path)) and (wrong := unusable(str(value))):
            raise InputError(f"--{name.replace('_', '-')} {str(value)!r} {wrong}; write it in UTF-8")
    return Options(**merged)


def read_prompts(options: Options) -> list[str]:
    """The prompts of ``--prompt`` or ``--prompt-file``. Raises :class:`InputError` for none, both, or a bad file."""
    if (options.prompt is None) == (options.prompt_file is None):
        both = "--prompt and --prompt-file are both given; keep one"
        known = f", such as --prompt {BUNDLED[options.model].example!r}" if options.model in BUNDLED else ""
        raise InputError(both if options.prompt is not None else f"no prompt: give --prompt or --prompt-file{known}")
    if options.prompt is not None:
        return [options.prompt]
    assert options.prompt_file is not None
    lines = [line.strip() for line in read_text(options.prompt_file, "prompt file").split("\n")]
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


def _own(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what belongs to the parser: the command, --config, --debug."""
    return {name: value for name, value in given.items() if name in Options.__dataclass_fields__}
