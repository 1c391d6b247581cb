"""What every measurement carries: command, machine, versions, commit, date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def stamp(command: str, threads: int) -> list[str]:
    """Markdown lines that say where and with what a measurement was made."""
    import diffusers
    import torch
    import transformers

    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    return [
        f"- Command: `{command}`",
        f"- Machine: {_processor()}, {os.cpu_count()} cores, {threads} thread(s), {platform.system()}",
        f"- Versions: Python {platform.python_version()}, {versions}",
        f"- Commit: {_commit()}",
        f"- Date: {date.today().isoformat()}",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "none yet (no commit in this checkout)"
    return head + (", with uncommitted changes" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str | None:
    # Without optional locks a reading command writes nothing, not even the index.
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
