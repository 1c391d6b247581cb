"""``c4d generate | rollout | serve | studio | benchmark | tune | calibrate | compare | plan | explain | check-model |
methods | models | doctor``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import c4d
from c4d.backends import BackendUnavailableError, UnsupportedError
from c4d.cli.benchmark import listing as benchmarks
from c4d.cli.benchmark import run as benchmark
from c4d.cli.calibrate import listing
from c4d.cli.calibrate import run as calibrate
from c4d.cli.catalogue import doctor_text, methods_text, models_text
from c4d.cli.check_model import run as check_model
from c4d.cli.command import generate
from c4d.cli.compare import run as compare
from c4d.cli.explain import run as explain
from c4d.cli.options import (
    BenchmarkOptions,
    CalibrateOptions,
    CompareOptions,
    Options,
    Parser,
    PlanOptions,
    RolloutOptions,
    ServeOptions,
    StudioOptions,
    TuneOptions,
    add_options,
    path_to,
    read_options,
)
from c4d.cli.plan import run as plan
from c4d.cli.rollout import run as rollout
from c4d.cli.serve import run as serve
from c4d.cli.signals import Stops, Terminated, stoppable
from c4d.cli.start import fail
from c4d.cli.tune import run as tune
from c4d.core.importing import CannotImportError
from c4d.core.text.grammar import MethodError
from c4d.parallel.agree import DisagreementError
from c4d.parallel.watch import LostRankError
from c4d.pipelines import GenerationError, InputError, OutputError

EPILOG = """\
exit codes: 0 done; 2 bad input or usage; 3 a backend or a dependency is missing here; 4 an output could not be
            written; 130 interrupted; 143 terminated; 1 anything else. Errors are one line on stderr; --debug shows
            where they came from. What generate has finished is kept, whatever ends it; the same command goes on
            from there, unless it has --overwrite. So do benchmark, tune, calibrate and compare.

example:    c4d generate --prompt "a red circle moving left on a black background" \\
                --cache taylorseer-lite:interval=3@blocks --compare --out out/circle
            c4d explain out/circle
            c4d compare --prompt-file prompts.txt --cache auto --cache dmd:interval=4 --out comparison
"""

Job = tuple[Parser, type[Any], Callable[..., None]]  # of a command that runs a model: its options, and who does it
KEPT = "what is finished is kept, and the same command goes on from there"
WHICH = {"calibrate": "METHOD", "benchmark": "BENCHMARK"}  # commands that take a word beside their options
# Other faces than the command line: options, where ``run(options, stops)`` is, imported when asked for, and the help.
FACES: Mapping[str, tuple[type[Any], str, str]] = {
    "studio": (StudioOptions, "c4d.studio.pages.app", "pages in a browser: generate, compare, roll out, tune"),
}
PAGES: Mapping[str, tuple[Callable[[str | None], str], str]] = {
    "methods": (methods_text, "the caching methods, their options, forecasters and sites"),
    "models": (models_text, "the models that can be cached, and the bundled ones"),
    "doctor": (doctor_text, "versions, and which backends can run here"),
}
RESUME = {  # what a command that ended early says of the next call
    "generate": f"{KEPT} (with --overwrite: starts again)",
    "benchmark": f"{KEPT} (with --overwrite: starts again)",
    "serve": "what was asked for is kept, and the same command goes on from there",
    "tune": KEPT,
    "calibrate": KEPT,
    "compare": KEPT,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; ``argv`` without the program's name. Returns the exit code (see ``c4d --help``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except BaseException as error:
        for kinds, code, text in ERRORS:
            if isinstance(error, kinds):
                return fail(", ".join([text(error, arguments), *getattr(error, "__notes__", ())]), arguments, code)
        raise


def noted(show: Callable[..., None]) -> Callable[..., None]:
    """``warnings.showwarning`` that says c4d's own as a line like the others, and leaves the rest to ``show``."""

    def say(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
        if str(Path(c4d.__file__).parent) in filename:
            print(f"c4d: note: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            show(message, category, filename, *where, **more)

    return say


def _resume(arguments: Sequence[str]) -> str:
    return RESUME.get(arguments[0], KEPT) if arguments else KEPT


def lost(arguments: list[str], words: str) -> None:
    """The line of error where another rank cannot go on, for which the main thread waits."""
    fail(f"{words}; {_resume(arguments)}", [], 1)
    sys.stdout.flush()


def _interrupted(error: BaseException, arguments: Sequence[str]) -> str:
    resume = RESUME.get(arguments[0]) if arguments else None
    return "interrupted" if resume is None else f"interrupted; {resume}"


def _unwritten(error: BaseException, arguments: Sequence[str]) -> str:
    """``explain`` writes beside what it reads, and its text is out by then."""
    if arguments[:1] == ["explain"]:
        return str(error)
    return f"{error}; make room or name another --out: {_resume(arguments)}"


def _unexpected(error: BaseException, arguments: Sequence[str]) -> str:
    return f"{type(error).__name__}: {error}{'' if '--debug' in arguments else ' (unexpected; --debug shows where)'}"


# The first that fits: kinds of errors, the exit code, and what is said.
ERRORS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int, Callable[..., str]], ...] = (
    (KeyboardInterrupt, 130, _interrupted),
    (Terminated, 143, lambda error, given: f"terminated; {_resume(given)}"),
    (OutputError, 4, _unwritten),
    ((InputError, MethodError, UnsupportedError, DisagreementError), 2, lambda error, _: str(error)),
    (torch.OutOfMemoryError, 1, lambda error, given: f"{error}; {_resume(given)}"),
    (LostRankError, 1, lambda error, given: f"{error}; {_resume(given)}"),
    (GenerationError, 1, lambda error, _: str(error)),
    (BackendUnavailableError, 3, lambda error, _: f"{error}; c4d doctor lists what can"),
    (CannotImportError, 3, lambda error, _: f"{error}; {error.way_out}"),
    (ImportError, 3, lambda error, _: f"a dependency is missing: {error}; install c4d with its dependencies"),
    (Exception, 1, _unexpected),
)


