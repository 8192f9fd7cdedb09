"""Forwards records to MLflow, one way."""
