"""``python -m megafs`` is ``megafs``."""

import sys

from megafs.cli import main

if __name__ == "__main__":
    sys.exit(main())
