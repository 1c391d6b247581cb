"""Compiles the kernels for a GPU that is not here: ``python -m tests.backends.compiling 90`` prints JSON.

A process of its own, because Triton either interprets or compiles, decided when it is imported. Triton's launcher does
all that it does on a GPU (which arguments are constants, which pointers are aligned) but for the launch.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from c4d.backends.cuda.lincomb import change, lincomb
from c4d.backends.cuda.norm_rotary import HEAD, TOKEN, launch

BF16, FP32 = torch.bfloat16, torch.float32
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Device:
    """What a launcher asks of a device."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED, LOCAL, … as the assembler laid them out; spills would be on the stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"([A-Z]+):(\d+)", said)}


def calls():
    """Names and launches: features and tokens of models' sizes."""
    x = torch.zeros(2, 64, 3072, dtype=BF16)
    rows, weights = x[:, :-12], torch.ones(3)
    yield "lincomb", lambda: lincomb([x, x, x], [1.0, 2.0, 3.0])
    yield "lincomb rows", lambda: lincomb([rows, rows, rows], weights)
    yield "lincomb fp16", lambda: lincomb([x.half(), x.half()], [1, 2])  # ints, as a caller may give them
    yield "lincomb fp32", lambda: lincomb([x.float(), x.float()], [1.0, 2.0])
    yield "lincomb odd", lambda: lincomb([x.flatten()[:-1]], [1.0])
    yield "change", lambda: change(x, rows.new_zeros(x.shape))
    cos, sin = (torch.zeros(8, 128)[..., i::2] for i in (0, 1))
    q = torch.zeros(1, 8, 40, 128, dtype=BF16)
    hunyuan = torch.zeros(1, 8, 3, 24, 128, dtype=BF16)[:, :, 1]
    yield "token norm", lambda: launch(q, q.new_zeros(5120), cos, sin, 1e-6, TOKEN, True, 8)
    yield "head norm", lambda: launch(hunyuan, q.new_zeros(128), cos, sin, 1e-6, HEAD, True, 7)
    yield "halves", lambda: launch(q, q.new_zeros(128), cos.contiguous(), sin.contiguous(), 1e-6, HEAD, False, 8)
    wide = torch.zeros(1, 8, 64, 128)
    yield "token norm fp32", lambda: launch(wide, wide.new_zeros(8192), cos, sin, 1e-6, TOKEN, True, 8)


def main(capability: int) -> None:
    triton.runtime.driver.set_active(Device(capability))
    run, found = JITFunction.run, []

    def compiled(self, *args, grid, warmup, **kwargs):
        found.append((self.fn.__name__, run(self, *args, grid=grid, warmup=True, **kwargs)))

    JITFunction.run = compiled
    result = {}
    for name, call in calls():
        found.clear()
        call()
        for function, kernel in found:
            key = f"{name} end" if function == "finish_kernel" else name
            result[key] = {"ptx": kernel.asm["ptx"], "resources": resources(kernel.asm["cubin"])}
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]))
