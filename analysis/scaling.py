"""`python -m analysis.scaling`: see `fcdm.analysis.scaling`."""

from fcdm.analysis.scaling import main

if __name__ == "__main__":
    raise SystemExit(main())
