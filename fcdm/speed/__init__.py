"""How fast models train and are evaluated on a device, and what was to be expected: `python -m fcdm.benchmark`."""
