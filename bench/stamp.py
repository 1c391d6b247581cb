"""What every measurement carries: command, machine, versions, commit, date."""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def stamp(command: str, threads: int) -> list[str]:
    """Markdown lines that say where and with what a measurement was made."""
    from c4d.pipelines.report import about_here

    here = about_here()
    machine, found = here["machine"], here["versions"]
    versions = ", ".join(f"{package} {found[package]}" for package in ("torch", "diffusers", "transformers"))
    return [
        f"- Command: `{command}`",
        f"- Machine: {machine['processor']}, {machine['cores']} cores, {threads} thread(s), {platform.system()}",
        f"- Versions: Python {found['python']}, {versions}",
        f"- Commit: {commit()}",
        f"- Date: {date.today().isoformat()}",
    ]


def commit() -> str:
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "none yet (no commit in this checkout)"
    return head + (", with uncommitted changes" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str | None:
    # Without optional locks a reading command writes nothing, not even the index.
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
