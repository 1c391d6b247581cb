"""Mutation testing: one small mistake at a time in a copy of the checkout, and whether its tests notice.

python tools/mutate.py [NAME ...] [--list] [--jobs N]; what the mistakes are stands in mutants.py. The exit status is 1
if a mutant survived, if one's text is not in its file exactly once, or if the tests fail without any.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds: a mutant that makes a loop endless is noticed, too
WHERE = "import c4d; print(c4d.__file__)"


def copied(folder: Path) -> Path:
    """The tracked files of the checkout, as they are now, in ``folder``."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def python(folder: Path, *words: str, patience: float | None = None) -> subprocess.CompletedProcess[str]:
    """Python with the packages of ``folder``. It writes no bytecode: a file is changed and changed back within the
    second by which bytecode is told to be stale."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=patience
    )


def tested(folder: Path, tests: Sequence[str], patience: float | None = None) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "pytest", "-p", "no:xdist", "-x", "-q", *tests, patience=patience)


def stale(mutant: Mutant) -> str | None:
    """Why it cannot be applied, None if it can."""
    path = ROOT / mutant.file
    found = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else 0
    return None if found == 1 else f"{mutant.name}: its text is {found} times in {mutant.file}, and has to be once"


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether its tests pass with it, in ``folder``, which is left as it was."""
    path = folder / mutant.file
    text = path.read_text(encoding="utf-8")
    changed = text.replace(mutant.old, mutant.new)
    compile(changed, mutant.file, "exec")  # a mutant that is no Python proves nothing
    path.write_text(changed, encoding="utf-8")
    try:
        return tested(folder, mutant.tests, PATIENCE).returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(text, encoding="utf-8")


def failure(folder: Path, mutants: Sequence[Mutant]) -> str | None:
    """Why nothing can be told from this checkout, None if all tests pass on a copy that is the one imported."""
    place = python(folder, "-c", WHERE)
    if not place.stdout.startswith(str(folder)):
        return f"c4d comes from {place.stdout.strip() or place.stderr}, not from the copy in {folder}"
    plain = tested(folder, sorted({test for mutant in mutants for test in mutant.tests}))
    return f"{plain.stdout}{plain.stderr}\nthe tests fail without any mutant" if plain.returncode else None


def judged(mutants: Sequence[Mutant], jobs: int) -> list[str]:
    """The names of those that survived."""
    free, survivors = SimpleQueue[Path](), list[str]()

    def judge(mutant: Mutant) -> None:
        folder, start = free.get(), time.monotonic()
        survived = survives(mutant, folder)
        free.put(folder)
        survivors.extend([mutant.name] * survived)
        said = "SURVIVED" if survived else "killed"
        print(f"{said:<8} {time.monotonic() - start:6.1f} s  {mutant.name}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folders = [copied(Path(temporary, str(job)).resolve()) for job in range(jobs)]
        if trouble := failure(folders[0], mutants):
            sys.exit(trouble)
        for folder in folders:
            free.put(folder)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(judge, mutants))
    return survivors


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
        print("\n".join(f"{mutant.name:<44} {mutant.file}" for mutant in mutants))
        return
    if lost := list(filter(None, map(stale, mutants))):
        sys.exit("\n".join(lost))
    survivors = judged(mutants, options.jobs)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
