"""The options of ``c4d generate``, defined once: on the command line, in a file, and as data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

from c4d.backends import known
from c4d.bundled.models import BUNDLED, ROLLING
from c4d.cli.config import from_file, unusable
from c4d.pipelines import InputError
from c4d.plan.sizes import parse_size

T = TypeVar("T")
S = TypeVar(
    "S",
    "Options",
    "TuneOptions",
    "CompareOptions",
    "CalibrateOptions",
    "PlanOptions",
    "ServeOptions",
    "StudioOptions",
    "Shared",
)


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


def numbers(text: str) -> tuple[int, ...]:
    return tuple(whole(part) for part in text.split("/"))


def names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def size(text: str) -> int:
    """Bytes."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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


WHAT, HOW, GOAL = "what to generate", "how to run", "what to aim for"
RANKS, WHERE = "several devices (torchrun --nproc-per-node=N)", "where to"
CLUSTER = "a prompt file on many devices (docs/clusters.md)"
WHO, LIMITS = "who is served", "what a request may ask for"
GROUPS = (WHAT, GOAL, HOW, RANKS, CLUSTER, WHO, LIMITS, WHERE)
OF_CACHE = "what the cache may hold on a device, such as 64MiB or 8GiB (docs/memory.md)"
OF_DEVICE = "what a request may take of a device, such as 24GiB: chooses --memory"
OWN_SIZE = "default: the model's own"


def option(default: Any, group: str, convert: Callable[[str], Any], metavar: str, text: str, **more: Any) -> Any:
    """A field of :class:`Options` that takes a value; ``more`` goes to argparse."""
    how = {"group": group, "type": convert, "metavar": metavar, "help": text, **more}
    return field(default=default, metadata=how)


def switch(group: str, text: str) -> Any:
    """A field of :class:`Options` that is on or off."""
    return field(default=False, metadata={"group": group, "action": argparse.BooleanOptionalAction, "help": text})


def several(group: str, convert: Callable[[str], Any], metavar: str, text: str) -> Any:
    """A field of :class:`Options` that may be given several times."""
    how = {"group": group, "type": convert, "metavar": metavar, "help": text, "action": "append"}
    return field(default=(), metadata=how)


