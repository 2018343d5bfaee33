"""`python -m driftspec` is `run-spec`."""

import sys

from driftspec.cli import main

if __name__ == "__main__":
    sys.exit(main())
