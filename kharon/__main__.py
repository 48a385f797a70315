"""`python -m kharon`: the command."""

import sys

from kharon.cli import main

if __name__ == "__main__":
    sys.exit(main())
