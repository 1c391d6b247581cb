"""Where the command starts: before torch, which a package that extends it can keep from being imported."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import c4d
from c4d.core.importing import CannotImportError, importing

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"  # torch's own: with 0 it imports no package that extends it
TORCH_FAILED = "C4D_TORCH_FAILED"  # tells doctor, started again, why torch cannot be imported without that
SHARED = (2, 130, 143)  # bad input, interrupted, terminated


def main(*first: str) -> int:
    """Runs the command line of this process, with the words ``first`` before it. Returns the exit code.

    Doctor has its page about a torch that cannot be imported too: it starts once more, with what torch imports by
    itself switched off.
    """
    arguments = [*first, *sys.argv[1:]]
    if arguments == ["--version"]:
        print(f"c4d {c4d.__version__}")
        return 0
    try:
        with importing("torch"):
            import torch  # noqa: F401
    except CannotImportError as error:
        if arguments[:1] != ["doctor"]:
            return fail(f"{error}; {error.way_out}", arguments, 3)
        if TORCH_FAILED in os.environ:
            return fail(f"{error}, with {AUTOLOAD}=0 too; install c4d with its dependencies", arguments, 3)
        again = {**os.environ, AUTOLOAD: "0", TORCH_FAILED: error.reason}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], again)
    from c4d.cli.main import main as run

    return run(arguments)


def fail(message: str, arguments: Sequence[str], code: int) -> int:
    """One line of error on stderr, after the traceback with ``--debug``; returns ``code``.

    Of several ranks, only the first tells what all of them meet.
    """
    rank, who = os.environ.get("RANK", "0"), ""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        if rank != "0" and code in SHARED:
            return code
        who = f" (rank {rank})"
    if "--debug" in arguments:
        traceback.print_exc()
    print(f"c4d: error{who}: {' '.join(line.strip() for line in message.splitlines())}", file=sys.stderr)
    return code
