"""Command lines as words, read by the parsers that would read them: torchrun's, and c4d's own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from torch.distributed.run import get_args_parser

from c4d.cli.calibrate import calibration_of
from c4d.cli.main import main
from c4d.cli.options import Shared
from c4d.core.text.grammar import parse
from c4d.parallel import Degrees, SequenceParallel
from c4d.pipelines.benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ROOT / "tests/core/profiles"
MODELS = {  # heads, and calls of the transformer in a step
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (12, 2),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": (40, 2),
    "hunyuanvideo-community/HunyuanVideo": (24, 1),
    "black-forest-labs/FLUX.1-dev": (24, 1),
    "Qwen/Qwen-Image": (24, 1),
}


class Launched(NamedTuple):
    """What torchrun was told, and what c4d was."""

    torchrun: Any
    options: Shared
    degrees: Degrees


def accepted(*words: str, files: Path = PROFILES) -> Shared:
    """The options that c4d makes of the words after its name; what the command then does is left out.

    A method's text is parsed, too; a file that it reads is NAME.json in ``files``, in place of the reader's own.
    """
    seen: list[Shared] = []
    launched = patch("c4d.cli.main.launched_or", lambda options, arguments, act: seen.append(options) or 0)
    with launched, patch("c4d.cli.main.plan", seen.append):
        code = main(list(words))
    assert code == 0 and len(seen) == 1, words
    assert words[0] != "benchmark" or words[1] in BENCHMARKS, words
    assert words[0] != "calibrate" or calibration_of(words[1]), words
    for each in methods(seen[0]):
        each = re.sub(r"^profile:[\w./-]+\.json", f"profile:{PROFILES}/flow.json", each)
        name, path, rest = each.partition(":path=")
        assert parse(f"{name}:path={files / name}.json{''.join(rest.partition(',')[1:])}" if path else each), each
    return seen[0]


def methods(options: Shared) -> list[str]:
    """The methods that are named: one of generate, several of compare."""
    named = getattr(options, "cache", None) or ()
    return [each for each in ([named] if isinstance(named, str) else named) if each != "auto"]


def launched(line: str, model: str | None = None) -> Launched:
    """What a line with torchrun starts, whatever starts torchrun; its degrees have to be legal for that many ranks."""
    words = shlex.split(line)
    told = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert told.module and told.training_script == "c4d", line
    options = accepted(*told.training_script_args)
    nodes, devices = int(told.nnodes.rpartition(":")[2]), int(told.nproc_per_node)
    heads, branches = MODELS[model or options.model]
    degrees = options.parts_of(SequenceParallel).degrees(nodes * devices, node=devices, heads=heads, branches=branches)
    return Launched(told, options, degrees)


def dry(script: str, *words: str, **environment: str) -> str:
    """The line that a script of launch/ prints in place of starting it, as on a machine without a scheduler."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "C4D_", "ASCEND_"))}
    done = subprocess.run(
        ["bash", script, *words], cwd=ROOT, env={**bare, "C4D_DRY_RUN": "1", **environment}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line