@dataclass(frozen=True)
class Shared:
    """Options of every command that runs a model: their defaults, how their words are read, and what they are.

    The command line, its help and the keys of a YAML file follow from the fields, but for those of ``without``, which
    this command does not have and which keep their defaults.
    """

    without: ClassVar[tuple[str, ...]] = ()

    model: str = option(
        "wan-tiny",
        WHAT,
        str,
        "NAME",
        f"bundled model ({', '.join(BUNDLED)}), diffusers directory or hub id; default wan-tiny",
    )
    prompt: str | None = option(None, WHAT, str, "TEXT", "what to show")
    prompt_file: Path | None = option(
        None,
        WHAT,
        path_to,
        "FILE",
        "one prompt a line (UTF-8), blank lines and # comments are skipped; or .jsonl: objects with prompt and what is "
        "its own: seed, negative_prompt, image, ... (docs/inputs.md)",
    )
    negative_prompt: str | None = option(None, WHAT, str, "TEXT", "what to steer away from")
    image: tuple[Path, ...] = several(
        WHAT,
        path_to,
        "FILE",
        "picture to begin with, to edit or to refer to; give it several times for models that take several",
    )
    height: int | None = option(None, WHAT, whole, "N", f"pixels; {OWN_SIZE}")
    width: int | None = option(None, WHAT, whole, "N", f"pixels; {OWN_SIZE}")
    frames: int | None = option(None, WHAT, whole, "N", f"frames of the clip, 1 for a picture; {OWN_SIZE}")
    steps: int | None = option(None, WHAT, whole, "N", f"denoising steps; {OWN_SIZE}")
    guidance_scale: float | None = option(None, WHAT, number, "X", f"how strongly to follow the prompt; {OWN_SIZE}")
    max_sequence_length: int | None = option(
        None, WHAT, whole, "N", f"tokens of text that the model is given; {OWN_SIZE}"
    )
    seed: int = option(
        0,
        WHAT,
        whole,
        "N",
        "of the noise, the same on every device; the clips of a prompt file take N, N + 1, ...; default 0",
    )
    attention: str = option(
        "auto",
        HOW,
        str,
        "NAME",
        "attention kernel (c4d doctor), auto: the best exact one, or own: the model's code; default auto",
    )
    backend: str = option("auto", HOW, str, "NAME", f"auto, {', '.join(known())}; default auto")
    dtype: str | None = option(
        None, HOW, str, "NAME", "of the weights: float32, bfloat16 or bf16, float16 or fp16; default: the backend's own"
    )
    threads: int | None = option(
        None, HOW, whole, "N", "CPU threads; default: the bundled model's own (1), else torch's choice"
    )
    memory: str | None = option(
        None,
        HOW,
        str,
        "MODE",
        "how to take less of the device's memory, such as groups+tiled (docs/memory.md): full, components, groups, "
        "sequential, divided (over ranks), float8, int8, tiled, sliced, joined by +; default full, or what "
        "--device-memory chooses",
    )
    encode_first: bool = switch(
        HOW, "text encoders run for all prompts first and are then given back, before the transformer is on the device"
    )
    revision: str | None = option(None, HOW, str, "NAME", "branch, tag or commit of a hub id; default: its main one")
    variant: str | None = option(
        None, HOW, str, "NAME", "of the weights' files, such as fp16, where there is one; default: those without a name"
    )
    local_files_only: bool = switch(HOW, "of a hub id, only what was fetched before; nothing is downloaded")
    lora: tuple[str, ...] = several(
        HOW,
        str,
        "PATH[:SCALE]",
        "LoRA in safetensors, a file, a folder or of the hub (owner/name, owner/name/FILE), added at that scale "
        "(default 1), with @transformer_2 behind it to the second expert; give it once for each",
    )
    allow_pickle: bool = switch(HOW, "also read pickled weights (.bin), of people you trust; default: safetensors only")
    ranks: int | None = option(
        None, RANKS, whole, "N", "start so many processes here, instead of torchrun; an error is a single line"
    )
    ulysses: int | None = option(
        None, RANKS, whole, "N", "ranks that share an attention by heads; default: chosen, and printed"
    )
    ring: int | None = option(
        None, RANKS, whole, "N", "ranks that share an attention by keys; default: chosen, and printed"
    )
    cfg: int | None = option(
        None, RANKS, whole, "N", "2: each branch of guidance has ranks of its own; default: chosen, and printed"
    )
    jointly: bool = switch(RANKS, "both branches of guidance take the same caching decisions")
    groups: str = option(
        "auto", RANKS, str, "NAME", "who makes the groups of ranks: xfuser, torch, or auto; default auto"
    )
    timeout: float = option(
        600.0, RANKS, number, "X", "seconds that ranks wait for each other before the job fails; default 600"
    )
    quiet: bool = switch(WHERE, "no progress bar and no report on the terminal")

    def parts_of(self, kind: type[T], **more: Any) -> T:
        """A dataclass made of the options of the same names as its fields, and ``more``."""
        names = {each.name for each in fields(kind)} & {each.name for each in fields(self)}  # type: ignore[arg-type]
        return kind(**{**{name: getattr(self, name) for name in names}, **more})


@dataclass(frozen=True)
class Calling(Shared):
    """Options of every command that calls a pipeline of diffusers as it is, besides those of :class:`Shared`."""

    negative_prompt_file: Path | None = option(
        None, WHAT, path_to, "FILE", "negative prompts, one for each prompt of the file, or one for all"
    )
    last_image: Path | None = option(None, WHAT, path_to, "FILE", "last frame, for models between two frames")
    video: Path | None = option(
        None, WHAT, path_to, "FILE", "film to change or to go on from; --frames N takes its first N to be changed"
    )
    mask: Path | None = option(None, WHAT, path_to, "FILE", "picture or film of what is made anew (white)")
    control: Path | None = option(None, WHAT, path_to, "FILE", "picture or film that a control model follows")
    strength: float | None = option(
        None, WHAT, number, "X", f"how far to depart from --image or --video, above 0 up to 1; {OWN_SIZE}"
    )
    argument: tuple[str, ...] = several(
        WHAT,
        str,
        "NAME=VALUE",
        "of the pipeline's call, where no option gives it, such as true_cfg_scale=4; a picture or film as NAME=@FILE",
    )
    scheduler: str | None = option(
        None,
        HOW,
        str,
        "NAME",
        "class of diffusers to sample by, such as UniPCMultistepScheduler; default: the model's own",
    )
    shift: float | None = option(None, HOW, number, "X", f"how far noise levels of a flow are moved up; {OWN_SIZE}")


