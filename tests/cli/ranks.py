"""Two ranks that run one program after another: a torchrun for all of them, as starting one takes longer than most.

``torchrun ... tests/cli/ranks.py FOLDER`` waits for FOLDER/0.json, 1.json ... with a ``program``, its ``words`` and
``settings``; each rank leaves its exit status and what it wrote to stderr beside it. ``null`` ends it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import runpy
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.forked import free_port

ROOT = Path(__file__).parents[2]
LIMIT = 180  # seconds, for one program


class DecisionSync:
    """Runs programs on two ranks; with ``close`` they end."""

    def __init__(self, folder: Path):
        self.folder, self.numbers = folder, itertools.count()
        self.said = (folder / "said").open("w+")
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            __file__,
            folder,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, env=environment, stdout=self.said, stderr=subprocess.STDOUT
        )

    def run(self, program: str, *words: Any, **settings: str) -> tuple[int, list[str] | str]:
        """The worse exit status, and the lines that c4d wrote to stderr on any rank; without any, all that was said."""
        job = self.folder / f"{next(self.numbers)}.json"
        # The launcher's store has what ranks said when they met before; they make one of their own each time.
        settings |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(free_port())}
        put(job, dict(program=program, words=[str(word) for word in words], settings=settings))
        done = [job.with_suffix(f".{rank}") for rank in (0, 1)]
        until = time.monotonic() + LIMIT
        while not all(path.exists() for path in done):
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "said").read_text()
            time.sleep(0.05)
        found = [json.loads(path.read_text()) for path in done]
        said = "".join(each["said"] for each in found)
        lines = [line for line in said.splitlines() if line.startswith("c4d: ")]
        return max((each["code"] for each in found), key=abs), lines or said

    def close(self) -> int:
        """The exit status of torchrun."""
        try:
            put(self.folder / f"{next(self.numbers)}.json", None)
            return self.process.wait(LIMIT)
        finally:
            self.process.kill()
            self.said.close()


def put(path: Path, what: Any) -> None:
    """At once: nobody reads half of it."""
    path.with_suffix(".new" + path.suffix).write_text(json.dumps(what))
    path.with_suffix(".new" + path.suffix).replace(path)


def jobs(folder: Path) -> Iterator[tuple[Path, Any]]:
    for number in itertools.count():
        path = folder / f"{number}.json"
        while not path.exists():
            time.sleep(0.05)
            if os.getppid() == 1:  # torchrun is gone
                return
        job = json.loads(path.read_text())
        if job is None:
            return
        yield path, job


def run(program: str, words: list[str]) -> int:
    """As ``python PROGRAM WORDS``: its exit status."""
    sys.argv = [program, *words]
    try:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def main(folder: Path, rank: str) -> None:
    import torch

    torch.set_num_threads(1)
    for path, job in jobs(folder):
        before = dict(os.environ)
        os.environ.update(job["settings"])
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = run(job["program"], job["words"])
        os.environ.clear()
        os.environ.update(before)
        put(path.with_suffix(f".{rank}"), dict(code=code, said=said.getvalue()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ["RANK"])
