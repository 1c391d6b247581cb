"""``c4d generate`` as a script, for torchrun and for checkouts: the same options, whether c4d is installed or not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch is loaded: threads that spin while they wait make a shared CPU many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from c4d.cli.start import main

if __name__ == "__main__":
    sys.exit(main("generate"))
