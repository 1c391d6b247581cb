"""What was measured and tried, in a file that is written after each."""

from __future__ import annotations

import json
from pathlib import Path

from c4d.pipelines.output import write_text


class Results:
    """Rows by (yardstick, sampler, name); ``tuned`` has what each setting did on the calibration prompts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {"stamps": [], "rows": {}, "tuned": {}}
        self.stamps, self.rows, self.tuned = found["stamps"], found["rows"], found["tuned"]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = {"stamps": self.stamps, "rows": self.rows, "tuned": self.tuned}
        write_text(self.path, json.dumps(found, indent=0) + "\n")
