"""Part "generate": clips of the bundled model by launch/infer.py, cached and not, beside those of the host; on one
device, and on 2 and 8 that share them.

The films are compared as they are saved, in H.264, with those that the ``cpu`` backend makes in fp32 of the same noise.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import processes
from bench.accelerator.cards import RANKS, enough
from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Case, Record
from c4d.metrics import psnr

METHOD = "taylorseer-lite:interval=3@blocks"
PROMPT = "a red circle moving left on a black background"
MISSING = 3  # exit status of launch/infer.py
LIMIT = 600.0  # seconds of one command
FILMS = {"cached": "video.mp4", "uncached": "uncached.mp4"}
LEAST = {"float32": 40.0, "bfloat16": 30.0, "float16": 30.0}  # dB to the host's clip; below, it is another clip
SAME = 99.0  # dB, in place of infinity: the very same pixels


def cases(machine: Machine) -> list[Case]:
    own = str(machine.backend.default_dtype).removeprefix("torch.")
    dtypes = [own] if machine.rehearsal else list(dict.fromkeys((own, "float32")))
    alone = [Case(f"wan-tiny, {dtype}", 40, partial(measure, machine, dtype, 1)) for dtype in dtypes]
    return [*alone, *(Case(f"wan-tiny, {own}, {n} ranks", 60, partial(measure, machine, own, n)) for n in RANKS)]


def measure(machine: Machine, dtype: str, ranks: int) -> Record:
    if ranks > 1:
        enough(machine, ranks)
    there, host = machine.folder / "generate" / f"{dtype}-{ranks}", machine.folder / "generate" / "host"
    found = made(machine, machine.backend.name, dtype, there, ranks)
    if "host" not in machine.kept:
        machine.kept["host"] = made(machine, "cpu", "float32", host, 1)
    wanted, failures = machine.kept["host"]["timelines"], []
    if found["timelines"] != wanted:
        failures.append(f"other steps are computed than on the host: {found['timelines']}, {wanted}")
    if found["nonfinite"]:
        failures.append("numbers that are not finite were predicted")
    close = {clip: closeness(there / film, host / film) for clip, film in FILMS.items()}
    for clip, db in close.items():
        if not db >= LEAST[dtype]:
            failures.append(f"{clip}: {db:.1f} dB to the host's clip, less than {LEAST[dtype]:g}")
    return {"checked": 2 + len(close), "failures": failures, "psnr": close, **found}


def made(machine: Machine, backend: str, dtype: str, folder: Path, ranks: int) -> Record:
    """Makes the clips and returns their report's figures; RuntimeError if the command does not end well.

    Several ranks share the tokens, each branch of guidance after the other; the peak is that of the first.
    """
    memory = folder.with_suffix(".memory.json")
    folder.mkdir(parents=True, exist_ok=True)
    options: list[object] = ["--backend", backend, "--dtype", dtype, "--cache", METHOD, "--prompt", PROMPT]
    options += ["--steps", 4] if machine.rehearsal else []
    options += ["--compare", "--quiet", "--overwrite", "--out", folder.resolve()]
    program: list[object] = ["-m", "bench.accelerator.infer", memory.resolve(), *options]
    if ranks > 1:
        program = [*processes.torchrun(ranks), *program, "--cfg", 1]
    how, lines = processes.run(program, LIMIT)
    if how == MISSING:  # the backend is here: a package of the command is not
        raise Absent(lines[-1])
    if how != 0:
        raise RuntimeError(f"launch/infer.py --backend {backend} ended with {how}: {lines[-1]}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return {
        "exit": how,
        "attention": report["attention"],
        "ranks": report["ranks"],
        "peak": json.loads(memory.read_text())["peak"],
        "seconds_clip": report["timing"]["median"],
        **{key: report["session"][key] for key in ("computed", "reused", "timelines", "nonfinite", "peak_bytes")},
    }


def closeness(film: Path, other: Path) -> float:
    """dB of one saved film to another; ``SAME`` for films of the very same pixels."""
    return min(SAME, float(psnr(frames(film), frames(other))))


def frames(film: Path) -> Tensor:
    """[1, 3, T, H, W] in [0, 1]."""
    from imageio_ffmpeg import read_frames

    reader = read_frames(str(film), pix_fmt="rgb24")
    width, height = next(reader)["size"]
    pixels = np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
    return torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].float() / 255
