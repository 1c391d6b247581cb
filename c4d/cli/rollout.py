"""``c4d rollout``: a clip that is made block by block and can be watched while it grows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import c4d
from c4d.backends import Backend, select
from c4d.backends.kernels import OWN, names
from c4d.bundled.models import EVERY
from c4d.causal.checkpoint import load_checkpoint
from c4d.causal.rollout import FILE, Rollout, RolloutConfig, settings_in
from c4d.causal.stream import Stream
from c4d.cli.command import ROOT, check_threads, joined, loras_of, name_of, use_threads
from c4d.cli.options import HOW, WHAT, RolloutOptions
from c4d.cli.signals import Stops
from c4d.core.caching.rules import CacheMethod
from c4d.core.text.grammar import parse
from c4d.parallel import SequenceParallel
from c4d.pipelines import (
    Files,
    InputError,
    Request,
    check_loras,
    check_memory,
    check_method,
    check_writable,
    exclusive_lock,
    load_pipeline,
    locate,
    numbered,
    parse_dtype,
    skeleton,
)
from c4d.pipelines.film import GrowingClip, read_film
from c4d.pipelines.output import write_json
from c4d.pipelines.versions import versions

CLIP, MIB = "clip.mp4", 2**20
SECONDS = 5.0  # of a clip that nobody says the length of
OnBlock = Callable[[Tensor, float], str | None]
SETTINGS = ("block", "window", "sink", "shift", "fps", "height", "width")  # options that are settings by their names


def run(
    options: RolloutOptions,
    stops: Stops,
    on_block: OnBlock | None = None,
    load: Callable[..., tuple[Any, list[str]]] | None = None,
) -> None:
    """Makes the clip. Raises :class:`InputError` for what cannot be.

    ``on_block`` is given each block's frames [T, 3, H, W] in [0, 1] and how many are shown in a second; what it returns
    is the prompt from there on (None: as before), and what it raises ends the clip. ``load`` is called in the place of
    :func:`loaded`.
    """
    if options.prompt is None or options.prompt_file is not None:
        known = f", such as {EVERY[options.model].example!r}" if options.model in EVERY else ""
        raise InputError(f"rollout makes one clip: give --prompt{known}")
    request = options.parts_of(Request, num_frames=None, steps=None, video=None)
    try:
        backend, how = select(options.backend), options.parts_of(SequenceParallel)
        method = None if options.cache is None else parse(options.cache)
    except ValueError as error:
        raise InputError(str(error)) from error
    dtype = parse_dtype(options.dtype, backend=backend) if options.dtype else backend.default_dtype
    checked(options, backend, method)
    job = joined(backend, how, stops)
    shown = job.rank == 0 and not options.quiet
    out = options.out or job.first(lambda: numbered(ROOT, name_of(request.prompt), lambda folder: False))
    with ExitStack() as until_done:
        job.first(lambda: out.mkdir(parents=True, exist_ok=True))
        job.first(lambda: until_done.enter_context(exclusive_lock(out)))
        if job.first(lambda: (out / CLIP).exists()) and not options.overwrite:
            raise InputError(f"--out {str(out)!r} holds a clip; name another folder, or give --overwrite")
        pipe, notes = (load or loaded)(options, backend, dtype, shown)
        if job.world > 1:
            ranks = until_done.enter_context(c4d.sharded(pipe, how, kernel=kernel_of(options), backend=backend))
            notes.append(f"ranks: {ranks.said()}")
            if stops.watch is not None:
                stops.watch.step = lambda: ranks.step
        if method is not None:
            until_done.enter_context(c4d.cached(pipe, method, backend=backend))
        for note in notes if shown else ():
            print(note)
        rollout = rollout_of(options, pipe, backend)
        stream = until_done.enter_context(begun(rollout, options, request))
        if job.rank == 0:
            about = {"model": options.model, "prompt": request.prompt, "seed": request.seed, "dtype": names([dtype])}
            about |= options.parts_of(Files).told() | {"lora": [each.to_dict() for each in loras_of(options)]}
            about |= {"asked": asked(options), "settings": vars(rollout.config), "versions": versions()}
            write_json(out / FILE, about)  # one that is stopped is known, too
            record = made(stream, out / CLIP, rollout.config, shown, stops, on_block)
            write_json(out / FILE, about | record)
            print(f"files in {out}: {CLIP}, {FILE}")
        else:
            for _ in stream:
                stops.check()
    job.end()


def asked(options: RolloutOptions) -> dict[str, Any]:
    """The options that make the clip again, by their names, in plain types; those that have their defaults are left
    out."""
    given = {each: getattr(options, each.name) for each in fields(options) if each.metadata["group"] in (WHAT, HOW)}
    return {each.name: _plain(value) for each, value in given.items() if value != each.default}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def checked(options: RolloutOptions, backend: Backend, method: CacheMethod | None) -> None:
    """Raises :class:`InputError` for what can be known without weights."""
    check_threads(options)
    if (options.video is not None) + len(options.image) > 1:
        raise InputError("a rollout goes on from one film or picture: give one --video or one --image")
    if options.encode_first:
        raise InputError("--encode-first is for clips that are made whole; a rollout encodes one prompt: leave it out")
    if (file := options.checkpoint) is not None and file.suffix != ".safetensors" and not options.allow_pickle:
        raise InputError(f"--checkpoint {str(file)!r} is pickled: give --allow-pickle if you trust who made it")
    if options.checkpoint is not None and options.lora:
        raise InputError("--lora and --checkpoint are both given: the weights of one hide those of the other; keep one")
    pipe = skeleton(options.model, allow_pickle=options.allow_pickle, files=options.parts_of(Files))
    check_loras(pipe, loras_of(options))
    rollout_of(options, pipe, backend, Path(locate(options.model)[0]))
    check_memory(pipe, options.memory or "full", backend=backend)
    if method is not None:
        check_method(pipe, method, backend=backend)
    check_writable(options.out if options.out is not None else ROOT)


def loaded(options: RolloutOptions, backend: Backend, dtype: torch.dtype, shown: bool) -> tuple[Any, list[str]]:
    """The pipeline with the weights that were asked for, and what is to be said of them."""
    use_threads(options)
    how: dict[str, Any] = {"allow_pickle": options.allow_pickle, "memory": options.memory or "full"}
    how |= {"files": options.parts_of(Files), "loras": loras_of(options)}
    pipe = load_pipeline(options.model, backend=backend, dtype=dtype, progress=shown, **how)
    return pipe, checkpoint(options, pipe)


def rollout_of(options: RolloutOptions, pipe: Any, backend: Backend, folder: Path | None = None) -> Rollout:
    """Raises :class:`InputError` for settings and models that cannot be. ``folder``: of a pipeline without weights,
    which does not know it."""
    given = {} if folder is None else settings_in(folder)
    given |= {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    if options.steps is not None:
        given["steps"] = options.steps[0] if len(options.steps) == 1 else options.steps
    if options.guidance_scale is not None:
        given["guidance"] = max(1.0, options.guidance_scale)
    if options.max_sequence_length is not None:
        given["text"] = options.max_sequence_length
    kept = parse_dtype(options.kv_dtype, backend=backend) if options.kv_dtype else None
    try:
        return c4d.rollout(
            pipe, kernel=kernel_of(options), backend=backend, kv_dtype=kept, kv_on=options.kv_on, **given
        )
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def kernel_of(options: RolloutOptions) -> str:
    """A rollout needs processors of ours, which "own" leaves out elsewhere."""
    return "auto" if options.attention == OWN else options.attention


def checkpoint(options: RolloutOptions, pipe: Any) -> list[str]:
    """Loads ``--checkpoint``; what is to be said of it. Raises :class:`InputError`."""
    if options.checkpoint is None:
        return []
    try:
        return load_checkpoint(pipe.transformer, options.checkpoint).lines()
    except ValueError as error:
        raise InputError(f"--checkpoint: {error}") from error


def begun(rollout: Rollout, options: RolloutOptions, request: Request) -> Stream:
    config = rollout.config
    height, width = request.height or config.height, request.width or config.width
    video = None
    for source in (*options.image, *([options.video] if options.video is not None else [])):
        frames = read_film(source, height, width)
        each = rollout.temporal
        latents = (len(frames) - 1) // each + 1
        whole = max((n for n in range(1, latents + 1) if config.blocks.whole(n) == n), default=0)
        if not whole:
            raise InputError(f"{str(source)!r} has {len(frames)} frames, less than a block: --block 1 takes a picture")
        video = frames[len(frames) - (1 + (whole - 1) * each) :][None]  # its end
    seconds = options.seconds if options.seconds is not None or options.frames is not None else SECONDS
    try:
        return rollout(
            request.prompt,
            negative_prompt=request.negative_prompt,
            seconds=seconds,
            frames=options.frames,
            height=height,
            width=width,
            generator=torch.Generator().manual_seed(request.seed),
            video=video,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def made(
    stream: Stream, path: Path, config: RolloutConfig, shown: bool, stops: Stops, on_block: OnBlock | None = None
) -> dict[str, Any]:
    """Reads the clip into its file; how long that took, in seconds."""
    started, blocks, held = time.monotonic(), list[tuple[int, float]](), 0
    with GrowingClip(path, config.fps) as film:
        for frames, spent in timed(stream):
            held = max(held, stream.bytes())
            film.add(frames[0])
            blocks.append((frames.shape[1], spent))
            stops.check()
            if on_block is not None and (prompt := on_block(frames[0], config.fps)) is not None:
                stream.prompt = prompt
            if shown:
                now = f"{film.frames} frames, {film.frames / config.fps:.1f} s of film"
                pace = f"{steady(blocks):.2f} frames a second" if len(blocks) > 1 else ""
                print(f"\r{now}  {pace}  first after {blocks[0][1]:.2f} s", end="", flush=True)
    if shown:
        print()
    total = time.monotonic() - started
    rate = steady(blocks) if len(blocks) > 1 else None
    said = f"{film.frames} frames in {total:.2f} s; first after {blocks[0][1]:.2f} s"
    said += f", then {rate:.2f} a second" if rate else ""
    print(f"{said}; {held / MIB:.1f} MiB of keys, values and decoder state")
    return {
        "frames": film.frames,
        "first_after": blocks[0][1],
        "frames_a_second": rate,
        "seconds": total,
        "blocks": [{"frames": n, "seconds": spent} for n, spent in blocks],
        "bytes_held": held,
    }


def timed(stream: Iterator[Tensor]) -> Iterator[tuple[Tensor, float]]:
    """Each block, and the seconds that it took to make; what is done with it does not count."""
    while True:
        before = time.monotonic()
        try:
            frames = next(stream).cpu()
        except StopIteration:
            return
        yield frames, time.monotonic() - before


def steady(blocks: list[tuple[int, float]]) -> float:
    """Frames a second behind the first block, by the median of the blocks."""
    return statistics.median(n / spent for n, spent in blocks[1:])
