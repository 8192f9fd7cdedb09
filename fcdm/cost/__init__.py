"""What models cost, by formula: parameters, MACs, FLOPs, memory. Torch-free. `python -m fcdm.cost` prints a table."""
