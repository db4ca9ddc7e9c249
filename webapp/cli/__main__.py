"""`python -m webapp.cli`, the same as `roost`."""

import sys

from webapp.cli import main

if __name__ == "__main__":
    sys.exit(main())
