"""``python -m c4d``: the command line."""

import sys

from c4d.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
