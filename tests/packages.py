"""Packages as pip leaves them in a folder, and Python that finds them there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


def package(site: Path, name: str, entries: str, modules: Mapping[str, str], version: str = "1.0") -> None:
    """A package ``name`` with these modules (file name -> text) and the entry points ``entries``."""
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(entries)
    for file, text in modules.items():
        (site / file).parent.mkdir(exist_ok=True)
        (site / file).write_text(text)


def python(site: Path, *command: Any, cwd: Path, without: Collection[str] = ()) -> subprocess.CompletedProcess[str]:
    """Runs Python with what lies in ``site``, and with c4d; ``without`` these variables of the environment."""
    settings = {name: value for name, value in os.environ.items() if name not in without}
    settings["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, env=settings)


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def commands(site: Path, *words: list[Any], cwd: Path) -> list[Done]:
    """Runs ``c4d`` with each of these words, one after another, in one such Python: to start one takes seconds."""
    code = """
import contextlib, io, json, sys
from c4d.cli.main import main
found = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    found.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""
    done = python(site, "-c", code, json.dumps([[str(word) for word in each] for each in words]), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [Done(*each) for each in json.loads(done.stdout.splitlines()[-1])]