@dataclass(frozen=True)
class Generating(Calling):
    """Options of every command that fills folders with clips, besides those of :class:`Shared`."""

    fps: float | None = option(
        None, WHAT, number, "X", f"frames a second of a saved video, not of a picture; {OWN_SIZE} or 16"
    )
    cache: str | None = option(
        "auto",
        HOW,
        none_or_text,
        "TEXT",
        "caching method, such as fora:interval=3 (c4d methods), auto: a profile if there is one, or none; default auto",
    )
    quality: str = option("balanced", HOW, str, "NAME", "of auto: high, balanced or fast; default balanced")
    history_dtype: str | None = option(
        None,
        HOW,
        str,
        "NAME",
        "what the cache keeps its features in: a dtype, or int8 with a scale for each token; default: as computed",
    )
    history_on: str | None = option(
        None,
        HOW,
        str,
        "PLACE",
        "where the cache keeps them: device or host; default device, or what --cache-memory or --device-memory chooses",
    )
    cache_memory: int | None = option(
        None, HOW, size, "SIZE", f"{OF_CACHE}: chooses where the cache keeps its features"
    )
    device_memory: int | None = option(None, HOW, size, "SIZE", f"{OF_DEVICE}, and where the cache keeps its features")
    compile: bool = switch(HOW, "compile the transformer's blocks before use")
    data: int = option(1, RANKS, whole, "N", "groups of ranks with prompts of their own (--prompt-file); default 1")
    ray: str | None = option(
        None,
        CLUSTER,
        str,
        "ADDRESS",
        "workers of Ray make the prompts: on the cluster of that address or of RAY_ADDRESS, else on this machine",
        nargs="?",
        const="",
    )
    workers: int | None = option(
        None, CLUSTER, whole, "N", "of Ray; default: one for each device, where there is none one for each machine"
    )
    out: Path | None = option(
        None,
        WHERE,
        path_to,
        "DIR",
        "folder for the files; with --prompt-file 000, 001, ... inside it; default out/001-PROMPT, out/002-PROMPT, ...",
    )
    overwrite: bool = switch(WHERE, "make again what --out holds; without it that is kept, or refused if it differs")


@dataclass(frozen=True)
class Options(Generating):
    """Every option of ``generate``, declared here and in the classes that this one is made of alone."""

    compare: bool = switch(HOW, "also generate without the cache, and compare")
    repeats: int = option(
        1, HOW, whole, "N", "timed runs of each kind, in turns, after a warm-up; default 1 without one"
    )
    open_: bool = switch(WHERE, "show the page in the browser when it is there")


@dataclass(frozen=True)
class ServeOptions(Generating):
    """Every option of ``serve`` besides those of :class:`Generating` that a server has.

    What says what to generate is what a request gets that leaves it open.
    """

    without: ClassVar[tuple[str, ...]] = (
        *("prompt", "prompt_file", "image", "encode_first", "ranks", "ulysses", "ring", "cfg", "jointly", "groups"),
        *("data", "ray", "overwrite", "cache_memory", "device_memory"),
    )

    workers: int | None = option(
        None, WHO, whole, "N", "processes with a pipeline each; default: one for each of --device, or a single one"
    )
    device: tuple[int, ...] | None = option(
        None, WHO, numbers, "N[/N…]", "devices of the backend by number, one for each worker; default: the first ones"
    )
    host: str = option("127.0.0.1", WHO, str, "NAME", "address to listen at; default 127.0.0.1, this machine alone")
    port: int = option(8000, WHO, whole, "N", "0: any that is free; default 8000")
    api_key_file: Path | None = option(
        None, WHO, path_to, "FILE", "keys of those who may use it, one a line; needed where --host is not this machine"
    )
    queue: int = option(100, WHO, whole, "N", "jobs that may wait; the next one is refused (429); default 100")
    timeout: float = option(
        600.0,
        WHO,
        number,
        "X",
        "seconds that a worker may be silent over a job before it is started again; default 600",
    )
    keep_hours: float | None = option(
        None, WHO, number, "X", "hours after its end for which a job stays in --out; default: until it is deleted"
    )
    max_side: int = option(2048, LIMITS, whole, "N", "pixels of height and width, and of an image; default 2048")
    max_frames: int = option(257, LIMITS, whole, "N", "frames; default 257")
    max_steps: int = option(100, LIMITS, whole, "N", "denoising steps; default 100")
    max_tokens: int = option(1024, LIMITS, whole, "N", "of --max-sequence-length; default 1024")
    max_prompt: int = option(4000, LIMITS, whole, "N", "characters of a prompt; default 4000")
    max_upload: int = option(20 * 2**20, LIMITS, size, "SIZE", "of a request's body; default 20MiB")
    max_images: int = option(10, LIMITS, whole, "N", "pictures of one call; default 10")
    out: Path = option(Path("out/serve"), WHERE, path_to, "DIR", "folder with a folder for each job; default out/serve")


