"""`python -m analysis.plots`: see `fcdm.analysis.plots`."""

from fcdm.analysis.plots import main

if __name__ == "__main__":
    raise SystemExit(main())
