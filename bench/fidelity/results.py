"""What was measured, case by case, in one JSON file: resumable, and enough to write the page again."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Measured:
    """One case at one sampler; every list has one value a clip."""

    sampler: str
    system: str
    method: str
    setting: str
    steps: int
    psnr: list[float]
    ssim: list[float]
    adheres: list[int]
    rows: list[float]
    entered: list[float]

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.system, self.method, self.setting) if part)

    @property
    def cost(self) -> float:
        return float(np.mean(self.rows))

    @property
    def quality(self) -> float:
        return float(np.mean(self.psnr))


@dataclass
class Results:
    """``setting`` must be the same in every run that adds to the file; ``facts`` holds what belongs to no case."""

    path: Path
    setting: dict[str, Any]
    stamps: list[list[str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    cases: list[Measured] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path, setting: dict[str, Any] | None = None) -> Results:
        """What the file holds, or nothing yet; refuses to mix it with another ``setting`` (None: whatever is there)."""
        if not path.exists():
            if setting is None:
                raise SystemExit(f"{path} does not exist: measure first")
            return cls(path, setting)
        kept = json.loads(path.read_text())
        if setting is not None and kept["setting"] != setting:
            raise SystemExit(f"{path} was measured with {kept['setting']}, not {setting}: choose another --out")
        cases = [
            Measured(**{**case, "psnr": [math.inf if x is None else x for x in case["psnr"]]}) for case in kept["cases"]
        ]
        return cls(path, kept["setting"], kept["stamps"], kept["facts"], cases)

    def save(self) -> None:
        """All or nothing, a line a case. JSON has no infinity: the PSNR of an identical clip is null."""
        head = {"setting": self.setting, "stamps": self.stamps, "facts": self.facts}
        finite = [{**asdict(c), "psnr": [None if math.isinf(x) else x for x in c.psnr]} for c in self.cases]
        cases = ",\n".join(json.dumps(case, allow_nan=False) for case in finite)
        text = json.dumps(head, indent=1)[:-2] + f',\n "cases": [\n{cases}\n ]\n}}\n'
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, self.path)

    def of(self, sampler: str, *systems: str) -> list[Measured]:
        return [c for c in self.cases if c.sampler == sampler and (not systems or c.system in systems)]

    def has(self, sampler: str, name: str) -> bool:
        return any(case.name == name for case in self.of(sampler))