@dataclass(frozen=True)
class BenchmarkOptions(Generating):
    """Every option of ``benchmark`` besides those of :class:`Generating`."""

    samples: int | None = option(
        None, WHAT, whole, "N", "samples of each prompt; default: as many as its authors ask for"
    )
    only: tuple[str, ...] = option(
        (),
        WHAT,
        names,
        "NAME[,NAME…]",
        "prompts of these parts: VBench's dimensions, GenEval's tags, DrawBench's categories; default: all of the file",
    )
    out: Path | None = option(
        None,
        WHERE,
        path_to,
        "DIR",
        "folder for the samples under their published names, and for what c4d keeps of each in runs; default "
        "out/001-BENCHMARK, ...",
    )


@dataclass(frozen=True)
class TuneOptions(Calling):
    """Every option of ``tune`` besides those of :class:`Shared`."""

    computed: tuple[int, ...] | None = option(
        None, GOAL, numbers, "N[/N…]", "how many steps are computed, such as 14 or 20/14/10; default 20/14/10"
    )
    target_speedup: float | None = option(
        None, GOAL, number, "X", "times fewer forwards: the most computed steps that give it are taken"
    )
    target_psnr: float | None = option(
        None, GOAL, number, "DB", "closeness to the uncached clip: the fewest computed steps that give it are taken"
    )
    cache_memory: int | None = option(None, GOAL, size, "SIZE", "what the cache may hold, such as 64MiB or 8GiB")
    minutes: float = option(
        10.0, GOAL, number, "X", "how long to search for schedules; 0 fits one that is known; default 10"
    )
    begin: str | None = option(
        None,
        GOAL,
        str,
        "PROFILE",
        "file or name of a profile whose schedules the search begins with, such as an older one of the model",
    )
    samples: int | None = option(
        None,
        GOAL,
        whole,
        "N",
        "prompts to learn from, from the start of the file; default half of them, at most 24, or 8 without a search",
    )
    held_out: int | None = option(
        None, GOAL, whole, "N", "prompts to measure on, from the rest of the file; default all of it, at most 8"
    )
    out: Path | None = option(
        None,
        WHERE,
        path_to,
        "FILE",
        "the profile; default MODEL.json in ~/.cache/c4d/profiles, where generate finds it",
    )
    overwrite: bool = switch(WHERE, "make it again where --out is a profile already")


@dataclass(frozen=True)
class CompareOptions(Calling):
    """Every option of ``compare`` besides those of :class:`Shared`."""

    cache: tuple[str, ...] = several(
        HOW,
        str,
        "TEXT",
        "a method to compare, such as dmd:interval=4 (c4d methods), or auto; give it once for each; default: what auto "
        "takes at each --quality, and the methods that need nothing but a text",
    )
    peers: tuple[str, ...] = option(
        (),
        HOW,
        names,
        "NAME[,NAME…]",
        "caches of other libraries to compare as well, where they are installed: cache-dit,diffusers",
    )
    metrics: tuple[str, ...] = option(
        (),
        HOW,
        names,
        "NAME[=WHERE][,…]",
        "figures of networks, beside those that need none: clip=DIR (or a hub id), lpips (its weights in TORCH_HOME)",
    )
    plain: tuple[int, ...] | None = option(
        None, HOW, numbers, "N[/N…]", "plain steps beside them, such as 20/14/10; default: those that cost the same"
    )
    minutes: float = option(
        5.0, HOW, number, "X", "how long to search for noise levels of plain steps; 0 leaves them out; default 5"
    )
    samples: int | None = option(None, WHAT, whole, "N", "prompts, from the start of the file; default all of it")
    repeats: int = option(1, HOW, whole, "N", "timed runs of each, in turns; default 1")
    out: Path = option(
        Path("out/compare"), WHERE, path_to, "DIR", "folder for the page and what it is made of; default out/compare"
    )
    open_: bool = switch(WHERE, "show the page in the browser when it is there")


