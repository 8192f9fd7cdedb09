"""`python -m analysis.report`: see `fcdm.analysis.report`."""

import sys

from fcdm.analysis.report import main

if __name__ == "__main__":
    sys.exit(main())
