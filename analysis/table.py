"""`python -m analysis.table`: see `fcdm.analysis.table`."""

from fcdm.analysis.table import main

if __name__ == "__main__":
    raise SystemExit(main())
