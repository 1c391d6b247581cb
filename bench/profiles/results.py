"""What was measured and tried, in a file that is written after each."""

from __future__ import annotations

import json
from pathlib import Path


class Results:
    """Rows by (yardstick, sampler, name); ``tuned`` has what each setting did on the calibration prompts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {"stamps": [], "rows": {}, "tuned": {}}
        self.stamps, self.rows, self.tuned = found["stamps"], found["rows"], found["tuned"]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps({"stamps": self.stamps, "rows": self.rows, "tuned": self.tuned}, indent=0) + "\n")
        beside.replace(self.path)
