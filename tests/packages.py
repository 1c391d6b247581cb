"""Packages as pip leaves them in a folder, and Python that finds them there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

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