@dataclass(frozen=True)
class CalibrateOptions(Calling):
    """Every option of ``calibrate`` besides those of :class:`Shared`."""

    samples: int | None = option(
        None, GOAL, whole, "N", "uncached samplings; prompts are taken again under other noise; default all, at least 4"
    )
    from_: Path | None = option(
        None, GOAL, path_to, "DIR", "recorded differences of another tool in place of prompts (docs/calibrating.md)"
    )
    out: Path | None = option(None, WHERE, path_to, "FILE", "the calibration; default out/MODEL-METHOD.json")
    overwrite: bool = switch(WHERE, "make it again where --out is a file already")


@dataclass(frozen=True)
class RolloutOptions(Shared):
    """Every option of ``rollout`` besides those of :class:`Shared`; frames are of latents, where not of pixels."""

    model: str = option(
        "wan-tiny-causal",
        WHAT,
        str,
        "NAME",
        f"bundled model ({', '.join((*ROLLING, 'wan-tiny'))}), diffusers directory or hub id; default wan-tiny-causal",
    )
    seconds: float | None = option(None, WHAT, number, "X", "how long the clip is; default 5, without --frames")
    frames: int | None = option(None, WHAT, whole, "N", "how long it is, in frames of pixels")
    video: Path | None = option(None, WHAT, path_to, "FILE", "a clip (or picture) to go on from; its size is taken")
    steps: tuple[int, ...] | None = option(  # type: ignore[assignment]
        None,
        WHAT,
        numbers,
        "N[/N…]",
        "timesteps of a distilled model, such as 1000/750/500/250, or one number: so many of the scheduler; default: "
        "the model's own",
    )
    shift: float | None = option(None, WHAT, number, "X", f"of the timesteps of a distilled model; {OWN_SIZE}")
    fps: float | None = option(None, WHAT, number, "X", f"frames a second; {OWN_SIZE}")
    block: int | None = option(None, HOW, whole, "N", f"frames that are made together; {OWN_SIZE}")
    window: int | None = option(
        None, HOW, whole, "N", "frames that keys and values are kept of; default: the model's own, or the whole clip"
    )
    sink: int | None = option(None, HOW, whole, "N", f"of these, the clip's first ones, which stay; {OWN_SIZE}")
    kv_on: str = option("device", HOW, str, "PLACE", "where keys and values are: device or host; default device")
    kv_dtype: str | None = option(None, HOW, str, "NAME", "what they are kept in; default: as computed")
    checkpoint: Path | None = option(
        None, HOW, path_to, "FILE", "weights of a distilled model as published (generator, generator_ema), for --model"
    )
    cache: str | None = option(
        None, HOW, none_or_text, "TEXT", "caching method within each block, such as fora:interval=2; default none"
    )
    out: Path | None = option(
        None, WHERE, path_to, "DIR", "folder for clip.mp4, which grows, and rollout.json; default out/001-PROMPT, ..."
    )
    overwrite: bool = switch(WHERE, "make again what --out holds")


