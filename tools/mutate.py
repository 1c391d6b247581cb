"""Mutation testing: one small mistake at a time in a copy of the checkout, and whether its tests notice.

python tools/mutate.py [NAME ...] [--list] [--jobs N]; what the mistakes are stands in mutants.py. The exit status is 1
if a mutant survived, if one's text is not in its file exactly once, or if the tests fail without any.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds: a mutant that makes a loop endless is noticed, too
FAILED, ELSEWHERE = 1, 99  # exit status: tests fail, as pytest says it; they would not be of the copy
SET = {"HF_HUB_OFFLINE": "1", "TRITON_INTERPRET": "1"}  # by tests/conftest.py, too late for what is imported here
COSTLY = ("pytest", "torch", "transformers", "diffusers.models.transformers.transformer_wan", "hypothesis")


def copied(folder: Path) -> Path:
    """The tracked files of the checkout, as they are now, in ``folder``."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def started(folder: Path, tests: Sequence[str], patience: int = PATIENCE) -> int:
    """The id of a process, forked from this one for what it has imported, that runs ``tests`` in ``folder``.

    It writes no bytecode: a file is changed and changed back within the second by which that is told to be stale.
    """
    if pid := os.fork():
        return pid
    signal.alarm(patience)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
    said = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1), os.dup2(said, 2)
    code = ELSEWHERE
    with suppress(BaseException):
        package = find_spec("c4d")
        if package is not None and str(package.origin).startswith(str(folder)):
            code = import_module("pytest").main(["-p", "no:xdist", "-m", "", "-x", *tests])
        sys.stdout.flush()
    os._exit(code)


def told(what: str, start: float, name: str) -> None:
    print(f"{what:<8} {time.monotonic() - start:5.1f} s  {name}", flush=True)


def stale(mutant: Mutant) -> str | None:
    """Why it cannot be applied, None if it can."""
    path = ROOT / mutant.file
    found = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else 0
    return None if found == 1 else f"{mutant.name}: its text is {found} times in {mutant.file}, and has to be once"


def judged(mutants: Sequence[Mutant], folders: list[Path]) -> int:
    """How many of them survive; in each of ``folders`` one at a time, and each is left as it was."""
    waiting, running, survivors = list(mutants), dict[int, tuple[Mutant, Path, str, float]](), 0
    while waiting or running:
        while waiting and folders:
            mutant, folder = waiting.pop(0), folders.pop()
            text = (folder / mutant.file).read_text(encoding="utf-8")
            changed = text.replace(mutant.old, mutant.new)
            compile(changed, mutant.name, "exec")  # a mutant that is no Python proves nothing
            (folder / mutant.file).write_text(changed, encoding="utf-8")
            running[started(folder, mutant.tests)] = mutant, folder, text, time.monotonic()
        pid, status = os.wait()
        mutant, folder, text, start = running.pop(pid)
        (folder / mutant.file).write_text(text, encoding="utf-8")
        folders.append(folder)
        survivors += status == 0
        code = os.waitstatus_to_exitcode(status)
        unusual = "" if code in (0, FAILED) else f" (exit status {code})"
        told("killed" if code else "SURVIVED", start, mutant.name + unusual)
    return survivors


def run(mutants: Sequence[Mutant], jobs: int) -> None:
    os.environ.update(SET)
    for name in COSTLY:
        import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folders = [copied(Path(temporary, f"copy-{job}").resolve()) for job in range(jobs)]
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        start, (_, status) = time.monotonic(), os.waitpid(started(folders[0], tests, 10 * PATIENCE), 0)
        if status:
            wrong = "c4d is not that of the copy" if os.waitstatus_to_exitcode(status) == ELSEWHERE else "tests fail"
            sys.exit(f"{folders[0].with_suffix('.txt').read_text()}\nwithout any mutant {wrong}")
        told("passed", start, "without any mutant")
        survivors = judged(mutants, folders)
    print(f"{len(mutants) - survivors} of {len(mutants)} killed")
    sys.exit(1 if survivors else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of mutants; all of them without any")
    parser.add_argument("--list", action="store_true", help="say what they are, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at the same time; default 1")
    options = parser.parse_args()
    if unknown := set(options.names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    mutants = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    if options.list:
        print("\n".join(f"{mutant.file:<44} {mutant.name}" for mutant in mutants))
    elif lost := list(filter(None, map(stale, mutants))):
        sys.exit("\n".join(lost))
    else:
        run(mutants, options.jobs)


if __name__ == "__main__":
    main()