def commands() -> tuple[dict[str, Parser], Parser, dict[str, Job]]:
    """The parser of each command, the one above them, and the jobs among the commands."""
    shared = Parser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    parser = Parser(
        "c4d",
        description="Diffusion transformers made fast by not recomputing what can be predicted.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"c4d {c4d.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, epilog: str | None = None) -> Parser:
        how: dict[str, Any] = {"epilog": epilog, "formatter_class": argparse.RawDescriptionHelpFormatter}
        return parsers.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False, **how)

    jobs: dict[str, Job] = {
        "generate": (command("generate", "generate a clip, cached or not, and report on it"), Options, generate),
        "rollout": (
            command("rollout", "make a clip block by block, over a cache of keys and values, and watch it grow"),
            RolloutOptions,
            rollout,
        ),
        "serve": (
            command("serve", "make clips for others over HTTP, with a queue and a worker for each device"),
            ServeOptions,
            serve,
        ),
        "benchmark": (
            command("benchmark", "make the samples of a published benchmark, for its own tools to score", benchmarks()),
            BenchmarkOptions,
            benchmark,
        ),
        "tune": (
            command("tune", "make a profile of a model, measure it, and say which method to take"),
            TuneOptions,
            tune,
        ),
        "calibrate": (
            command("calibrate", "make the calibration data of a published method for a model", listing()),
            CalibrateOptions,
            calibrate,
        ),
        "compare": (
            command("compare", "one page of what methods do to a model, beside plain steps of the same cost"),
            CompareOptions,
            compare,
        ),
        **{name: (command(name, text), kind, partial(face, where)) for name, (kind, where, text) in FACES.items()},
    }
    unsaid: dict[str, Any] = {"nargs": "?", "default": argparse.SUPPRESS}  # a file with options is read without it
    for name, metavar in WHICH.items():
        jobs[name][0].add_argument("which", metavar=metavar, help=f"what to {name}, see below", **unsaid)
    for asking, kind, _ in jobs.values():
        add_options(asking, kind)
    planning = command("plan", "say what a model takes on so many devices, before any of them is there")
    add_options(planning, PlanOptions)
    checking = command("check-model", "prove that a description fits its model, or make one from a forward")
    checking.add_argument(
        "target",
        metavar="CLASS|FILE.py|MODULE",
        help="a class that c4d models lists, or where c4d.ModelSpec and c4d.Example are (docs/adding_a_model.md)",
    )
    telling = command("explain", "draw which steps of a generation were computed, by which values, and say why")
    telling.add_argument("folder", type=path_to, metavar="DIR", help="folder that generate made, of one prompt or more")
    telling.add_argument("--json", action="store_true", help="print the same as data, a line for each generation")
    for name, (_, text) in PAGES.items():
        page = command(name, text)
        if name == "doctor":
            page.add_argument("--backend", dest="name", metavar="NAME", help="only this one; the others are not asked")
        else:
            page.add_argument("name", nargs="?", metavar="NAME", help="only this one, with all that is known of it")
    return dict(parsers.choices), parser, jobs


def _run(arguments: list[str]) -> int:
    parsers, parser, jobs = commands()
    given = vars(parser.parse_args(arguments))
    if given["command"] in PAGES:
        print(PAGES[given["command"]][0](given["name"]))
    elif given["command"] == "check-model":
        return check_model(given["target"])
    elif given["command"] == "plan":
        plan(read_options(given, parsers["plan"], PlanOptions))
    elif given["command"] == "explain":
        explain(given["folder"], given["json"])
    else:
        with stoppable(partial(lost, arguments)) as stops, warnings.catch_warnings():
            warnings.showwarning = noted(warnings.showwarning)
            asking, kind, job = jobs[given["command"]]
            options = read_options(given, asking, kind)
            what = [given.get("which")] if given["command"] in WHICH else []
            return launched_or(options, arguments, lambda: job(*what, options, stops))
    return 0


def face(module: str, options: Any, stops: Stops) -> None:
    """One of ``FACES``, which stand above this room and are imported when they are asked for."""
    import_module(module).run(options, stops)


def launched_or(options: Any, arguments: list[str], act: Callable[[], None]) -> int:
    """``act()``; or, with --ranks, the same command in so many processes, of which the first says what they share."""
    if getattr(options, "ranks", None) is None or "WORLD_SIZE" in os.environ:
        act()
        return 0
    if options.ranks < 1:
        raise InputError(f"ranks is {options.ranks!r}; allowed are whole numbers from 1")
    from c4d.parallel.launch import launch  # half a second that one process does not need

    return launch(options.ranks, ["-m", "c4d", *arguments])
