"""What people open: commands (`python -m analysis.plots`), notebooks, results. The code is in `fcdm.analysis`."""