@dataclass(frozen=True)
class PlanOptions:
    """Every option of ``plan``, which runs no model."""

    model: str = option(
        "wan-tiny",
        WHAT,
        str,
        "NAME",
        "class that c4d models lists, config.json, diffusers directory (no weights are read) or bundled model; "
        "default wan-tiny",
    )
    height: int | None = option(None, WHAT, whole, "N", "pixels; default: the bundled model's")
    width: int | None = option(None, WHAT, whole, "N", "pixels; default: the bundled model's")
    frames: int | None = option(None, WHAT, whole, "N", "frames of the clip; default: the bundled model's, or 1")
    steps: int = option(50, WHAT, whole, "N", "denoising steps; default 50")
    branches: int | None = option(
        None,
        WHAT,
        whole,
        "N",
        "calls of the model a step; default 2, for guidance, or 1 if the model learned it",
    )
    text: int | None = option(None, WHAT, whole, "N", f"tokens of text; {OWN_SIZE}")
    cache: str | None = option(None, HOW, none_or_text, "TEXT", "caching method, such as fora:interval=3; default none")
    dtype: str = option("bfloat16", HOW, str, "NAME", "of the weights: float32, bfloat16 or float16; default bfloat16")
    history_dtype: str | None = option(
        None, HOW, str, "NAME", "what the cache keeps its features in; default: as computed"
    )
    history_on: str = option("device", HOW, str, "PLACE", "where the cache keeps them: device or host; default device")
    devices: tuple[int, ...] = option(
        (1, 2, 4, 8), RANKS, numbers, "N[/N…]", "how many, up to 1024, such as 8/16/1024; default 1/2/4/8"
    )
    node: int = option(8, RANKS, whole, "N", "devices in a machine; default 8")
    ulysses: int | None = option(None, RANKS, whole, "N", "only divisions with so many ranks by heads; default: all")
    ring: int | None = option(None, RANKS, whole, "N", "only divisions with so many ranks by keys; default: all")
    cfg: int | None = option(None, RANKS, whole, "N", "only divisions with 1, or 2, groups for guidance; default: all")
    tflops: float | None = option(
        None,
        GOAL,
        number,
        "X",
        "10^12 operations a second of a device in a forward; default: no time is predicted",
    )
    bandwidth: float | None = option(None, GOAL, number, "X", "GB/s that a device sends to others in its machine")
    across: float | None = option(
        None, GOAL, number, "X", "GB/s that a device sends to other machines; default: an eighth of --bandwidth"
    )
    measured: Path | None = option(
        None, GOAL, path_to, "FILE", "cases.jsonl of bench/accelerator, in place of --tflops and --bandwidth"
    )
    json: bool = switch(WHERE, "print the same as data")


@dataclass(frozen=True)
class StudioOptions:
    """Every option of ``studio``, whose pages have those of generate, rollout and tune."""

    model: str = option("wan-tiny", WHAT, str, "NAME", "that the page begins with, as of generate; default wan-tiny")
    host: str = option(
        "127.0.0.1", HOW, str, "ADDRESS", "where it listens; default 127.0.0.1: for browsers of this machine alone"
    )
    port: int = option(7860, HOW, whole, "N", "where it listens; default 7860")
    allow_pickle: bool = switch(HOW, "also read pickled weights (.bin), of people you trust; default: safetensors only")
    max_upload: int = option(200 * 2**20, HOW, size, "SIZE", "of a file that a page is given; default 200MiB")
    out: Path = option(
        Path("out"), WHERE, path_to, "DIR", "folder with a folder for each clip, as of generate; default out"
    )


class Parser(argparse.ArgumentParser):
    """Raises :class:`InputError` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        known = "generate --help" if self.prog == "c4d" else "--help"
        raise InputError(f"{message} ({self.prog} {known} explains every option)")


def add_options(parser: argparse.ArgumentParser, kind: type[Any] = Options) -> None:
    """Adds the options of a command; those not given leave no trace in the namespace."""
    groups: dict[str, Any] = {}
    known = [each for each in fields(kind) if each.name not in getattr(kind, "without", ())]
    for each in sorted(known, key=lambda each: GROUPS.index(each.metadata["group"])):
        how = dict(each.metadata)
        if (title := how.pop("group")) not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(flag(each.name), dest=each.name, default=argparse.SUPPRESS, **how)
    text = "YAML file with any of these options; the command line wins over it"
    groups[WHERE].add_argument("--config", type=path_to, metavar="FILE", default=argparse.SUPPRESS, help=text)


def flag(name: str) -> str:
    """Of a field; one whose name Python has taken ends in _."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def read_options(given: Mapping[str, Any], parser: argparse.ArgumentParser, kind: type[S]) -> S:
    """Defaults, then the file named by ``config``, then what the command line gave.

    Raises :class:`InputError` for an unknown or repeated key of the file, a value of the wrong kind, and text that is
    not UTF-8.
    """
    names = {each.name for each in fields(kind)}
    flags = {name: value for name, value in given.items() if name in names}  # the rest belongs to the parser
    filed = from_file(given["config"], parser, names) if "config" in given else {}
    merged = {**filed, **flags}
    for pair in (("prompt", "prompt_file"), ("negative_prompt", "negative_prompt_file")):
        for one, other in (pair, pair[::-1]):
            if one in flags and other not in flags:
                merged.pop(other, None)  # the command line wins over the file for the pair
    for name, value in merged.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (str, Path)) and (wrong := unusable(str(each))):
                raise InputError(f"{flag(name)} {str(each)!r} {wrong}; write it in UTF-8")
    made: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in merged.items()}
    return kind(**made)
