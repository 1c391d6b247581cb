"""Part "generate": clips of the embedded model by launch/infer.py, cached and not, beside those of the host.

The films are compared as they are saved, in H.264, with those that the ``cpu`` backend makes in fp32 of the same noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.accelerator import processes
from bench.accelerator.machine import Machine
from bench.accelerator.records import Absent, Case, Record
from c4d.eval import psnr

METHOD = "taylorseer-lite:interval=3@stack"
PROMPT = "a red circle moving left on a black background"
MISSING = 3  # exit status of launch/infer.py
LIMIT = 600.0  # seconds of one command
FILMS = {"cached": "video.mp4", "uncached": "uncached.mp4"}
LEAST = {"float32": 40.0, "bfloat16": 30.0, "float16": 30.0}  # dB to the host's clip; below, it is another clip
SAME = 99.0  # dB, in place of infinity: the very same pixels


def cases(machine: Machine) -> list[Case]:
    own = str(machine.backend.default_dtype).removeprefix("torch.")
    dtypes = [own] if machine.rehearsal else list(dict.fromkeys((own, "float32")))
    return [Case(f"wan-tiny, {dtype}", 40, lambda dtype=dtype: measure(machine, dtype)) for dtype in dtypes]


def measure(machine: Machine, dtype: str) -> Record:
    there, host = machine.folder / "generate" / dtype, machine.folder / "generate" / "host"
    found = made(machine, machine.backend.name, dtype, there)
    if "host" not in machine.kept:
        machine.kept["host"] = made(machine, "cpu", "float32", host)
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


def made(machine: Machine, backend: str, dtype: str, folder: Path) -> Record:
    """Makes the clips and returns their report's figures; RuntimeError if the command does not end well."""
    memory = folder.with_suffix(".memory.json")
    folder.mkdir(parents=True, exist_ok=True)
    options: list[object] = ["--backend", backend, "--dtype", dtype, "--cache", METHOD, "--prompt", PROMPT]
    options += ["--steps", 4] if machine.rehearsal else []
    options += ["--compare", "--quiet", "--overwrite", "--out", folder.resolve()]
    how, lines = processes.run(["-m", "bench.accelerator.infer", memory.resolve(), *options], LIMIT)
    if how == MISSING:  # the backend is here: a package of the command is not
        raise Absent(lines[-1])
    if how != 0:
        raise RuntimeError(f"launch/infer.py --backend {backend} ended with {how}: {lines[-1]}")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return {
        "exit": how,
        "attention": report["attention"],
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
