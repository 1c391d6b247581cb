"""What is released, built and tried: ``make dist``, or ``python -m tools.dist [--tag v0.1.0] [--torch 'torch<2.14']``.

The sdist is built from the checkout and has to hold every file of it that git knows; the wheel is built from the
unpacked sdist. Both are checked, then the wheel is installed into an empty environment outside of the checkout, where
it makes the clip of launch/demo.yaml. With ``--tag`` its version and CHANGELOG.md have to agree with that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import c4d

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "dist"
MOST = 95_000_000  # bytes; PyPI takes files of 100 MB
NEEDED = ("c4d/py.typed", "c4d/bundled/wan_tiny/model_index.json", "c4d/pipelines/templates/report.html")


class DistError(RuntimeError):
    """A release that is not as it should be; the message says what is wrong."""


def build(folder: Path, out: Path, target: str) -> Path:
    """``sdist`` or ``wheel`` of the project in ``folder``."""
    before = set(out.glob("*"))
    _run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)], folder)
    (made,) = set(out.glob("*")) - before
    return made


def unpacked(sdist: Path, folder: Path) -> Path:
    """The project in an sdist, in ``folder``."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (project,) = folder.iterdir()
    return project


def check_sdist(project: Path, known: Sequence[str]) -> None:
    """Raises DistError unless it has the files that are ``known``, and no others but what a build adds."""
    there = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    missing, more = sorted(set(known) - there), sorted(there - set(known) - {"PKG-INFO"})
    if missing or more:
        raise DistError(f"the sdist lacks {missing or 'nothing'}, and has {more or 'nothing'} that git does not know")


def check_wheel(wheel: Path, project: Path) -> None:
    """Raises DistError unless it has the whole package, and nothing but that and what says what it is."""
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if not name.endswith("/")}
    package = {str(path.relative_to(project)) for path in (project / "c4d").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    missing = sorted((package | set(NEEDED)) - there)
    about = f"c4d-{c4d.__version__}.dist-info/"
    more = sorted(name for name in there - package if not name.startswith(about))
    if missing or more:
        raise DistError(f"the wheel lacks {missing or 'nothing'}, and has {more or 'nothing'} besides")
    if wheel.stat().st_size > MOST:
        raise DistError(f"{wheel.name} has {wheel.stat().st_size} bytes, more than {MOST}")


def check_tag(tag: str, changes: str) -> None:
    """Raises DistError unless ``tag`` is that of the version, which CHANGELOG.md has a heading for."""
    if tag != f"v{c4d.__version__}":
        raise DistError(
            f"the tag is {tag!r}, and the version is {c4d.__version__}: v{c4d.__version__} would be its tag"
        )
    if f"\n## {c4d.__version__}\n" not in changes:
        raise DistError(f"CHANGELOG.md has no heading '## {c4d.__version__}': say there what the release holds")


def try_wheel(wheel: Path, torch: str, folder: Path) -> None:
    """Installs both into an empty environment in ``folder``, and makes the clip of launch/demo.yaml there."""
    _run([sys.executable, "-m", "venv", str(folder / "empty")], folder)
    python = folder / "empty/bin/python"
    _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel), torch], folder)
    (folder / "demo.yaml").write_text((ROOT / "launch/demo.yaml").read_text())
    _run([str(python), "-c", "import c4d, sys; sys.exit(not c4d.__file__.startswith(sys.prefix))"], folder)
    _run([str(folder / "empty/bin/c4d"), "generate", "--config", "demo.yaml"], folder)
    report = json.loads((folder / "out/demo/report.json").read_text())
    if lost := [name for name in report["files"] if not (folder / "out/demo" / name).is_file()]:
        raise DistError(f"the demo left no {', '.join(lost)}")


def _run(command: Sequence[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode:
        raise DistError(f"{' '.join(command)} ended with status {done.returncode}")


def known_to_git() -> list[str]:
    said = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in said.split("\0") if name]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tools.dist", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tag", default="", help="of the release, such as v0.1.0")
    parser.add_argument("--torch", default="torch", help="which one the wheel is tried with, as pip reads it")
    options = parser.parse_args(arguments)
    try:
        if options.tag:
            check_tag(options.tag, (ROOT / "CHANGELOG.md").read_text())
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir()
        with tempfile.TemporaryDirectory() as folder:
            sdist = build(ROOT, OUT, "sdist")
            (Path(folder) / "source").mkdir()
            project = unpacked(sdist, Path(folder) / "source")
            check_sdist(project, known_to_git())
            wheel = build(project, OUT, "wheel")
            check_wheel(wheel, project)
            _run([sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)], ROOT)
            (Path(folder) / "away").mkdir()
            try_wheel(wheel, options.torch, Path(folder) / "away")
    except DistError as error:
        print(f"make dist: error: {error}", file=sys.stderr)
        return 1
    for made in (sdist, wheel):
        print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
