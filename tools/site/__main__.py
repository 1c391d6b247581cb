"""Builds the site: ``python -m tools.site [FOLDER]``, else in out/site. A warning is an error, so a broken link is."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.cmd.build import build_main

from tools.site.sources import ROOT, stage

HERE = Path(__file__).resolve().parent


def build(folder: Path) -> int:
    """The pages in ``folder``, their sources beside it; returns Sphinx's exit status."""
    sources = folder.with_name(f"{folder.name}-sources")
    stage(sources)
    how = [
        "--quiet",
        "--fail-on-warning",
        "--keep-going",
        "--jobs",
        "auto",
        "--conf-dir",
        HERE,
        "--doctree-dir",
        sources / ".doctrees",
    ]
    return build_main([*map(str, how), str(sources), str(folder)])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "out/site")))
