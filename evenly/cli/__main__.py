"""`python -m evenly.cli`: the same as `evenly`."""

import sys

from evenly.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
