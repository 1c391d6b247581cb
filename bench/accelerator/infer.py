"""launch/infer.py, and then how much its device held: ``python -m bench.accelerator.infer FILE --backend NAME …``."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

from bench.stamp import ROOT


def main() -> None:
    kept, first = Path(sys.argv.pop(1)), os.environ.get("RANK", "0") == "0"
    if first:
        kept.unlink(missing_ok=True)
    try:
        runpy.run_path(str(ROOT / "launch" / "infer.py"), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    if not first:
        return
    from c4d.backends import load

    memory = load(sys.argv[sys.argv.index("--backend") + 1]).memory()
    kept.write_text(json.dumps(memory._asdict()))


if __name__ == "__main__":
    main()
