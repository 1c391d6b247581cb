"""Python imports this at its start: a process that is to compute gets torch_npu and stays within the simulation.

``install.environment(…, simulate=True)`` puts this folder in front of PYTHONPATH. Every Python program of such an
environment computes, on the device that it chooses; launchers of ranks and snippets (``python -c``) do not. The
simulation holds in the main thread alone.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import PurePath

LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
TAKE_A_VALUE = ("-W", "-X", "--check-hash-based-pycs")


def program(command: list[str]) -> str:
    """What Python was told to run: a script's name, or a module's after -m; nothing for a snippet or a prompt."""
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, "")
        if word.startswith("-m"):
            return word[2:]
        if word in TAKE_A_VALUE:
            next(words, None)
        elif word == "-c" or not word.startswith("-"):
            return "" if word.startswith("-") else PurePath(word).name
    return ""


def enter() -> None:
    import atexit

    import torch

    from tests.ascend.sim.device import Simulation

    torch.set_num_threads(1)
    simulation = Simulation()
    simulation.__enter__()
    atexit.register(simulation.__exit__, None, None, None)


if os.environ.get("C4D_SIM_DEVICES") and program(sys.orig_argv) not in ("", *LAUNCHERS):
    try:
        enter()
    except BaseException:  # Python would go on, and kernels that compute nothing would pass for a device
        traceback.print_exc()
        os._exit(70)
