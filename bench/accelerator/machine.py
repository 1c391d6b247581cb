"""The device, what to say of it, and time on it."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.stamp import ROOT, commit
from c4d.backends import AUTO, Backend, BackendUnavailableError, known, select
from c4d.pipelines.versions import versions

PACKAGES = ("diffusers", "transformers", "accelerate", "cache-dit")
VENDORS = {"cuda": ("triton",), "npu": ("torch_npu",)}  # type of a device -> the packages that it is used through
# Type of a device -> what its vendor's tool says, and what of that is a version (a board's serial number is nobody's).
DRIVERS = {
    "cuda": (["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], r"\S+"),
    "npu": (["npu-smi", "info", "-t", "board", "-i", "0"], r"(?:Software|Firmware) Version\s*:\s*\S+"),
}
SETTINGS = re.compile(
    r"(TASK_QUEUE|CPU_AFFINITY|PYTORCH_|HCCL_|NCCL_|ASCEND_(RT|LAUNCH)_|CUDA_|OMP_)"
)  # change figures
DOUBLE = ("cpu", "cuda")  # types of devices that compute in double precision; others lack it, or are very slow at it
QUEUE = 64  # calls timed at once: with a few kernels each they stay below what a driver's queue of launches takes


class NoAccelerator(RuntimeError):
    """There is no device to measure on."""


@dataclass
class Machine:
    """A backend and its device; in a rehearsal with tiny sizes, on whatever it is, and figures that mean nothing."""

    backend: Backend
    rehearsal: bool = False
    folder: Path = ROOT / "out"  # where cases that write files do so, each in a folder of its own
    kept: dict[str, Any] = field(default_factory=dict)  # what cases of one part share

    @classmethod
    def find(cls, name: str = AUTO, rehearsal: bool = False, folder: Path = ROOT / "out") -> Machine:
        """On the backend of that name, with "auto" the first one of an accelerator that can run here.

        Raises :class:`NoAccelerator`, saying why, if there is none; the host is one for a rehearsal alone.
        """
        reasons = []
        for each in [name] if name != AUTO else known():
            try:
                backend = select(each)
            except (BackendUnavailableError, ValueError) as error:
                reasons.append(str(error))
                continue
            if backend.device_type != "cpu" or rehearsal:
                return cls(backend, rehearsal, folder)
        said = "; ".join(reasons) or f"{name} is the host"
        raise NoAccelerator(f"no accelerator is found here ({said}); --rehearse runs all on the host")

    @property
    def device(self) -> torch.device:
        kind = self.backend.device_type
        return torch.device(kind) if kind == "cpu" else torch.device(kind, torch.accelerator.current_device_index())

    def allocated(self) -> int:
        """Bytes of tensors, of the allocator's own count alone: the driver's takes time that would be measured."""
        if self.backend.device_type == "cpu":
            return self.backend.memory().allocated
        return int(torch.get_device_module(self.device).memory_allocated())

    def generator(self, seed: int = 0) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def rand(self, *shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype, device=self.device, generator=self.generator(seed))

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers in double precision (what is boolean stays so), on the host if the device does not compute in it."""
        x = x if self.backend.device_type in DOUBLE else x.cpu()
        return x.double() if x.is_floating_point() else x

    def answers(self) -> None:
        torch.zeros(1, device=self.device).add_(1)
        self.backend.synchronize()

    def release(self) -> None:
        self.kept.clear()
        gc.collect()
        if self.backend.device_type != "cpu":
            torch.get_device_module(self.device).empty_cache()

    # -- time

    def mark(self) -> Any:
        """A point in the device's own order of work; on the host, now."""
        if not self.backend.asynchronous:
            return time.perf_counter()
        event = torch.get_device_module(self.device).Event(enable_timing=True)
        event.record()
        return event

    def ms(self, first: Any, last: Any) -> float:
        """Between two marks; the device must have passed both (``backend.synchronize()``)."""
        taken = (last - first) * 1e3 if isinstance(first, float) else first.elapsed_time(last)
        return float(taken)

    def batches(
        self, turns: Mapping[str, Callable[[int], Any]], rounds: int = 7, calls: int = QUEUE, keep: int = 0
    ) -> dict[str, dict[str, float]]:
        """Name -> median ms of a call on the device and µs of it on the host, all in turns within every round.

        ``calls`` of one contender are queued behind other work that is long enough for the host to be done with
        them, so that a small kernel is not measured by the host's time to launch it. ``keep`` results stay alive, so
        that the next ones are written elsewhere.
        """
        results: deque[Any] = deque(maxlen=keep)
        host: dict[str, list[float]] = {name: [] for name in turns}
        device: dict[str, list[float]] = {name: [] for name in turns}
        names, busy = list(turns), self.busy()
        for name in names:  # compiles, tunes, fills the allocator's pool
            for i in range(3):
                turns[name](i)
            self.backend.synchronize()
            started = time.perf_counter()
            turns[name](0)
            host[name].append(time.perf_counter() - started)
        for r in range(rounds):
            for name in (names[r % len(names) :] + names[: r % len(names)])[:: -1 if r % 2 else 1]:
                busy(calls * max(host[name]))
                first, started = self.mark(), time.perf_counter()
                for i in range(calls):
                    results.append(turns[name](i))
                host[name].append((time.perf_counter() - started) / calls)
                last = self.mark()
                self.backend.synchronize()
                device[name].append(self.ms(first, last) / calls)
        return {name: {"ms": median(device[name]), "host_us": median(host[name][1:]) * 1e6} for name in names}

    def busy(self) -> Callable[[float], None]:
        """Keeps the device at work for at least the given seconds."""
        if not self.backend.asynchronous:
            return lambda seconds: None
        size = 8 if self.rehearsal else 8192
        x = torch.zeros(size, size, dtype=torch.float16, device=self.device)
        y = torch.empty_like(x)
        torch.mm(x, x, out=y)
        first = self.mark()
        torch.mm(x, x, out=y)
        last = self.mark()
        self.backend.synchronize()
        one = self.ms(first, last) / 1e3

        def busy(seconds: float) -> None:
            # Three times: a second thread of the driver may be slower at launching than the first at preparing.
            for _ in range(min(200, 2 + int(3 * seconds / one))):
                torch.mm(x, x, out=y)

        return busy

    # -- what every page says

    def stamp(self, command: str) -> dict[str, Any]:
        return {
            "rehearsal": self.rehearsal,
            "device": self.backend.hardware(),
            "backend": self.backend.name,
            "driver": driver(self.backend.device_type),
            "settings": " ".join(f"{name}={os.environ[name]}" for name in sorted(filter(SETTINGS.match, os.environ))),
            "host": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            "versions": versions(*VENDORS.get(self.backend.device_type, ()), *PACKAGES),
            "commit": os.environ.get("C4D_COMMIT") or commit(),
            "source": source(),
            "command": command,
            "date": date.today().isoformat(),
        }


def driver(device_type: str) -> str:
    if device_type not in DRIVERS or shutil.which(DRIVERS[device_type][0][0]) is None:
        return "unknown (no tool of its vendor)"
    command, wanted = DRIVERS[device_type]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [" ".join(said.split()) for said in re.findall(wanted, done.stdout)]
    return ", ".join(dict.fromkeys(found)) or f"{command[0]} says nothing"


def source() -> str:
    """A digest of what was measured and of what measured it: where a checkout is copied without its history."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "c4d").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]
