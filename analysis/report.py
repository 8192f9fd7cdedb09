"""`python -m analysis.report`: see `fcdm.analysis.report`."""

from fcdm.analysis.report import main

if __name__ == "__main__":
    raise SystemExit(main())
