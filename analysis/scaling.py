"""`python -m analysis.scaling`: see `fcdm.analysis.scaling`."""

import sys

from fcdm.analysis.scaling import main

if __name__ == "__main__":
    sys.exit(main())
