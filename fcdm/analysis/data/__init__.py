"""Tidy tables of what was measured, out of runs' folders or an MLflow store."""
