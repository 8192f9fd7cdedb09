"""`python -m analysis.plots`: see `fcdm.analysis.plots`."""

import sys

from fcdm.analysis.plots import main

if __name__ == "__main__":
    sys.exit(main())
