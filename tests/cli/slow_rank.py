"""``launch/infer.py``, of which the first rank takes SECONDS longer to make a prompt (tests/cli/test_ranks.py)."""

from __future__ import annotations

import os
import sys
import time

from c4d.cli import command
from c4d.cli.main import main


def slowly(*given, **named):
    time.sleep(float(os.environ["SECONDS"]))
    return plainly(*given, **named)


if __name__ == "__main__":
    plainly = command.produce
    if os.environ["RANK"] == "0":
        command.produce = slowly
    try:
        sys.exit(main(["generate", *sys.argv[1:]]))
    finally:
        command.produce = plainly  # these ranks run other programs too
