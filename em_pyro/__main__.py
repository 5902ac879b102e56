"""The command line: `python -m em_pyro`."""

import sys

from .cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
