"""`python -m analysis.table`: see `fcdm.analysis.data.tidy_table`."""

import sys

from fcdm.analysis.table import main

if __name__ == "__main__":
    sys.exit(main())
