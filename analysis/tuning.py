"""`python -m analysis.tuning`: see `fcdm.analysis.tuning`."""

from fcdm.analysis.tuning import main

if __name__ == "__main__":
    raise SystemExit(main())
