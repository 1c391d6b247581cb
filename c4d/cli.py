"""``c4d generate | methods | models | doctor``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from c4d.backends import Backend, BackendUnavailable, select
from c4d.catalogue import doctor_text, methods_text, models_text
from c4d.core.grammar import MethodError, parse
from c4d.options import Options, Parser, add_options, read_options, read_prompts
from c4d.pipelines import (
    EMBEDDED,
    InputError,
    Request,
    Settings,
    call_arguments,
    check_method,
    compile_blocks,
    finished,
    load_pipeline,
    produce,
    skeleton,
)

EPILOG = """\
exit codes: 0 done; 2 bad input or usage; 3 a backend or a dependency is missing here; 130 interrupted;
            1 anything else. Errors are one line on stderr; --debug shows where they came from.

example:    c4d generate --prompt "a red circle moving left on a black background" \\
                --cache taylorseer-lite:interval=3@stack --compare
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; ``argv`` without the program's name. Returns the exit code (see ``c4d --help``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _fail("interrupted", arguments, 130)
    except (InputError, MethodError) as error:
        return _fail(str(error), arguments, 2)
    except BackendUnavailable as error:
        return _fail(f"{error}; c4d doctor lists what can", arguments, 3)
    except ImportError as error:
        return _fail(f"a dependency is missing: {error}; install c4d with its dependencies", arguments, 3)
    except Exception as error:
        hint = "" if "--debug" in arguments else " (unexpected; --debug shows where)"
        return _fail(f"{type(error).__name__}: {error}{hint}", arguments, 1)


def _fail(message: str, arguments: Sequence[str], code: int) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    print(f"c4d: error: {' '.join(line.strip() for line in message.splitlines())}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    shared = Parser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    parser = Parser(
        "c4d",
        description="Diffusion transformers made fast by not recomputing what can be predicted.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> Parser:
        return commands.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)

    generate = command("generate", "generate a clip, cached or not, and report on it")
    add_options(generate)
    pages = {
        "methods": (methods_text, "the caching methods, their options, forecasters and sites"),
        "models": (models_text, "the models that can be cached, and the embedded ones"),
        "doctor": (doctor_text, "versions, and which backends can run here"),
    }
    for name, (_, text) in pages.items():
        command(name, text)
    given = vars(parser.parse_args(arguments))
    if given["command"] in pages:
        print(pages[given["command"]][0]())
    else:
        _generate(read_options(given, generate))
    return 0


def _generate(options: Options) -> None:
    backend, settings, requests = _prepare(options)
    several = options.prompt_file is not None
    folders = [options.out / f"{index:03d}" if several else options.out for index in range(len(requests))]
    jobs = list(zip(folders, requests, strict=True))
    notes: list[str] = []
    pipe = None
    for folder, request in jobs:
        if several and finished(folder, request, settings):
            print(f"{folder}: kept, already complete: {request.prompt}")
            continue
        if pipe is None:
            pipe, notes = _load(options, settings, backend, request)
        call_arguments(pipe, request)
        record, clip = produce(
            pipe, request, settings, folder, backend=backend, progress=not options.quiet, notes=notes
        )
        if several:
            print(f"{folder}: {_summary(record)}: {request.prompt}")
        elif not options.quiet:
            for note in record["notes"]:
                print(f"note: {note}")
            print(f"{clip.report or 'uncached'}\n{_summary(record)}\ntimed: {record['timing']['how']}")
    print(
        f"files in {options.out}: " + (f"{folders[0].name} to {folders[-1].name}" if several else _listed(options.out))
    )


def _prepare(options: Options) -> tuple[Backend, Settings, list[Request]]:
    """Everything that can be known without weights."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise InputError(
            f"WORLD_SIZE={world}: generating on several ranks (sequence parallelism) is not there yet; start one rank, "
            "as python launch/infer.py or torchrun --nproc-per-node 1"
        )
    cores = os.cpu_count() or 1  # with far more threads than that torch falls over
    if options.threads is not None and not 1 <= options.threads <= cores:
        raise InputError(
            f"threads is {options.threads!r}; allowed are whole numbers from 1 to {cores}, this machine's cores"
        )
    if options.cache is not None:
        parse(options.cache)
    try:
        backend = select(options.backend)
    except ValueError as error:
        raise InputError(str(error)) from error
    model = EMBEDDED.get(options.model)
    settings = Settings(
        model=options.model,
        backend=backend.name,
        dtype=options.dtype or str(backend.default_dtype).removeprefix("torch."),
        fps=options.fps if options.fps is not None else float(model.defaults.fps if model else 16),
        cache=options.cache,
        compile=options.compile,
        compare=options.compare,
        repeats=options.repeats,
        history_dtype=options.history_dtype,
        history_on=options.history_on,
    )
    requests = [
        Request(
            prompt=prompt,
            negative_prompt=options.negative_prompt,
            image=options.image,
            height=options.height,
            width=options.width,
            num_frames=options.frames,
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            seed=options.seed,
        )
        for prompt in read_prompts(options)
    ]
    if model:
        requests = [request.with_defaults(model.defaults) for request in requests]
    pipe = skeleton(options.model, allow_pickle=options.allow_pickle)
    if options.cache is not None:
        check_method(pipe, options.cache, backend=backend)
    if callable(pipe):  # else only the whole pipeline can tell, in _load
        call_arguments(pipe, requests[0])  # they differ in their prompts alone
    _check_writable(options.out)
    return backend, settings, requests


def _load(options: Options, settings: Settings, backend: Backend, request: Request) -> tuple[Any, list[str]]:
    model = EMBEDDED.get(options.model)
    if threads := options.threads or (model.defaults.threads if model else None):
        torch.set_num_threads(threads)
    pipe = load_pipeline(
        options.model,
        backend=backend,
        dtype=settings.dtype,
        progress=not options.quiet,
        allow_pickle=options.allow_pickle,
    )
    call_arguments(pipe, request)  # before anything is compiled or written
    notes = compile_blocks(pipe) if options.compile else []
    for note in notes if not options.quiet else ():
        print(note)
    return pipe, notes


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to --out {str(folder)!r}: {error.strerror}; name another folder") from error


def _summary(record: dict[str, Any]) -> str:
    timing, fidelity = record["timing"], record["fidelity"]
    parts = [f"{timing['median'][kind]:.3g} s {kind}" for kind in ("cached", "uncached") if kind in timing["median"]]
    if timing["speedup"]:
        parts.append(f"{timing['speedup']:.2f} times as fast")
    for kind, name in (("cached", ""), ("fewer_steps", f"{record['fewer_steps']} plain steps: ")):
        if kind in fidelity:
            close = fidelity[kind]
            parts.append(name + ("identical" if close["identical"] else f"PSNR {close['psnr_db']:.1f} dB"))
    return ", ".join(parts)


def _listed(folder: Path) -> str:
    order = ("report.html", "video.mp4", "image.png", "uncached.mp4", "uncached.png", "sheet.png", "report.json")
    return ", ".join(name for name in order if (folder / name).exists())


if __name__ == "__main__":
    sys.exit(main())
