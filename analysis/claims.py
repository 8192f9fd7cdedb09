"""`python -m analysis.claims`: see `fcdm.analysis.claims`."""

from fcdm.analysis.claims import main

if __name__ == "__main__":
    raise SystemExit(main())
