"""`python -m analysis.claims`: see `fcdm.analysis.claims`."""

import sys

from fcdm.analysis.claims import main

if __name__ == "__main__":
    sys.exit(main())
