"""``c4d generate | methods | models | doctor``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # python -m c4d.cli, before torch, which may not be importable
    from c4d.start import main as start

    sys.exit(start())

import torch

import c4d
from c4d.backends import Backend, BackendUnavailable, Unsupported, select
from c4d.backends.kernels import OWN
from c4d.catalogue import doctor_text, methods_text, models_text
from c4d.core.grammar import MethodError, parse
from c4d.importing import CannotImport
from c4d.options import Options, Parser, add_options, read_options, read_prompts
from c4d.pipelines import (
    EMBEDDED,
    GenerationError,
    InputError,
    OutputError,
    Request,
    Settings,
    alone_in,
    call_arguments,
    check_attention,
    check_method,
    check_writable,
    compile_blocks,
    kept,
    load_pipeline,
    memory_explained,
    parse_dtype,
    produce,
    results,
    skeleton,
    write_manifest,
)
from c4d.signals import Stops, Terminated, stoppable
from c4d.start import fail
from c4d.summary import listed, summary, time_spent

EPILOG = """\
exit codes: 0 done; 2 bad input or usage; 3 a backend or a dependency is missing here; 4 an output could not be
            written; 130 interrupted; 143 terminated; 1 anything else. Errors are one line on stderr; --debug shows
            where they came from. What generate has finished is kept, whatever ends it; the same command goes on
            from there, unless it has --overwrite.

example:    c4d generate --prompt "a red circle moving left on a black background" \\
                --cache taylorseer-lite:interval=3@stack --compare
"""

RESUME = "what is finished is kept, and the same command goes on from there (with --overwrite: starts again)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; ``argv`` without the program's name. Returns the exit code (see ``c4d --help``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return fail(f"interrupted; {RESUME}" if arguments[:1] == ["generate"] else "interrupted", arguments, 130)
    except Terminated:
        return fail(f"terminated; {RESUME}", arguments, 143)
    except OutputError as error:
        return fail(f"{error}; make room or name another --out: {RESUME}", arguments, 4)
    except (InputError, MethodError, Unsupported) as error:
        return fail(str(error), arguments, 2)
    except torch.OutOfMemoryError as error:
        return fail(f"{error}; {RESUME}", arguments, 1)
    except GenerationError as error:
        return fail(str(error), arguments, 1)
    except BackendUnavailable as error:
        return fail(f"{error}; c4d doctor lists what can", arguments, 3)
    except CannotImport as error:
        return fail(f"{error}; {error.way_out}", arguments, 3)
    except ImportError as error:
        return fail(f"a dependency is missing: {error}; install c4d with its dependencies", arguments, 3)
    except Exception as error:
        hint = "" if "--debug" in arguments else " (unexpected; --debug shows where)"
        return fail(f"{type(error).__name__}: {error}{hint}", arguments, 1)


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
        with stoppable() as stops:
            _generate(read_options(given, generate), stops)
    return 0


def _generate(options: Options, stops: Stops) -> None:
    backend, settings, requests = _prepare(options)
    stops.check()
    several = options.prompt_file is not None
    folders = [options.out / f"{index:03d}" if several else options.out for index in range(len(requests))]
    jobs = list(zip(folders, requests, strict=True))
    with alone_in(options.out) as notes, memory_explained(backend, settings), ExitStack() as until_done:
        for note in notes:
            print(f"note: {note}")
        records = results(options.out)
        keep = set[Path]() if options.overwrite else kept(jobs, settings, records)
        write_manifest(options.out, records)
        pipe = attention = None
        for folder, request in jobs:
            if folder in keep:
                print(f"{folder}: kept, already complete: {request.prompt}")
                continue
            if pipe is None:
                waiting = [request for folder, request in jobs if folder not in keep]
                pipe, compiled = _load(options, settings, backend, waiting)
                notes += compiled
                if settings.attention != OWN:
                    attention = until_done.enter_context(c4d.attention(pipe, settings.attention, backend=backend))
                stops.check()
            shown = not options.quiet
            record, clip = produce(
                pipe, request, settings, folder, backend=backend, progress=shown, attention=attention, notes=notes
            )
            write_manifest(options.out, records := {**records, folder: record})
            if several:
                print(f"{folder}: {summary(record)}: {request.prompt}")
            elif not options.quiet:
                for note in record["notes"]:
                    print(f"note: {note}")
                for line in record["attention"]:
                    print(f"attention: {line}")
                print(f"{clip.report or 'uncached'}\n{summary(record)}\ntimed: {record['timing']['how']}")
            for line in () if options.quiet else time_spent(record):
                print(line)
    made = f"{folders[0].name} to {folders[-1].name}, manifest.jsonl" if several else listed(options.out)
    print(f"files in {options.out}: {made}")


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
        attention=options.attention,
        compile=options.compile,
        compare=options.compare,
        repeats=options.repeats,
        history_dtype=options.history_dtype,
        history_on=options.history_on,
    )
    dtype = parse_dtype(settings.dtype, backend=backend)
    if settings.history_dtype is not None:
        parse_dtype(settings.history_dtype, "dtype of the history", backend)
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
    if settings.attention != OWN:
        check_attention(pipe, settings.attention, dtype, backend=backend)
    if callable(pipe):  # else only the whole pipeline can tell, in _load
        call_arguments(pipe, requests[0])  # they differ in their prompts alone
    check_writable(options.out)
    return backend, settings, requests


def _load(options: Options, settings: Settings, backend: Backend, requests: Sequence[Request]) -> tuple[Any, list[str]]:
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
    for request in requests:  # all of them before the first is made, and before anything is compiled
        call_arguments(pipe, request)
    notes = compile_blocks(pipe) if options.compile else []
    for note in notes if not options.quiet else ():
        print(note)
    return pipe, notes
