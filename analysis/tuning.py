"""`python -m analysis.tuning`: see `fcdm.analysis.tuning`."""

import sys

from fcdm.analysis.tuning import main

if __name__ == "__main__":
    sys.exit(main())
