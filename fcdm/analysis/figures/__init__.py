"""The figures of a paper."""
