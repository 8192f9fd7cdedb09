"""Scaling laws and what they foretell: forms, fits, predictive distributions and their scores; no files."""
