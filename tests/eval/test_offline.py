"""Every bundled model loads without a network, into the classes and sizes that its page names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SIZES = {
    "wan-tiny": "WanPipeline WanTransformer3DModel 2280096",
    "wan-tiny-causal": "WanPipeline WanTransformer3DModel 2280096",
    "flux-tiny": "FluxPipeline FluxTransformer2DModel 1951888",
    "glyph-dit": "DiTPipeline DiTTransformer2DModel 1806256",
}
LOAD = """
import socket, sys

def refuse(*args, **kwargs):
    raise SystemExit("the network was used")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from diffusers import DiffusionPipeline
import c4d
for name in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(c4d.bundled_model(name))
    count = sum(p.numel() for p in pipe.transformer.parameters())
    print(type(pipe).__name__, type(pipe.transformer).__name__, count)
"""


def test_they_load_offline(tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", LOAD, *SIZES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert dict(zip(SIZES, done.stdout.splitlines(), strict=True)) == SIZES
